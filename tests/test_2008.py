"""The story of 2008, told twice: with the static sites of modules, and with a run-time hash.

Linux 2.6.27-rc's tracer noted every caller of mcount when it ran, in a hash, and a daemon turned
the callers into NOPs later. A module was unloaded, its callers stayed in the hash; the addresses
were given to the flash memory of a network card. Before it wrote, the daemon compared, with a
cmpxchg that writes back what it read where nothing is to be changed, and a write to that memory
was one too many: e1000e cards were bricked. (LWN, October 2008.)
"""

from functools import partial

import pytest

from patcher.errors import DisabledError, ModuleError, NoModuleError, ReadError
from patcher.ftrace.control import Ftrace
from patcher.ftrace.mappings import Mapping, Range
from patcher.ftrace.modules import Module, Modules
from patcher.ftrace.ops import Ops
from patcher.modify import modify_batch
from tests.support.modules import CALL, NOP, SIZE, Clock, Memory, loaded_at

CORE, FREED = 0xC010_0000, 0xC010_0000 + SIZE  # the module that stays; where the other one was
TRACER = CORE + 0x10_0000
FLASH = Mapping(Range(FREED, FREED + SIZE), "rw-s", 0x0005, 1033, "/dev/mem")


class Flash(Memory):
    """Ordinary memory up to FREED; from there on, once `is_there`, a device not to be accessed."""

    is_there = False

    def read(self, address: int, size: int) -> bytes:
        assert not (self.is_there and address + size > FREED), f"a read of flash at {address:#x}"
        return super().read(address, size)

    def write(self, address: int, data: bytes) -> None:
        assert not (self.is_there and address + len(data) > FREED), f"bricked at {address:#x}"
        super().write(address, data)

    def appear(self, bytes_of: Module) -> None:
        """The device's memory is mapped, and happens to spell the calls of that module."""
        self.is_there = True
        self.take(FLASH)
        for point in bytes_of.points:
            self.poke(point.address, CALL)


@pytest.fixture
def memory() -> Flash:
    return Flash(CORE, 2 * SIZE)


@pytest.fixture
def ftrace(memory: Flash) -> Ftrace:
    return Ftrace(Modules(lambda: memory.mappings, Clock()), partial(modify_batch, memory))


def came(memory: Flash, ftrace: Ftrace, start: int, name: str) -> Module:
    """A module that has been loaded, and runs."""
    module = loaded_at(start, name)
    memory.map(module)
    ftrace.load(module)
    ftrace.live(module)
    return module


@pytest.fixture
def core(memory: Flash, ftrace: Ftrace) -> Module:
    """A module that is there all the time."""
    return came(memory, ftrace, CORE, "core")


def test_a_module_goes_and_what_takes_its_place_is_never_touched(
    memory: Flash, ftrace: Ftrace, core: Module
) -> None:
    # A module is loaded. Its calls are recorded, and are NOPs before any of them can run.
    module = came(memory, ftrace, FREED, "e1000")
    open_ = ftrace.record(FREED)
    assert memory.read(FREED, 5) == NOP

    # It is unloaded. Its records go first, then its memory.
    ftrace.going(module)
    ftrace.unload(module)

    # A network card's flash is mapped there. It looks exactly as the module did.
    memory.appear(module)

    # All functions are traced, and no longer: neither goes near the flash.
    before = bytes(memory.text[SIZE:])
    ftrace.register(Ops("tracer", TRACER))
    assert [memory.read(point.address, 1) for point in core.points] == [b"\xe8"] * 3
    ftrace.unregister("tracer")
    assert [memory.read(point.address, 5) for point in core.points] == [NOP] * 3
    assert memory.text[SIZE:] == before

    # Whoever asks for the address is told why not: who was there, and when it went.
    went = (
        r"/lib/e1000.so: 0xc0100040: in no live module: it was here until it went at "
        r"2008-10-09 12:01:00 UTC: /lib/e1000.so \(build-id 6531303030, load bias 0xc0100040\)"
    )
    with pytest.raises(NoModuleError, match=went):
        ftrace.record(FREED)

    # So is who kept a record of the module, as the hash of 2008 did.
    with pytest.raises(NoModuleError, match=went):
        ftrace.make_call(open_, TRACER)
    assert memory.text[SIZE:] == before

    # That was asked for wrongly. Nothing is wrong with the code, and tracing goes on.
    assert not ftrace.status().is_disabled


def test_a_module_that_goes_without_a_word_is_missed_before_its_place_is_touched(
    memory: Flash, ftrace: Ftrace, core: Module
) -> None:
    module = came(memory, ftrace, FREED, "e1000")

    # Nobody says that the module goes: its records stay, and the flash looks as it did.
    memory.appear(module)

    # An update of all functions asks what is mapped now, and then goes near nothing at all.
    before = bytes(memory.text)
    with pytest.raises(ReadError) as caught:
        ftrace.register(Ops("tracer", TRACER))
    assert str(caught.value) == (
        "/lib/e1000.so: open (0xc0100040): no longer text: "
        f"0xc0100040-0xc0100070 is a device: {FLASH}"
    )
    assert memory.text == before

    # Where a module can go unseen, nothing is certain any more: the switch is thrown.
    assert ftrace.status().is_disabled
    with pytest.raises(DisabledError, match="no longer text"):
        ftrace.make_call(ftrace.record(CORE), TRACER)
    assert memory.text == before


def test_flash_is_not_taken_for_a_module_either(memory: Flash, ftrace: Ftrace) -> None:
    module = loaded_at(FREED, "e1000")
    memory.appear(module)
    with pytest.raises(ModuleError, match=r"is a device: .* rw-s 00:05 1033 /dev/mem"):
        ftrace.load(module)
    with pytest.raises(NoModuleError, match="none was ever here"):
        ftrace.record(FREED)


def test_a_hash_of_what_called_once_writes_into_the_flash(memory: Flash) -> None:
    """The contrast: the daemon of 2008 in ten lines. It compares, and yet it writes."""
    seen: set[int] = set()
    module = loaded_at(FREED, "e1000")
    memory.map(module)

    def daemon() -> None:
        for address in sorted(seen):
            if memory.text[address - CORE : address - CORE + 5] == CALL:
                memory.write(address, NOP)

    seen.update(point.address for point in module.points)  # each called mcount, once
    memory.appear(module)  # and nobody told the hash that the module went
    with pytest.raises(AssertionError, match="bricked at 0xc0100040"):
        daemon()
