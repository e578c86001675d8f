"""Modules made by hand, over memory that holds what their files have.

    module = loaded_at(0x1000, "drv")       # three sites, the last in init text
    memory = Memory(0x1000, SIZE)
    memory.map(module)                      # what a loader does
    Modules(lambda: memory.mappings).load(module)

All addresses are run-time addresses.
"""

from datetime import UTC, datetime, timedelta

from patcher.errors import ReadError, WriteError
from patcher.ftrace.mappings import Mapping, Range
from patcher.ftrace.modules import Identity, Kind, Module, Modules, Point
from patcher.memory.buffer import Buffer
from recordmcount.x86 import EM_X86_64

DEVICE = 0x801
SIZE = 0x40
CALL = bytes.fromhex("e811223344")
NOP = bytes.fromhex("0f1f440000")
OTHER = b"\xcc"  # what is no site


class Memory(Buffer):
    """Zeros from run-time address `start` on; any address can be made to fault.

    `mappings` are those of now.
    """

    def __init__(self, start: int, size: int) -> None:
        super().__init__("memory", start, bytearray(size))
        self.unreadable: set[int] = set()
        self.unwritable: set[int] = set()
        self.deaf: set[int] = set()  # a write there is lost
        self.written: list[tuple[int, int]] = []  # (address, size) of each write
        self.reads = 0
        self.mappings: list[Mapping] = []

    def take(self, mapping: Mapping) -> None:
        """The addresses are this mapping's from now on; of others is left what lies beside it."""
        start, end = mapping.range
        parts = (
            each._replace(range=part)
            for each in self.mappings
            for part in (
                Range(each.range.start, min(each.range.end, start)),
                Range(max(each.range.start, end), each.range.end),
            )
            if part.start < part.end
        )
        self.mappings = [*parts, mapping]

    def map(self, module: Module, protection: str = "r-xp") -> None:
        """The module's text is what stands there now."""
        self.take(mapping_of(module, protection))
        for text in (*module.text, *module.init):
            self.poke(text.start, OTHER * (text.end - text.start))
        for point in module.points:
            self.poke(point.address, point.code)

    def poke(self, address: int, data: bytes) -> None:
        """Someone else writes."""
        self.text[address - self.start : address - self.start + len(data)] = data

    def read(self, address: int, size: int) -> bytes:
        self.reads += 1
        if address in self.unreadable:
            raise ReadError(self.path, "cannot be read", address=address)
        return super().read(address, size)

    def write(self, address: int, data: bytes) -> None:
        if address in self.unwritable:
            raise WriteError(self.path, "cannot be written", address=address)
        self.written.append((address, len(data)))
        if address not in self.deaf:
            super().write(address, data)


class Clock:
    """Noon of the day on which Linux 2.6.27 came, and a minute later each time it is asked."""

    def __init__(self) -> None:
        self.now = datetime(2008, 10, 9, 12, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        self.now += timedelta(minutes=1)
        return self.now


class Space(Modules):
    """A registry whose mappings are said when a module is loaded."""

    def __init__(self) -> None:
        self.mapped: list[Mapping] = []
        super().__init__(lambda: self.mapped, Clock())

    def bring(self, module: Module, mappings: list[Mapping] | None = None) -> None:
        """Map the module, as a loader does or so, and load it."""
        self.mapped = [mapping_of(module)] if mappings is None else mappings
        self.load(module)


def loaded_at(
    start: int,
    name: str = "drv",
    sites: tuple[tuple[int, str], ...] = ((0x00, "open"), (0x10, "read"), (0x30, "setup")),
    *,
    code: bytes = CALL,
    init: int = 0x30,
    extra: tuple[Point, ...] = (),
    machine: int = EM_X86_64,
) -> Module:
    """A module of SIZE bytes at run-time address `start`; init text from offset `init` on."""
    points = (Point(start + at, code, CALL, NOP, symbol, (symbol,)) for at, symbol in sites)
    return Module(
        Identity(f"/lib/{name}.so", name.encode(), DEVICE, sum(name.encode()), start),
        (Range(start, start + init),),
        (*points, *extra),
        (Range(start + init, start + SIZE),) if init < SIZE else (),
        machine,
    )


def mapping_of(module: Module, protection: str = "r-xp") -> Mapping:
    """The mapping that a loader makes for such a module."""
    start, identity = module.text[0].start, module.identity
    return Mapping(
        Range(start, start + SIZE), protection, identity.device, identity.inode, identity.path
    )


def hook_at(address: int, kind: Kind) -> Point:
    """The call of a trampoline, or the hook of one."""
    jump = bytes.fromhex("e911223344")
    call = jump if kind is Kind.HOOK else CALL
    return Point(
        address, NOP if kind is Kind.HOOK else CALL, call, NOP, f"ftrace_{kind}", kind=kind
    )
