"""Modules made by hand, over memory that holds what their files have.

module = loaded_at(0x1000, "drv")       # three sites, the last in init text
memory = image_of(module)               # a buffer with its code
Modules().load(module, mappings_of(module))
"""

from datetime import UTC, datetime, timedelta

from patcher.mappings import Mapping, Range
from patcher.memory.buffer import Buffer
from patcher.modules import Identity, Kind, Module, Point
from recordmcount.x86 import EM_X86_64

DEVICE = 0x801
SIZE = 0x40
CALL = bytes.fromhex("e811223344")
NOP = bytes.fromhex("0f1f440000")
OTHER = b"\xcc"  # what is no site


class Clock:
    """Noon of the day on which Linux 2.6.27 came, and a minute later each time it is asked."""

    def __init__(self) -> None:
        self.now = datetime(2008, 10, 9, 12, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        self.now += timedelta(minutes=1)
        return self.now


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
        Range(start & ~0xFFF, (start + SIZE + 0xFFF) & ~0xFFF),
        protection, identity.device, identity.inode, identity.path,
    )  # fmt: skip


def hook_at(address: int, kind: Kind, code: bytes = CALL) -> Point:
    """The call of a trampoline, or the hook of one."""
    jump = bytes.fromhex("e911223344")
    call = jump if kind is Kind.HOOK else CALL
    return Point(
        address, NOP if kind is Kind.HOOK else code, call, NOP, f"ftrace_{kind}", kind=kind
    )


def put(memory: Buffer, module: Module) -> None:
    """Map the module's text: its file's bytes now stand in `memory`."""
    for text in (*module.text, *module.init):
        at = text.start - memory.start
        memory.text[at : at + text.end - text.start] = OTHER * (text.end - text.start)
    for point in module.points:
        at = point.address - memory.start
        memory.text[at : at + len(point.code)] = point.code
