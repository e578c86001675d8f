"""The three protocols on real machines: what they write, in what order, and what faults leave."""

import errno
import threading
import time
from collections.abc import Callable, Collection
from functools import partial
from types import ModuleType

import pytest

from patcher.errors import (
    CompareError,
    PatchError,
    ReadError,
    StandingError,
    StateError,
    WriteError,
)
from patcher.ftrace.control import Ftrace
from patcher.ftrace.modules import Modules
from patcher.ftrace.ops import Ops
from patcher.memory.buffer import Buffer
from patcher.modify import Batch, Change
from patcher.protocols import breakpoint as int3
from patcher.protocols import nmi, stop_machine
from patcher.protocols.machine import Machine
from recordmcount import x86_code, x86_nops
from tests.support import modules

FIRST, SECOND = 0x1000, 0x1010
CALL, NOP = bytes.fromhex("e811223344"), bytes.fromhex("0f1f440000")
BATCH = Batch.of([Change(FIRST, CALL, NOP, "one+0x0"), Change(SECOND, CALL, NOP, "two+0x4")])
ERRORS = [WriteError, OSError, ZeroDivisionError, KeyboardInterrupt]
PROTOCOLS: list[ModuleType] = [stop_machine, nmi, int3]
Fault = Callable[[], None]


class Traced(Machine):
    """A machine that tells what it did, and lets one of its acts, or all from it on, fail."""

    def __init__(self, batch: Batch = BATCH) -> None:
        self.acts: list[str] = []
        self.fails_at = -1
        self.for_ever = False
        self.error: type[BaseException] = WriteError
        self.pointers: Collection[int] | None = None  # None: nobody is to ask
        self.before_write: Callable[[], None] = lambda: None
        end = max(change.address + len(change.old) for change in batch)
        self.buffer = Memory(self, bytearray(end - FIRST))
        for change in batch:
            at = change.address - FIRST
            self.buffer.text[at : at + len(change.old)] = change.old
        super().__init__(self.buffer)

    def did(self, act: str) -> None:
        number = len(self.acts)
        self.acts.append(act)
        if number == self.fails_at or (self.for_ever and number > self.fails_at >= 0):
            raise self.error("memory", f"{act} fails") if self.error is WriteError else self.error

    def stop(self) -> None:
        self.did("stop")

    def resume(self) -> None:
        self.acts.append("resume")

    def sync(self) -> None:
        self.did("sync")

    def instruction_pointers(self) -> Collection[int]:
        assert self.pointers is not None
        self.did("pointers")
        return self.pointers


class Memory(Buffer):
    """A buffer whose writes are told to the machine, and may be cut short by it."""

    def __init__(self, machine: Traced, text: bytearray) -> None:
        super().__init__("memory", FIRST, text)
        self.machine = machine
        self.unreadable: set[int] = set()

    def read(self, address: int, size: int) -> bytes:
        if address in self.unreadable:
            raise ReadError(self.path, "unreadable", address=address)
        return super().read(address, size)

    def write(self, address: int, data: bytes) -> None:
        self.machine.before_write()
        self.machine.did(f"write {address:#x} {data.hex()}")
        super().write(address, data)


def site(machine: Traced, change: Change) -> bytes:
    return machine.buffer.read(change.address, len(change.old))


# What all have in common


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_all_sites_are_changed(protocol: ModuleType) -> None:
    machine = Traced()
    protocol.modify(machine, BATCH)
    assert [site(machine, change) for change in BATCH] == [NOP, NOP]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_one_site_with_other_bytes_is_einval_and_nothing_is_written(protocol: ModuleType) -> None:
    machine = Traced()
    machine.buffer.text[SECOND - FIRST + 4] = 0x45
    with pytest.raises(CompareError) as caught:
        protocol.modify(machine, BATCH)
    assert str(caught.value) == (
        "memory: two+0x4 (0x1010): e8 11 22 33 45 stands here, not e8 11 22 33 44"
    )
    assert caught.value.errno == errno.EINVAL
    assert not [act for act in machine.acts if act.startswith("write")]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_site_that_cannot_be_read_is_efault_and_nothing_is_written(protocol: ModuleType) -> None:
    machine = Traced()
    machine.buffer.unreadable.add(SECOND)
    with pytest.raises(ReadError) as caught:
        protocol.modify(machine, BATCH)
    assert (caught.value.errno, caught.value.address) == (errno.EFAULT, SECOND)
    assert not [act for act in machine.acts if act.startswith("write")]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_does_not_read_back_is_eperm(protocol: ModuleType) -> None:
    machine = Traced()
    machine.buffer.scatter = lambda *_: None  # type: ignore[method-assign]
    with pytest.raises(WriteError, match="reads back otherwise") as caught:
        protocol.modify(machine, BATCH)
    assert caught.value.errno == errno.EPERM
    assert [site(machine, change) for change in BATCH] == [CALL, CALL]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("error", ERRORS)
def test_whatever_act_fails_every_site_is_whole_and_nothing_is_left_up(
    protocol: ModuleType, error: type[BaseException]
) -> None:
    done = Traced()
    protocol.modify(done, BATCH)
    for number, act in enumerate(done.acts):
        if act == "resume":
            continue
        machine = Traced()
        machine.fails_at, machine.error = number, error
        with pytest.raises(error):
            protocol.modify(machine, BATCH)
        assert {site(machine, change) for change in BATCH} <= {CALL, NOP}
        assert [machine.load(name) for name in (int3.MODIFYING, nmi.RUNNING)] == [0, 0]
        assert machine.acts.count("resume") == machine.acts.count("stop")
        assert machine.int3_handlers == []


class Interrupted(Traced):
    """An interrupt from the keyboard arrives just when a counter has been counted up."""

    def add(self, variable: str, number: int) -> int:
        value = super().add(variable, number)
        if number > 0:
            raise KeyboardInterrupt
        return value


def test_an_interrupt_right_after_counting_up_leaves_no_count() -> None:
    machine = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        int3.modify(machine, BATCH)
    assert machine.load(int3.MODIFYING) == 0
    assert [site(machine, change) for change in BATCH] == [CALL, CALL]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_changes_disturb_nobody(protocol: ModuleType) -> None:
    machine = Traced()
    protocol.modify(machine, Batch.of([]))
    assert machine.acts == []


def test_a_machine_that_nobody_executes_needs_no_more_than_memory() -> None:
    for protocol in PROTOCOLS:
        buffer = Buffer("memory", FIRST, bytearray(CALL))
        protocol.modify(Machine(buffer), Batch.of([Change(FIRST, CALL, NOP)]))
        assert buffer.text == NOP


def test_a_machine_serialises_by_its_memory() -> None:
    class Serialised(Buffer):
        syncs = 0

        def sync(self) -> None:
            self.syncs += 1

    for protocol, syncs in ((stop_machine, 1), (nmi, 1), (int3, 3)):
        buffer = Serialised("memory", FIRST, bytearray(CALL))
        protocol.modify(Machine(buffer), Batch.of([Change(FIRST, CALL, NOP)]))
        assert buffer.syncs == syncs


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_ftrace_writes_by_any_of_them(protocol: ModuleType) -> None:
    module = modules.loaded_at(FIRST)
    memory = modules.Memory(FIRST, modules.SIZE)
    memory.map(module)
    machine = Machine(memory)
    ftrace = Ftrace(Modules(lambda: memory.mappings), partial(protocol.modify, machine))
    ftrace.load(module)
    assert {memory.read(point.address, 5) for point in module.points} == {NOP}
    ftrace.live(module)
    ftrace.register(Ops("all"))
    assert {memory.read(point.address, 5) for point in module.points} == {CALL}


def test_an_act_that_raises_what_ends_iterations_fails_like_any_other() -> None:
    machine = Traced()
    machine.fails_at, machine.error = 2, StopIteration
    with pytest.raises(RuntimeError):
        int3.modify(machine, BATCH)
    assert [site(machine, change) for change in BATCH] == [CALL, CALL]
    assert machine.int3_handlers == []


# Sites of two instructions

NOP_CALL = b"\x90" + CALL
TWO = Batch.of(
    [Change(FIRST, NOP_CALL, x86_nops.NOPS[6], "two+0x0"), Change(SECOND, CALL, NOP, "one+0x0")]
)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_site_inside_of_which_a_cpu_stands_is_ebusy_and_nothing_is_changed(
    protocol: ModuleType,
) -> None:
    machine = Traced(TWO)
    machine.pointers = [SECOND, FIRST + 1, FIRST]
    with pytest.raises(StateError) as caught:
        protocol.modify(machine, TWO)
    assert (
        str(caught.value) == "memory: two+0x0 (0x1000): a CPU stands inside, at 0x1001: try again"
    )
    assert caught.value.errno == errno.EBUSY
    assert [site(machine, change) for change in TWO] == [NOP_CALL, CALL]
    assert machine.int3_handlers == []
    assert machine.load(int3.MODIFYING) == 0


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_cpu_that_stands_at_either_end_of_a_site_is_not_inside(protocol: ModuleType) -> None:
    machine = Traced(TWO)
    machine.pointers = [FIRST, FIRST + 6, SECOND, SECOND + 5]
    protocol.modify(machine, TWO)
    assert [site(machine, change) for change in TWO] == [x86_nops.NOPS[6], NOP]


@pytest.mark.parametrize(
    ("protocol", "before"),
    [
        (stop_machine, ["stop"]),
        (nmi, ["stop"]),
        (int3, ["write 0x1000 cc", "write 0x1010 cc", "sync"]),
    ],
)
def test_where_cpus_stand_is_asked_when_none_can_come_in(
    protocol: ModuleType, before: list[str]
) -> None:
    machine = Traced(TWO)
    machine.pointers = []
    protocol.modify(machine, TWO)
    assert machine.acts[: machine.acts.index("pointers")] == before


# stop_machine


def test_what_changes_before_all_stand_still_is_seen() -> None:
    for protocol in (stop_machine, nmi):
        machine = Traced()
        machine.stop = partial(machine.buffer.write, FIRST, NOP)  # type: ignore[method-assign]
        with pytest.raises(CompareError, match="0f 1f 44 00 00 stands here"):
            protocol.modify(machine, BATCH)


def test_stop_machine_writes_while_all_are_stopped() -> None:
    machine = Traced()
    stop_machine.modify(machine, BATCH)
    assert machine.acts == [
        "stop",
        "write 0x1000 0f1f440000",
        "write 0x1010 0f1f440000",
        "resume",
    ]


# nmi


def test_an_nmi_that_arrives_during_a_write_writes_the_same_itself() -> None:
    machine = Traced()
    inside: list[list[bytes]] = []

    def arrive() -> None:
        machine.before_write = lambda: None
        nmi.deliver(machine, lambda: inside.append([site(machine, change) for change in BATCH]))
        machine.before_write = arrive

    machine.before_write = arrive
    nmi.modify(machine, BATCH)
    assert inside == [[NOP, CALL], [NOP, NOP]]
    assert machine.statistics[nmi.UPDATES] == 2
    assert machine.acts.count("write 0x1000 0f1f440000") == 2


def test_an_nmi_at_any_other_time_writes_nothing() -> None:
    machine = Traced()
    bodies: list[int] = []
    nmi.deliver(machine, lambda: bodies.append(0))
    nmi.modify(machine, BATCH)
    nmi.deliver(machine, lambda: bodies.append(1))
    assert bodies == [0, 1]
    assert machine.statistics[nmi.UPDATES] == 0
    assert len(machine.acts) == 4


def test_the_writer_waits_for_an_nmi_that_runs_and_counts_that() -> None:
    machine = Traced()
    seen: list[list[str]] = []

    def body() -> None:
        running.set()
        while not machine.statistics[nmi.WAITS]:
            time.sleep(0.001)
        seen.append(list(machine.acts))

    running = threading.Event()
    other = threading.Thread(target=nmi.deliver, args=(machine, body))
    other.start()
    running.wait()
    nmi.modify(machine, BATCH)
    other.join()
    assert seen == [["stop"]]
    assert machine.statistics[nmi.WAITS] == 1
    assert site(machine, Change(FIRST, CALL, NOP)) == NOP


def test_an_nmi_that_cannot_write_goes_on() -> None:
    machine = Traced()
    machine.fails_at = 1
    bodies: list[int] = []

    def arrive() -> None:
        machine.before_write = lambda: None
        nmi.deliver(machine, lambda: bodies.append(0))

    machine.before_write = arrive
    nmi.modify(machine, BATCH)
    assert bodies == [0]
    assert machine.statistics[nmi.UPDATES] == 0
    assert machine.load(nmi.RUNNING) == 0


def test_an_nmi_whose_body_fails_is_over_like_any_other() -> None:
    machine = Traced()

    def body() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        nmi.deliver(machine, body)
    assert machine.load(nmi.RUNNING) == 0


def test_an_interrupt_when_the_flag_has_just_been_raised_lowers_it() -> None:
    machine = Traced()
    exchange = machine.exchange

    def interrupted(variable: str, old: int, new: int, statistic: str) -> None:
        exchange(variable, old, new, statistic)
        if new:
            raise KeyboardInterrupt

    machine.exchange = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        nmi.modify(machine, BATCH)
    assert machine.load(nmi.RUNNING) == 0
    assert machine.acts == ["stop", "resume"]


def test_an_interrupted_wait_for_the_nmis_that_saw_the_flag_is_waited_to_its_end() -> None:
    machine = Traced()
    exchange, waits = machine.exchange, []

    def interrupted(variable: str, old: int, new: int, statistic: str) -> None:
        waits.append((old, new))
        if len(waits) == 2:
            raise KeyboardInterrupt
        exchange(variable, old, new, statistic)

    machine.exchange = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        nmi.modify(machine, BATCH)
    assert waits == [(0, nmi.FLAG), (0, 0), (0, 0)]


# breakpoint


def test_breakpoints_then_tails_then_heads_with_a_sync_after_each() -> None:
    machine = Traced()
    int3.modify(machine, BATCH)
    assert machine.acts == [
        "write 0x1000 cc", "write 0x1010 cc", "sync",
        "write 0x1001 1f440000", "write 0x1011 1f440000", "sync",
        "write 0x1000 0f", "write 0x1010 0f", "sync",
    ]  # fmt: skip
    assert machine.int3_handlers == []


def test_while_it_works_a_hit_skips_the_whole_site_of_any_length() -> None:
    changes, address = [], FIRST
    for length in (5, 6, 12, 13):
        call = x86_code.call(address, address + 0x100, length)
        assert call is not None
        changes.append(Change(address, call, x86_nops.NOPS[length]))
        address += length
    batch = Batch.of(changes)
    machine = Traced(batch)
    machine.pointers = []
    hits: list[list[int | None]] = []
    machine.before_write = lambda: hits.append([machine.int3(at) for at in batch.addresses])
    int3.modify(machine, batch)
    assert hits == [[5, 6, 12, 13]] * 12
    assert [machine.int3(at) for at in batch.addresses] == [None] * 4
    assert [site(machine, change) for change in batch] == list(batch.new)


def test_a_breakpoint_of_others_is_left_to_others() -> None:
    machine = Traced()
    others: list[int] = []
    machine.int3_handlers.append(others.append)
    foreign = [FIRST + 1, FIRST + 5, 0x2000]

    def hit() -> None:
        assert [machine.int3(address) for address in foreign] == [None] * 3

    machine.before_write = hit
    int3.modify(machine, BATCH)
    assert others == foreign * 6


def test_our_handler_is_asked_first() -> None:
    machine = Traced()
    machine.int3_handlers.append(lambda _: 1)
    asked: list[int | None] = []
    machine.before_write = lambda: asked.append(machine.int3(FIRST))
    int3.modify(machine, BATCH)
    assert asked == [5] * 6


def test_a_foreign_breakpoint_on_a_site_is_einval_and_stays() -> None:
    machine = Traced()
    machine.buffer.text[0] = 0xCC
    with pytest.raises(CompareError, match="cc 11 22 33 44 stands here"):
        int3.modify(machine, BATCH)
    assert site(machine, Change(FIRST, CALL, NOP)) == b"\xcc" + CALL[1:]
    assert machine.acts == []


@pytest.mark.parametrize(("old", "new"), [(b"\xcc" + CALL[1:], NOP), (CALL, b"\xcc" + NOP[1:])])
def test_a_breakpoint_can_neither_be_changed_nor_be_made(old: bytes, new: bytes) -> None:
    batch = Batch.of([Change(FIRST, old, new)])
    machine = Traced(batch)
    with pytest.raises(CompareError, match="can neither be changed nor be made"):
        int3.modify(machine, batch)
    assert machine.acts == []
    assert machine.int3_handlers == []


@pytest.mark.parametrize(
    ("fails_at", "left"),
    [
        (0, [CALL, CALL]),  # int3 into the first site
        (1, [CALL, CALL]),  # int3 into the second
        (2, [CALL, CALL]),  # sync
        (3, [CALL, CALL]),  # the tail of the first
        (4, [NOP, CALL]),  # the tail of the second
        (5, [NOP, NOP]),  # sync
        (6, [NOP, NOP]),  # the head of the first
        (7, [NOP, NOP]),  # the head of the second
        (8, [NOP, NOP]),  # sync
    ],
)
def test_after_a_fault_each_breakpoint_is_removed_by_what_its_site_then_is(
    fails_at: int, left: list[bytes]
) -> None:
    machine = Traced()
    machine.fails_at = fails_at
    with pytest.raises(WriteError) as caught:
        int3.modify(machine, BATCH)
    assert not isinstance(caught.value, StandingError)
    assert [site(machine, change) for change in BATCH] == left
    assert machine.int3_handlers == []
    assert machine.acts[-1] == "sync"


def test_a_new_head_is_put_back_only_after_a_sync() -> None:
    machine = Traced()
    machine.fails_at = 4
    with pytest.raises(WriteError):
        int3.modify(machine, BATCH)
    assert machine.acts[4:] == [
        "write 0x1011 1f440000", "sync", "write 0x1000 0f", "write 0x1010 e8", "sync",
    ]  # fmt: skip


def test_a_site_is_not_opened_before_all_of_it_is_known_to_be_there() -> None:
    machine = Traced()
    write = machine.buffer.write

    def lossy(address: int, data: bytes) -> None:
        if address != SECOND + 1:
            write(address, data)

    machine.buffer.write = lossy  # type: ignore[method-assign]
    with pytest.raises(WriteError, match="reads back otherwise"):
        int3.modify(machine, BATCH)
    assert [site(machine, change) for change in BATCH] == [NOP, CALL]
    assert f"write {SECOND:#x} 0f" not in machine.acts


def test_where_no_breakpoint_stands_none_is_removed() -> None:
    machine = Traced()
    machine.fails_at = 1
    with pytest.raises(WriteError):
        int3.modify(machine, BATCH)
    assert machine.acts == [
        "write 0x1000 cc", "write 0x1010 cc", "sync", "write 0x1000 e8", "sync",
    ]  # fmt: skip


def test_a_second_interrupt_leaves_the_handler_with_what_may_still_stand() -> None:
    machine = Traced()
    machine.fails_at, machine.for_ever, machine.error = 2, True, KeyboardInterrupt
    with pytest.raises(StandingError, match="its breakpoint, as 1 more, may still be hit"):
        int3.modify(machine, BATCH)
    assert [machine.int3(at) for at in BATCH.addresses] == [5, 5]
    assert machine.load(int3.MODIFYING) == 1


def test_one_breakpoint_that_cannot_be_removed_does_not_keep_the_others() -> None:
    machine = Traced()

    def unwritable() -> None:
        if machine.acts[-1:] == ["sync"]:
            machine.before_write = lambda: None
            raise ZeroDivisionError

    machine.fails_at = 1  # the second breakpoint; the first is not removed
    machine.before_write = unwritable
    with pytest.raises(StandingError, match=r"one\+0x0 \(0x1000\): its breakpoint may"):
        int3.modify(machine, BATCH)
    assert site(machine, Change(SECOND, CALL, NOP)) == CALL
    assert machine.int3(FIRST) == 5


def test_a_site_of_no_bytes_has_none_for_a_breakpoint() -> None:
    machine = Traced()
    with pytest.raises(CompareError, match="has no bytes"):
        int3.modify(machine, Batch.of([Change(FIRST, b"", b"")]))
    assert machine.acts == []


@pytest.mark.parametrize("fails_at", range(1, 9))
def test_a_breakpoint_that_cannot_be_removed_stays_handled(fails_at: int) -> None:
    machine = Traced()
    machine.fails_at, machine.for_ever = fails_at, True
    with pytest.raises(StandingError, match="may still be hit: its handler stays") as caught:
        int3.modify(machine, BATCH)
    assert caught.value.errno == errno.EPERM
    assert isinstance(caught.value.__cause__, PatchError)
    assert [machine.int3(at) for at in BATCH.addresses] == [5, 5]
    assert machine.load(int3.MODIFYING) == 1


def test_a_site_that_somebody_else_has_changed_meanwhile_keeps_its_breakpoint() -> None:
    machine = Traced()

    def meddle() -> None:
        if machine.acts.count("sync") == 1:
            machine.buffer.text[3] = 0x99

    machine.before_write = meddle
    machine.fails_at = 4
    with pytest.raises(StandingError) as caught:
        int3.modify(machine, BATCH)
    assert (caught.value.address, caught.value.symbol) == (FIRST, "one+0x0")
    assert site(machine, Change(FIRST, CALL, NOP))[:1] == b"\xcc"
    assert site(machine, Change(SECOND, CALL, NOP)) == CALL
    assert machine.int3(FIRST) == 5
