"""Records and control: who traces what, verified as a whole, and a switch that has no off."""

import errno
import re
import struct
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from patcher.errors import (
    CompareError,
    DisabledError,
    ModuleError,
    NoModuleError,
    NoSiteError,
    PatchError,
    ReachError,
    ReadError,
    StateError,
    WriteError,
)  # fmt: skip
from patcher.ftrace import elf_module, records
from patcher.ftrace import mappings as maps
from patcher.ftrace.bug import Bug
from patcher.ftrace.control import Ftrace, Status
from patcher.ftrace.mappings import Range
from patcher.ftrace.modules import Kind, Module, Modules, ModuleState, Point
from patcher.ftrace.ops import Ops
from patcher.ftrace.records import Flags, Record, Verb
from patcher.memory.elffile import ElfFile
from patcher.modify import Batch, modify_batch
from patcher.protocols import breakpoint as breakpoint_
from patcher.protocols import nmi, stop_machine
from patcher.protocols.machine import Machine
from recordmcount import x86, x86_code, x86_nops
from tests.support import images
from tests.support.modules import (
    CALL,
    DEVICE,
    NOP,
    OTHER,
    SIZE,
    Clock,
    Memory,
    hook_at,
    loaded_at,
    mapping_of,
)

START = 0x7F00_0000_1000
OPEN, READ, SETUP = START, START + 0x10, START + 0x30
TRACER, OTHER_TRACER, LIST = START + 0x10_0000, START + 0x11_0000, START + 0x12_0000
FAR = START + (1 << 32)
RANGE, INODE = loaded_at(START).text[0], loaded_at(START).identity.inode


class Stoppable(Machine):
    """What happens when its CPUs are stopped, and when they run again, can be said."""

    on_stop: Callable[[], None] = staticmethod(lambda: None)
    on_resume: Callable[[], None] = staticmethod(lambda: None)

    def stop(self) -> None:
        self.on_stop()

    def resume(self) -> None:
        self.on_resume()


class World:
    """Memory of four modules' size, and an Ftrace over it that keeps what it reports."""

    def __init__(
        self,
        start: int = START,
        protocol: ModuleType = stop_machine,
        nops: Mapping[int, bytes] = records.NO_PREFERRED_NOPS,
    ) -> None:
        self.memory = Memory(start, 4 * SIZE)
        self.machine = Stoppable(self.memory)
        self.protocol = protocol
        self.bugs: list[Bug] = []
        self.batches: list[Batch] = []
        self.ftrace = Ftrace(
            Modules(lambda: self.memory.mappings, Clock()), self.modify,
            dispatcher=start + LIST - START, nops=nops, report=self.bugs.append,
        )  # fmt: skip

    def modify(self, batch: Batch) -> None:
        self.batches.append(batch)
        self.protocol.modify(self.machine, batch)

    def load(self, module: Module) -> Module:
        self.memory.map(module)
        self.ftrace.load(module)
        return module

    def live(self, module: Module) -> Module:
        self.load(module)
        self.ftrace.live(module)
        return module

    def at(self, address: int) -> bytes:
        at = address - self.memory.start
        return bytes(self.memory.text[at : at + 5])

    def record(self, address: int) -> Record:
        return self.ftrace.record(address)

    def calls(self, address: int, target: int) -> bool:
        return self.at(address) == x86_code.call(address, target)


def deviating(address: int = READ) -> World:
    """A live module in which someone has written into the site at `address`."""
    world = World()
    world.live(loaded_at(START))
    world.memory.poke(address + 4, b"\x55")
    return world


def thrown() -> World:
    """One whose switch is thrown."""
    world = deviating()
    with pytest.raises(CompareError):
        world.ftrace.register(Ops("tracer", TRACER))
    return world


# --- verbs ----------------------------------------------------------------------------------------

ONE, TWO = Ops("one", TRACER), Ops("two", OTHER_TRACER)


@pytest.mark.parametrize(
    ("flags", "target", "tracing", "verb"),
    [
        (Flags.NONE, None, [], Verb.IGNORE),
        (Flags.NONE, None, [ONE], Verb.MAKE_CALL),
        (Flags.NONE, None, [ONE, TWO], Verb.MAKE_CALL),
        (Flags.ENABLED, TRACER, [], Verb.MAKE_NOP),
        (Flags.ENABLED, TRACER, [ONE], Verb.IGNORE),
        (Flags.ENABLED, TRACER, [TWO], Verb.MODIFY_CALL),
        (Flags.ENABLED, TRACER, [ONE, TWO], Verb.MODIFY_CALL),
        (Flags.ENABLED, LIST, [ONE, TWO], Verb.IGNORE),
        (Flags.ENABLED, LIST, [TWO], Verb.MODIFY_CALL),
        (Flags.ENABLED, None, [Ops("as linked")], Verb.IGNORE),
        (Flags.ENABLED, None, [ONE], Verb.MODIFY_CALL),
    ],
)
def test_the_verb_follows_from_the_record_and_its_ops(
    flags: Flags, target: int | None, tracing: list[Ops], verb: Verb
) -> None:
    record = Record(loaded_at(START), loaded_at(START).points[0])
    record.target = target
    assert records.verb(record, tracing, LIST, flags) is verb
    assert records.verb(record, tracing, LIST, flags | Flags.DISABLED) is Verb.IGNORE


# --- modules --------------------------------------------------------------------------------------


def test_the_calls_of_a_coming_module_are_nops_before_its_code_runs() -> None:
    world = World()
    module = world.load(loaded_at(START))
    assert [world.at(point.address) for point in module.points] == [NOP] * 3
    assert [len(batch) for batch in world.batches] == [3]
    (status,) = world.ftrace.status().modules
    assert (status.calls, status.nops, status.disabled) == (0, 3, 3)
    with pytest.raises(NoModuleError, match="this one is coming"):
        world.record(OPEN)


def test_sites_that_are_nops_already_are_taken_as_such() -> None:
    world = World()
    world.load(loaded_at(START, code=NOP))
    assert world.batches == []


@pytest.mark.parametrize("family", x86_nops.NOP_FAMILIES)
def test_nops_are_those_of_the_processor_before_any_is_executed(family: str) -> None:
    nops = x86_nops.NOP_FAMILIES[family]
    marked = x86.CALL_GOT  # of its NOP the file can tell what it stood for
    got = Point(START + 0x18, marked.nop, CALL + b"\x90", marked.nop, "got", ("got",))
    points = (got, hook_at(START + 0x20, Kind.TRAMPOLINE), hook_at(START + 0x28, Kind.HOOK))
    sites, (_, trampoline, hook) = (OPEN, READ, SETUP, got.address), points
    world = World(nops=nops)
    module = world.load(loaded_at(START, extra=points))

    def is_off() -> bool:
        found = [world.memory.read(at, len(module.points[i].code)) for i, at in enumerate(sites)]
        return found == [nops[5], nops[5], nops[5], nops[6]]

    assert is_off()
    assert world.at(hook.address) == nops[5]
    assert world.at(trampoline.address) == CALL
    world.ftrace.live(module)
    assert (world.ftrace.status().calls, world.ftrace.status().nops) == (0, 4)
    world.ftrace.register(Ops("tracer", TRACER))
    world.ftrace.modify_jump(world.record(hook.address), TRACER)
    assert world.ftrace.status().calls == 4
    world.ftrace.unregister("tracer")
    world.ftrace.modify_jump(world.record(hook.address), None)
    assert is_off()
    assert world.at(hook.address) == nops[5]


def test_a_live_module_is_traced_by_the_ops_that_were_there_before() -> None:
    world = World()
    world.ftrace.register(Ops("tracer", TRACER, ("open", "setup")))
    module = world.live(loaded_at(START))
    assert world.calls(OPEN, TRACER)
    assert world.at(READ) == NOP
    assert world.calls(SETUP, TRACER)
    assert [world.record(point.address).users for point in module.points] == [1, 0, 1]
    assert world.record(OPEN).flags is Flags.ENABLED
    assert world.record(READ).flags is Flags.NONE


def test_freed_init_text_is_forgotten_and_whatever_is_there_then_is_not_touched() -> None:
    world = World()
    module = world.live(loaded_at(START))
    world.ftrace.free_init(module)
    world.memory.poke(SETUP, CALL)
    world.ftrace.register(Ops("tracer", TRACER))
    assert world.at(SETUP) == CALL
    assert world.calls(OPEN, TRACER)
    with pytest.raises(NoModuleError, match="init text was here"):
        world.record(SETUP)


def test_the_records_of_a_module_go_before_its_memory_and_its_text_is_not_restored() -> None:
    world = World()
    module = world.live(loaded_at(START))
    world.ftrace.register(Ops("tracer", TRACER))
    before = bytes(world.memory.text)
    world.ftrace.going(module)
    with pytest.raises(NoModuleError, match="going"):
        world.record(OPEN)
    world.ftrace.unregister("tracer")
    world.ftrace.unload(module)
    assert world.memory.text == before
    assert world.ftrace.status().modules == ()


def test_a_module_that_cannot_be_loaded_has_no_records_and_is_not_touched() -> None:
    world = World()
    module = loaded_at(START)
    world.memory.map(module, "r-xs")
    with pytest.raises(ModuleError, match="shared"):
        world.ftrace.load(module)
    assert world.at(OPEN) == CALL
    assert world.ftrace.status().modules == ()
    assert world.bugs == []


def test_a_module_may_fail_to_start() -> None:
    world = World()
    module = world.load(loaded_at(START))
    world.ftrace.going(module)
    world.ftrace.unload(module)
    world.ftrace.register(Ops("tracer", TRACER))
    assert world.at(OPEN) == NOP


def test_a_new_module_at_the_addresses_of_an_old_one_has_its_own_records() -> None:
    world = World()
    old = world.live(loaded_at(START, "old"))
    world.ftrace.register(Ops("tracer", TRACER))
    stale = world.record(OPEN)
    world.ftrace.going(old)
    world.ftrace.unload(old)
    world.live(loaded_at(START, "new"))
    assert world.record(OPEN) is not stale
    before = bytes(world.memory.text)
    with pytest.raises(NoModuleError, match="of a module that has gone; another is there now"):
        world.ftrace.make_nop(stale)
    assert world.memory.text == before
    assert world.bugs == []


# --- ops ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ops", "traced"),
    [
        (Ops("all"), "open read setup"),
        (Ops("a glob", filter=("*e*",)), "open read setup"),
        (Ops("a glob matches whole names", filter=("re",)), ""),
        (Ops("two globs", filter=("o*", "r?ad")), "open read"),
        (Ops("a regex", filter=(re.compile("open|setup"),)), "open setup"),
        (Ops("a regex matches whole names", filter=(re.compile("rea"),)), ""),
        (Ops("notrace", notrace=("r*",)), "open setup"),
        (Ops("notrace wins", filter=("*e*",), notrace=(re.compile(".*p.*"),)), "read"),
        (Ops("nothing", filter=("x",)), ""),
    ],
    ids=lambda value: value.name if isinstance(value, Ops) else None,
)
def test_filters_are_globs_and_regexes_and_notrace_wins(ops: Ops, traced: str) -> None:
    world = World()
    module = world.live(loaded_at(START))
    world.ftrace.register(ops)
    calling = [point.symbol for point in module.points if world.at(point.address) != NOP]
    assert " ".join(calling) == traced


def test_a_function_is_known_by_any_of_its_names_and_without_one_only_to_unfiltered_ops() -> None:
    assert Ops("u", filter=("alias",)).traces(("name", "alias"))
    assert not Ops("u", notrace=("alias",)).traces(("name", "alias"))
    assert Ops("u").traces(())
    assert not Ops("u", filter=("*",)).traces(())


def test_one_tracer_is_called_itself_and_several_by_the_dispatcher() -> None:
    world = World()
    world.live(loaded_at(START))
    register, unregister = world.ftrace.register, world.ftrace.unregister
    register(Ops("one", TRACER))
    assert world.calls(OPEN, TRACER)
    assert world.calls(READ, TRACER)
    register(Ops("two", OTHER_TRACER, ("open",)))
    assert world.calls(OPEN, LIST)
    assert world.calls(READ, TRACER)
    assert [world.record(at).users for at in (OPEN, READ)] == [2, 1]
    unregister("one")
    assert world.calls(OPEN, OTHER_TRACER)
    assert world.at(READ) == NOP
    unregister("two")
    assert world.at(OPEN) == NOP
    assert [world.record(at).users for at in (OPEN, READ)] == [0, 0]


def test_ops_without_a_target_have_the_call_as_it_was_linked() -> None:
    world = World()
    world.live(loaded_at(START))
    world.ftrace.register(Ops("profiler"))
    assert world.at(OPEN) == CALL


def test_an_update_is_one_batch_in_ascending_order_with_the_names_of_the_sites() -> None:
    world = World()
    for at in (SIZE, 0):
        world.live(loaded_at(START + at, f"m{at}"))
    world.batches.clear()
    world.ftrace.register(Ops("tracer", TRACER))
    (batch,) = world.batches
    assert list(batch.addresses) == sorted(batch.addresses)
    assert [change.symbol for change in batch] == ["open", "read", "setup"] * 2
    assert list(batch.old) == [NOP] * 6


def test_what_changes_no_code_is_no_batch() -> None:
    world = World()
    world.live(loaded_at(START))
    world.batches.clear()
    world.ftrace.register(Ops("nothing", TRACER, ("x",)))
    assert world.batches == []


def test_names_of_ops_are_unique() -> None:
    world = World()
    with pytest.raises(StateError, match="tracer: is not registered") as caught:
        world.ftrace.unregister("tracer")
    assert caught.value.errno == errno.EBUSY
    world.ftrace.register(Ops("tracer"))
    with pytest.raises(StateError, match="tracer: is registered already"):
        world.ftrace.register(Ops("tracer", TRACER))
    assert world.ftrace.status().ops == ("tracer",)


def test_a_target_out_of_reach_is_refused_before_anything_is_read_and_is_no_bug() -> None:
    world = World()
    world.live(loaded_at(START))
    reads = world.memory.reads
    with pytest.raises(ReachError) as caught:
        world.ftrace.register(Ops("far", FAR, ("read",)))
    assert str(caught.value) == (
        "/lib/drv.so: read (0x7f0000001010): 5 bytes cannot reach 0x7f0100001000 from here"
    )
    assert caught.value.errno == errno.ERANGE
    assert world.memory.reads == reads
    assert world.ftrace.status().ops == ()
    assert world.bugs == []
    world.ftrace.register(Ops("near", TRACER))
    assert world.calls(READ, TRACER)


def test_a_module_that_a_target_does_not_reach_stays_coming_with_its_nops() -> None:
    world = World()
    world.ftrace.register(Ops("far", FAR))
    module = world.load(loaded_at(START))
    with pytest.raises(ReachError):
        world.ftrace.live(module)
    assert world.ftrace.modules.states[module] is ModuleState.COMING
    assert world.at(OPEN) == NOP
    world.ftrace.unregister("far")
    world.ftrace.live(module)
    assert world.record(OPEN).flags is Flags.NONE


def test_in_32_bit_code_everything_is_in_reach() -> None:
    start = 0x0804_8000
    world = World(start)
    module = world.live(loaded_at(start, machine=x86.EM_386))
    target = 0xF7F0_0000
    world.ftrace.register(Ops("tracer", target))
    for point in module.points:
        opcode, distance = struct.unpack("<BI", world.at(point.address))
        assert opcode == x86.CALL.prefix[0]
        assert (point.address + 5 + distance) % (1 << 32) == target


@pytest.mark.parametrize("length", [6, 12, 13])
def test_a_site_of_any_length_is_called_in_its_length(length: int) -> None:
    linked = x86_code.call(OPEN, LIST, length)
    assert linked is not None
    site = Point(OPEN, linked, linked, x86_nops.NOPS[length], "open", ("open",))
    world = World()
    module = world.live(loaded_at(START, sites=(), extra=(site,)))
    for target in (TRACER, None):
        world.ftrace.register(Ops("tracer", target))
        expected = linked if target is None else x86_code.call(OPEN, target, length)
        assert world.memory.read(OPEN, length) == expected
        world.ftrace.unregister("tracer")
        assert world.memory.read(OPEN, length) == x86_nops.NOPS[length]
    assert module.points == (site,)


def test_an_absolute_call_keeps_the_register_that_its_compiler_chose() -> None:
    rcx = bytes.fromhex("48b9 1122334455667700 ffd1")  # movabs $..., %rcx; call *%rcx
    site = Point(OPEN, rcx, rcx, x86_nops.NOPS[12], "open", ("open",))
    world = World()
    world.live(loaded_at(START, sites=(), extra=(site,)))
    world.ftrace.register(Ops("tracer", FAR))
    expected = bytes.fromhex("48b9") + FAR.to_bytes(8, "little") + bytes.fromhex("ffd1")
    assert world.memory.read(OPEN, 12) == expected


# --- by hand --------------------------------------------------------------------------------------


def test_a_site_is_switched_by_hand() -> None:
    world = World()
    world.live(loaded_at(START))
    record = world.record(OPEN)
    world.ftrace.make_call(record, TRACER)
    assert world.calls(OPEN, TRACER)
    world.ftrace.modify_call(record, TRACER, OTHER_TRACER)
    assert world.calls(OPEN, OTHER_TRACER)
    world.ftrace.make_nop(record)
    assert world.at(OPEN) == NOP
    assert world.at(READ) == NOP


def test_what_was_switched_by_hand_is_as_ops_want_it_when_they_come_or_go() -> None:
    world = World()
    world.live(loaded_at(START))
    world.ftrace.register(Ops("tracer", TRACER, ("read",)))
    world.ftrace.make_call(world.record(OPEN), OTHER_TRACER)
    world.ftrace.make_nop(world.record(READ))
    world.ftrace.register(Ops("nothing", TRACER, ("x",)))
    assert world.at(OPEN) == NOP
    assert world.calls(READ, TRACER)


def test_a_trampoline_is_retargeted_and_its_hook_is_a_jump_or_a_nop() -> None:
    world = World()
    call, hook = START + 0x20, START + 0x28
    points = (hook_at(call, Kind.TRAMPOLINE), hook_at(hook, Kind.HOOK))
    world.live(loaded_at(START, extra=points))
    assert (world.at(call), world.at(hook)) == (CALL, NOP)  # no sites: they stay as linked
    world.ftrace.update_func(world.record(call), TRACER)
    assert world.calls(call, TRACER)
    for target in (TRACER, OTHER_TRACER):
        world.ftrace.modify_jump(world.record(hook), target)
        assert world.at(hook) == x86_code.jump(hook, target)
        assert world.record(hook).flags is Flags.ENABLED
    world.ftrace.modify_jump(world.record(hook), None)
    assert world.at(hook) == NOP
    world.ftrace.register(Ops("all", TRACER))  # is for functions
    assert world.at(hook) == NOP
    (status,) = world.ftrace.status().modules
    assert (status.calls, status.nops) == (3, 0)


def refusals(world: World) -> list[tuple[Callable[[], None], type[PatchError], str]]:
    """What may be asked for wrongly by hand: the request, its error, its reason."""
    ftrace = world.ftrace
    nop, call, hook = (world.record(START + at) for at in (0x00, 0x10, 0x28))
    return [
        (lambda: ftrace.make_nop(nop), StateError, "is a NOP already"),
        (lambda: ftrace.make_call(call, TRACER), StateError, "is a call already"),
        (
            lambda: ftrace.modify_call(call, OTHER_TRACER, TRACER), StateError,
            f"calls {TRACER:#x}, not {OTHER_TRACER:#x}",
        ),
        (lambda: ftrace.modify_call(nop, None, TRACER), StateError, "is a NOP already"),
        (lambda: ftrace.make_call(nop, FAR), ReachError, "cannot reach"),
        (lambda: ftrace.modify_jump(hook, FAR), ReachError, "cannot reach"),
        (lambda: ftrace.make_call(hook, TRACER), NoSiteError, "a hook, not a site"),
        (lambda: ftrace.modify_jump(nop, TRACER), NoSiteError, "a site, not a hook"),
        (lambda: ftrace.update_func(call, TRACER), NoSiteError, "a site, not a trampoline"),
        (lambda: print(ftrace.record(OPEN + 1)), NoSiteError, "no site of this module"),
        (lambda: print(ftrace.record(FAR)), NoModuleError, "none was ever here"),
    ]  # fmt: skip


@pytest.mark.parametrize("number", range(11))
def test_what_is_asked_for_wrongly_is_refused_and_is_no_bug(number: int) -> None:
    world = World()
    world.live(loaded_at(START, extra=(hook_at(START + 0x28, Kind.HOOK),)))
    world.ftrace.make_call(world.record(READ), TRACER)
    before, reads = bytes(world.memory.text), world.memory.reads
    request, kind, why = refusals(world)[number]
    with pytest.raises(kind, match=why):
        request()
    assert (bytes(world.memory.text), world.memory.reads) == (before, reads)
    assert (world.bugs, world.ftrace.status().is_disabled) == ([], False)


def test_a_site_of_a_module_that_is_not_live_yet_is_not_touched_by_hand() -> None:
    world = World()
    module = world.load(loaded_at(START))
    record = Record(module, module.points[0])  # nobody gives us one
    with pytest.raises(NoModuleError, match="coming"):
        world.ftrace.make_call(record, TRACER)
    assert world.at(OPEN) == NOP


# --- deviations -----------------------------------------------------------------------------------


def test_a_deviation_is_reported_once_with_all_there_is_to_know() -> None:
    world = World()
    world.live(loaded_at(START))
    world.ftrace.register(Ops("one", TRACER))
    world.memory.poke(READ, bytes.fromhex("f0480fb10f"))  # the last defence of 2008, a cmpxchg
    with pytest.raises(CompareError):
        world.ftrace.register(Ops("two", OTHER_TRACER, ("read",)))
    (bug,) = world.bugs
    assert (
        str(bug)
        == """\
ftrace: memory: read (0x7f0000001010): f0 48 0f b1 0f stands here, not e8 eb ff 0f 00
  errno      EINVAL
  address    0x7f0000001010
  symbol     read
  module     /lib/drv.so (build-id 647276, load bias 0x7f0000001000)
  operation  MODIFY_CALL
  actual     f0 48 0f b1 0f  lock cmpxchg qword ptr [rdi], rcx
  expected   e8 eb ff 0f 00  call 0x7f0000101000
  flags      ENABLED
  users      1"""
    )
    assert world.ftrace.status().bug == bug


def test_a_site_of_32_bit_code_is_decoded_as_such() -> None:
    world = World(0x1000)
    world.live(loaded_at(0x1000, machine=x86.EM_386))
    world.memory.poke(0x1010, bytes.fromhex("4090909090"))
    with pytest.raises(CompareError):
        world.ftrace.register(Ops("tracer", 0x2000))
    assert "actual     40 90 90 90 90  inc eax; nop" in str(world.bugs[0])


@pytest.mark.parametrize(
    ("fault", "kind", "name"),
    [("unreadable", ReadError, "EFAULT"), ("unwritable", WriteError, "EPERM")],
)
def test_a_fault_is_a_bug_like_other_bytes(fault: str, kind: type[PatchError], name: str) -> None:
    world = World()
    world.live(loaded_at(START))
    getattr(world.memory, fault).add(READ)
    with pytest.raises(kind):
        world.ftrace.register(Ops("tracer", TRACER))
    (bug,) = world.bugs
    assert (bug.errno, bug.address, bug.symbol, bug.operation) == (name, READ, "read", "MAKE_CALL")
    assert f"  actual     unknown\n  expected   {NOP.hex(' ')}  nop " in str(bug)
    assert "\n  flags      none\n" in str(bug)


def test_a_write_that_is_lost_is_a_bug_that_says_what_was_written() -> None:
    world = World()
    world.live(loaded_at(START))
    world.memory.deaf.add(READ)
    with pytest.raises(WriteError, match="reads back otherwise than it was written"):
        world.ftrace.register(Ops("tracer", TRACER))
    (bug,) = world.bugs
    assert (bug.errno, bug.symbol, bug.operation) == ("EPERM", "read", "MAKE_CALL")
    assert (bug.actual, bug.expected) == (NOP, (x86_code.call(READ, TRACER),))


@pytest.mark.parametrize("fault", ["unwritable", "deaf"])
def test_a_fault_inside_of_a_site_is_a_bug_of_that_site(fault: str) -> None:
    world = World(protocol=breakpoint_)
    world.live(loaded_at(START))
    getattr(world.memory, fault).add(READ + 1)  # where the other bytes go
    with pytest.raises(WriteError) as caught:
        world.ftrace.register(Ops("tracer", TRACER))
    if fault == "deaf":  # an error of ours, not of the memory's
        assert caught.value.symbol == "read"
    (bug,) = world.bugs
    assert (bug.errno, bug.address, bug.symbol) == ("EPERM", READ, "read")
    assert world.at(READ) == NOP  # and no breakpoint


def test_one_deviating_site_keeps_all_others_from_being_written() -> None:
    world = deviating(SETUP)
    before = bytes(world.memory.text)
    written = len(world.memory.written)
    with pytest.raises(CompareError):
        world.ftrace.register(Ops("tracer", TRACER))
    assert world.memory.text == before
    assert len(world.memory.written) == written


def test_a_failure_of_a_whole_batch_is_a_bug_as_well() -> None:
    def unserialised(batch: Batch) -> None:
        raise WriteError("memory", "not serialised")

    bugs: list[Bug] = []
    module = loaded_at(START)
    ftrace = Ftrace(Modules(lambda: [mapping_of(module)]), unserialised, report=bugs.append)
    with pytest.raises(WriteError):
        ftrace.load(module)
    assert list(map(str, bugs)) == [
        "ftrace: memory: not serialised\n  errno      EPERM\n  changes    3"
    ]


def test_an_interrupt_while_code_is_changed_throws_the_switch_too() -> None:
    def interrupted(batch: Batch) -> None:
        raise KeyboardInterrupt

    module = loaded_at(START)
    ftrace = Ftrace(Modules(lambda: [mapping_of(module)]), interrupted)
    with pytest.raises(KeyboardInterrupt):
        ftrace.load(module)
    with pytest.raises(DisabledError, match="KeyboardInterrupt"):
        ftrace.register(Ops("tracer"))


def busy(_machine: Machine, batch: Batch) -> None:
    raise StateError("memory", "a CPU stands inside", address=batch.addresses[0])


BUSY = SimpleNamespace(modify=busy)


def test_a_module_with_a_cpu_inside_a_site_is_coming_as_before_and_goes_live_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    world.ftrace.register(Ops("tracer", TRACER))
    module = world.load(loaded_at(START))
    with monkeypatch.context() as now:
        now.setattr(world, "protocol", BUSY)
        with pytest.raises(StateError, match="a CPU stands inside"):
            world.ftrace.live(module)
    assert world.ftrace.modules.states[module] is ModuleState.COMING
    world.ftrace.live(module)
    assert world.calls(OPEN, TRACER)


def test_a_module_with_a_cpu_inside_a_site_is_not_loaded_and_may_be_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    module = loaded_at(START)
    world.memory.map(module)
    with monkeypatch.context() as now:
        now.setattr(world, "protocol", BUSY)
        with pytest.raises(StateError, match="a CPU stands inside"):
            world.ftrace.load(module)
    assert world.ftrace.status().modules == ()
    assert world.at(OPEN) == CALL
    world.ftrace.load(module)
    assert world.at(OPEN) == NOP


def test_a_module_cannot_go_live_twice_and_what_was_done_by_hand_stays() -> None:
    world = World()
    module = world.live(loaded_at(START))
    world.ftrace.make_call(world.record(OPEN), TRACER)
    with pytest.raises(StateError, match="not coming, but live"):
        world.ftrace.live(module)
    assert world.calls(OPEN, TRACER)


def test_a_cpu_inside_a_site_is_no_deviation_and_it_may_be_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    world.live(loaded_at(START))
    with monkeypatch.context() as now:
        now.setattr(world, "protocol", BUSY)
        with pytest.raises(StateError, match="a CPU stands inside"):
            world.ftrace.register(Ops("tracer", TRACER))
    assert world.bugs == []
    assert world.ftrace.status().ops == ()
    world.ftrace.register(Ops("tracer", TRACER))
    assert world.calls(OPEN, TRACER)


def test_nothing_is_undone_and_a_user_that_could_not_be_registered_is_none() -> None:
    world = World()
    world.live(loaded_at(START))
    world.memory.unwritable.add(READ)
    with pytest.raises(WriteError):
        world.ftrace.register(Ops("tracer", TRACER))
    assert world.calls(OPEN, TRACER)  # what was written before the fault
    assert world.at(READ) == world.at(SETUP) == NOP
    assert world.ftrace.status().ops == ()


def test_a_user_that_could_not_be_unregistered_still_is_one() -> None:
    world = World()
    world.live(loaded_at(START))
    world.ftrace.register(Ops("tracer", TRACER))
    world.memory.poke(READ, OTHER)
    with pytest.raises(CompareError):
        world.ftrace.unregister("tracer")
    assert world.calls(OPEN, TRACER)
    assert world.ftrace.status().ops == ("tracer",)


def test_a_deviation_of_a_coming_module_leaves_it_as_it_is_linked() -> None:
    world = World()
    module = loaded_at(START)
    world.memory.map(module)
    world.memory.poke(READ, OTHER)
    with pytest.raises(CompareError):
        world.ftrace.load(module)
    assert world.at(OPEN) == CALL
    world.ftrace.live(module)
    assert world.record(OPEN).flags is Flags.ENABLED | Flags.DISABLED
    assert len(world.bugs) == 1


def test_a_deviation_on_going_live_leaves_the_module_live_and_untouched() -> None:
    world = World()
    world.ftrace.register(Ops("tracer", TRACER))
    module = world.load(loaded_at(START))
    world.memory.poke(SETUP, OTHER)
    with pytest.raises(CompareError):
        world.ftrace.live(module)
    assert world.ftrace.modules.states[module] is ModuleState.LIVE
    assert world.record(OPEN).flags is Flags.DISABLED
    assert world.at(OPEN) == NOP


def test_a_module_that_went_behind_our_back_is_a_bug_and_nothing_is_written() -> None:
    world = World()
    module = world.live(loaded_at(START))
    world.ftrace.modules.unload(module)
    written = len(world.memory.written)
    with pytest.raises(NoModuleError, match="it was here until it went at 2008-10-09"):
        world.ftrace.register(Ops("tracer", TRACER))
    assert len(world.memory.written) == written
    (bug,) = world.bugs
    assert (bug.errno, bug.address, bug.operation) == ("ENOENT", OPEN, "MAKE_CALL")


def test_a_module_that_was_replaced_behind_our_back_is_a_bug_and_nothing_is_written() -> None:
    world = World()
    old, new = world.live(loaded_at(START, "old")), loaded_at(START, "new", ((0x00, "open"),))
    modules = world.ftrace.modules
    modules.unload(old)
    world.memory.map(new)
    modules.load(new)
    modules.live(new)
    written = len(world.memory.written)
    with pytest.raises(NoModuleError, match=r"old.so: open .* has gone; another is there now"):
        world.ftrace.register(Ops("tracer", TRACER))
    assert len(world.memory.written) == written
    assert len(world.bugs) == 1


@pytest.mark.parametrize(
    ("instead", "why"),
    [
        (maps.Mapping(RANGE, "rw-s", 5, 1033, "/dev/mem"), "is a device"),
        (maps.Mapping(RANGE, "r-xp", 0, 0), "is anonymous"),
        (maps.Mapping(RANGE, "r-xp", DEVICE, 1, "/lib/new.so"), "is a mapping of another file"),
        (
            maps.Mapping(Range(START, START + 0x20), "r-xp", DEVICE, INODE),
            "is not inside one mapping",
        ),
    ],
)
@pytest.mark.parametrize("protocol", [stop_machine, nmi, breakpoint_])
def test_what_took_the_place_of_a_module_that_went_without_a_word_is_not_even_read(
    protocol: ModuleType, instead: maps.Mapping, why: str
) -> None:
    world = World(protocol=protocol)
    world.live(loaded_at(START))
    world.memory.take(instead)
    before, reads = bytes(world.memory.text), world.memory.reads
    with pytest.raises(ReadError, match=f"open .* no longer text: {RANGE} {why}"):
        world.ftrace.register(Ops("tracer", TRACER))
    assert (bytes(world.memory.text), world.memory.reads) == (before, reads)
    (bug,) = world.bugs
    assert (bug.errno, bug.address, bug.symbol, bug.operation) == (
        "EFAULT", OPEN, "open", "MAKE_CALL",
    )  # fmt: skip
    assert "\n  actual     unknown\n" in str(bug)


def test_only_the_ranges_in_which_something_changes_must_still_be_text() -> None:
    world = World()
    world.live(loaded_at(START))
    world.memory.mappings = [world.memory.mappings[0]._replace(range=RANGE)]  # but for init text
    world.ftrace.register(Ops("tracer", TRACER, ("open",)))
    assert world.calls(OPEN, TRACER)
    with pytest.raises(ReadError, match=r"setup .* is not mapped"):
        world.ftrace.register(Ops("all", TRACER))


@pytest.mark.parametrize("protocol", [stop_machine, nmi])
def test_the_mappings_are_those_of_the_time_when_all_cpus_are_stopped(protocol: ModuleType) -> None:
    device = maps.Mapping(RANGE, "rw-s", 5, 1033, "/dev/mem")
    world = World(protocol=protocol)
    world.live(loaded_at(START))
    world.machine.on_stop = lambda: world.memory.take(device)
    before = bytes(world.memory.text)
    with pytest.raises(ReadError, match="is a device"):
        world.ftrace.register(Ops("tracer", TRACER))
    assert world.memory.text == before


@pytest.mark.parametrize("protocol", [stop_machine, nmi])
def test_all_is_read_back_before_the_cpus_run_again(protocol: ModuleType) -> None:
    device = maps.Mapping(RANGE, "rw-s", 5, 1033, "/dev/mem")
    world = World(protocol=protocol)
    world.live(loaded_at(START))
    reads = world.memory.reads
    world.machine.on_resume = lambda: world.memory.take(device)
    world.ftrace.register(Ops("tracer", TRACER))
    assert world.memory.reads == reads + 6  # 3 before the write and 3 behind it: none of the device
    assert not world.bugs


# --- the switch -----------------------------------------------------------------------------------


def test_once_thrown_the_switch_refuses_everything_that_touches_code_and_says_why() -> None:
    world = thrown()
    record = world.record(OPEN)
    world.memory.poke(READ, NOP)  # that all is well again does not matter
    before, reads, ftrace = bytes(world.memory.text), world.memory.reads, world.ftrace
    requests: list[Callable[[], None]] = [
        lambda: ftrace.register(Ops("tracer", TRACER)),
        lambda: ftrace.register(Ops("no site", TRACER, ("x",))),
        lambda: ftrace.unregister("tracer"),
        lambda: ftrace.make_nop(record),
        lambda: ftrace.make_call(record, TRACER),
        lambda: ftrace.modify_call(record, None, TRACER),
        lambda: ftrace.modify_call(record, OTHER_TRACER, TRACER),
        lambda: ftrace.update_func(record, TRACER),
        lambda: ftrace.modify_jump(record, TRACER),
    ]
    for request in requests:
        with pytest.raises(DisabledError) as caught:
            request()
        assert caught.value.errno == errno.ENODEV
        assert str(caught.value) == (
            "ftrace: disabled for good after: memory: read (0x7f0000001010): "
            "0f 1f 44 00 55 stands here, not 0f 1f 44 00 00"
        )
    assert (bytes(world.memory.text), world.memory.reads) == (before, reads)
    assert len(world.bugs) == 1


def test_once_thrown_modules_still_come_and_go_and_stay_as_they_were_linked() -> None:
    world = thrown()
    reads = world.memory.reads
    module = world.live(loaded_at(START + SIZE, "second"))
    assert world.at(START + SIZE) == CALL
    status = world.ftrace.status().modules[1]
    assert (status.calls, status.nops, status.disabled) == (3, 0, 3)
    world.ftrace.free_init(module)
    world.ftrace.going(module)
    with pytest.raises(NoModuleError, match="going"):
        world.record(START + SIZE)
    world.ftrace.unload(module)
    assert len(world.ftrace.status().modules) == 1
    assert world.memory.reads == reads


def test_status_says_that_it_is_disabled_and_why() -> None:
    assert World().ftrace.status().bug is None
    status = thrown().ftrace.status()
    assert status.is_disabled
    assert status.bug is not None
    assert (status.bug.symbol, status.bug.errno) == ("read", "EINVAL")


# --- a real program -------------------------------------------------------------------------------


def test_a_program_runs_with_just_the_functions_that_are_traced(tmp_path: Path) -> None:
    built = images.build(tmp_path, flags=("-fno-pic", "-mfentry"), link=("-no-pie",))
    module = elf_module.read(str(built.image))
    (text,) = module.text
    mapping = maps.Mapping(text, "r-xp", module.identity.device, module.identity.inode)
    with ElfFile(str(built.image)) as file:
        ftrace = Ftrace(Modules(lambda: [mapping]), partial(modify_batch, file))
        ftrace.load(module)
        ftrace.live(module)
        ftrace.register(Ops("counter", filter=("e*", re.compile("od+|work")), notrace=("even",)))
        file.commit()
    assert images.calls(built) == 3  # of work 1, of odd 2; twice and even are not traced
    states = {
        point.symbol: point.code == point.call for point in elf_module.read(str(built.image)).points
    }
    assert states == {"work": True, "odd": True, "even": False, "twice": False}


# --- statistics -----------------------------------------------------------------------------------


def test_status_counts_sites_in_each_state_updates_and_changes() -> None:
    world = World()
    world.live(loaded_at(START))
    world.load(loaded_at(START + SIZE, "second"))
    world.ftrace.register(Ops("tracer", TRACER, ("open",)))
    status = world.ftrace.status()
    assert [
        (each.path, each.build_id, each.state, each.calls, each.nops, each.disabled)
        for each in status.modules
    ] == [
        ("/lib/drv.so", b"drv", ModuleState.LIVE, 1, 2, 0),
        ("/lib/second.so", b"second", ModuleState.COMING, 0, 3, 3),
    ]
    assert (status.calls, status.nops, status.disabled) == (1, 5, 3)
    assert (status.ops, status.updates, status.changes) == (("tracer",), 3, 7)
    assert (status.nmi_wait_count, status.nmi_update_count) == (0, 0)


def test_what_nmis_did_is_counted_by_the_protocol_and_told_by_status() -> None:
    memory = Memory(START, SIZE)
    machine = Machine(memory)
    ftrace = Ftrace(
        Modules(lambda: memory.mappings),
        partial(nmi.modify, machine),
        statistics=machine.statistics,
    )
    module = loaded_at(START)
    memory.map(module)
    ftrace.load(module)
    assert memory.read(OPEN, 5) == NOP
    machine.count(nmi.WAITS)
    machine.statistics[nmi.UPDATES] += 2
    status = ftrace.status()
    assert isinstance(status, Status)
    assert (status.nmi_wait_count, status.nmi_update_count) == (1, 2)


@pytest.mark.parametrize("tracing", [[], [ONE], [ONE, TWO]])
def test_planning_changes_nothing(tracing: list[Ops]) -> None:
    record = Record(loaded_at(START), loaded_at(START).points[0])
    before = (record.flags, record.users, record.code, record.target)
    records.plan(record, tracing, LIST, Flags.ENABLED)
    assert (record.flags, record.users, record.code, record.target) == before
