"""The code of a region: the trampoline, assembled for one process and one place, and its stubs."""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct
from typing import NamedTuple

from patcher.process.regions import MARK, Region
from recordmcount.x86 import EM_X86_64, INT3, LOAD_R11D, NOPS, jump

from .assembly import Code, assemble
from .layout import CONTROL, PAGE, STUB_SIZE
from .trampoline import WAYS, Threads, sources, stub

SECTION = Struct("<IIQQQ")  # version, flags, start, size, where to go on: a struct rseq_cs
CODE_AT, SECTIONS_AT = 64, 0xC00  # in the first page
ALIGNMENT = 64


class Section(NamedTuple):
    """Run-time addresses: whoever is in [start, end) has to go on at `abort`."""

    start: int
    end: int
    abort: int


class Trampoline(NamedTuple):
    """The code of a region: its bytes, and run-time addresses in it.

    `ways` are those of the ways in, by name, and `sections` the restartable sequences. Where there
    are none, whoever is in one of `locked` may write to a ring.
    """

    content: bytes
    ways: Mapping[str, int]
    stubs: range
    sections: tuple[Section, ...]
    locked: tuple[range, ...]


def build(region: Region) -> Trampoline:
    """Make the code of a region. Raises ValueError if what is assembled is not what was meant."""
    address = region.code.start
    threads = Threads(None if region.is_locked else region.rseq, region.tid)
    content = bytearray(INT3 * (region.code.end - address))
    content[: MARK.size] = region.mark
    data = {name: region.control + at for name, at in CONTROL.items()}
    sections: list[Section] = []
    locked: list[range] = []
    labels: dict[str, int] = {}
    at = CODE_AT
    for name, source in sources(threads):
        names = [f"{name}_section", f"{name}_lost_section"] if threads.rseq is not None else []
        places = [SECTIONS_AT + SECTION.size * (len(sections) + each) for each in range(len(names))]
        here = dict(zip(names, (address + place for place in places), strict=True))
        code = assemble(source, address + at, {**data, **here})
        content[at : at + len(code.content)] = code.content
        labels.update(code.labels)
        for part, place in zip(("", "_lost"), places, strict=False):
            if found := _section(code, name + part):
                sections.append(found)
                _put_section(content, place, found)
        if not places:
            locked.append(range(code.labels[f"{name}_begin"], code.labels[f"{name}_leave"]))
        at += -(-len(code.content) // ALIGNMENT) * ALIGNMENT
    if at > SECTIONS_AT:
        raise ValueError(f"the code is {at - SECTIONS_AT} bytes too long")
    _put_stubs(content, address, region.stubs, labels["count"])
    ways = {way.name: labels[way.name] for way in WAYS}
    first = address + PAGE
    return Trampoline(
        bytes(content), ways, range(first, first + region.stubs * STUB_SIZE, STUB_SIZE),
        tuple(sections), tuple(locked),
    )  # fmt: skip


def pages_of(stubs: int) -> int:
    """Count the pages of code of a region with so many stubs."""
    return 1 + -(-stubs * STUB_SIZE // PAGE)


def _section(code: Code, name: str) -> Section | None:
    labels = code.labels
    if f"{name}_abort" not in labels:
        return None
    return Section(labels[f"{name}_begin"], labels[f"{name}_end"], labels[f"{name}_abort"])


def _put_section(content: bytearray, place: int, section: Section) -> None:
    size = section.end - section.start
    SECTION.pack_into(content, place, 0, 0, section.start, size, section.abort)


def _put_stubs(content: bytearray, address: int, stubs: int, count: int) -> None:
    """Put in the stubs; keystone spells the first and the last, the others are like them."""
    first = address + PAGE
    for number in range(stubs):
        at = PAGE + number * STUB_SIZE
        content[at : at + STUB_SIZE] = _stub(number, address + at, count)
    for number in {0, stubs - 1} if stubs else ():
        at = first + number * STUB_SIZE
        wanted = assemble(stub(number, count), at, {})
        if not _stub(number, at, count).startswith(wanted.content):
            raise ValueError(f"stub {number} is not what keystone makes of it")


def _stub(number: int, address: int, count: int) -> bytes:
    """Spell a stub at a run-time address: number to R11, jump to what counts."""
    start = NOPS[1] + LOAD_R11D + number.to_bytes(4, "little")
    jumped = jump(address + len(start), count, EM_X86_64)
    return (start + (jumped or b"")).ljust(STUB_SIZE, INT3)
