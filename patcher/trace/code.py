"""The code of a region: the trampoline, assembled for one process and one place, and its stubs."""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct
from typing import NamedTuple

from patcher.process.regions import MARK, Region
from recordmcount.x86 import EM_X86_64
from recordmcount.x86_code import INT3, LOAD_R11D, jump
from recordmcount.x86_nops import NOPS

from .assembly import assemble
from .layout import CONTROL, PAGE, STUB_SIZE
from .trampoline import WAYS, Threads, sources, stub

SECTION = Struct("<IIQQQ")  # version, flags, start, size, where to go on: a struct rseq_cs
CODE_AT, SECTIONS_AT = 64, 0xC00  # in the first page
ALIGNMENT = 64


class Trampoline(NamedTuple):
    """The code of a region: its bytes, and run-time addresses in it.

    `ways` are those of the ways in, by name.
    """

    content: bytes
    ways: Mapping[str, int]
    stubs: range


def build(region: Region) -> Trampoline:
    """Make the code of a region. Raises ValueError if what is assembled is not what was meant."""
    address = region.code.start
    threads = Threads(None if region.is_locked else region.rseq, region.tid)
    content = bytearray(INT3 * (region.code.end - address))
    content[: MARK.size] = region.mark
    data = {name: region.control + at for name, at in CONTROL.items()}
    labels: dict[str, int] = {}
    sections = 0
    at = CODE_AT
    for name, source in sources(threads):
        names = [f"{name}_section", f"{name}_lost_section"] if threads.rseq is not None else []
        places = [SECTIONS_AT + SECTION.size * (sections + each) for each in range(len(names))]
        here = dict(zip(names, (address + place for place in places), strict=True))
        code = assemble(source, address + at, {**data, **here})
        content[at : at + len(code.content)] = code.content
        labels.update(code.labels)
        for part, place in zip(("", "_lost"), places, strict=False):
            if f"{name}{part}_abort" in code.labels:
                _put_section(content, place, code.labels, name + part)
                sections += 1
        at += -(-len(code.content) // ALIGNMENT) * ALIGNMENT
    if at > SECTIONS_AT:
        raise ValueError(f"the code is {at - SECTIONS_AT} bytes too long")
    _put_stubs(content, address, region.stubs, labels["count"])
    ways = {way.name: labels[way.name] for way in WAYS}
    first = address + PAGE
    stubs = range(first, first + region.stubs * STUB_SIZE, STUB_SIZE)
    return Trampoline(bytes(content), ways, stubs)


def pages_of(stubs: int) -> int:
    """Count the pages of code of a region with so many stubs."""
    return 1 + -(-stubs * STUB_SIZE // PAGE)


def _put_section(content: bytearray, place: int, labels: Mapping[str, int], name: str) -> None:
    """Put in what the kernel is told: whoever is between two labels has to go on at a third."""
    start = labels[f"{name}_begin"]
    size = labels[f"{name}_end"] - start
    SECTION.pack_into(content, place, 0, 0, start, size, labels[f"{name}_abort"])


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
