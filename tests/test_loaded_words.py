"""What the loader puts into words: by runs or one by one, of however odd tables."""

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import cast

import pytest

from recordmcount import x86
from recordmcount.elf import object as elf
from recordmcount.elf.segments import R_RELATIVE, DynamicRelocations, LoadView
from recordmcount.sites.definitions import Definitions
from recordmcount.sites.loaded_words import Words

PARTS = range(0x1000, 0x4000, 0x1000)  # segments, one behind the other


class View:
    """Of a LoadView what is asked for; a word holds its address and 1."""

    def __init__(self, layout: elf.Layout, *tables: DynamicRelocations) -> None:
        machine = x86.EM_X86_64 if layout.is_64 else x86.EM_386
        self.obj = SimpleNamespace(layout=layout, machine=machine, type=elf.ET_DYN)
        self.segments: list[None] = []
        self._tables = tables

    def relocations(self) -> Iterator[DynamicRelocations]:
        yield from self._tables

    def file_offset(self, vaddr: int, size: int) -> int | None:
        is_there = any(one <= vaddr and vaddr + size <= one + PARTS.step for one in PARTS)
        return vaddr if is_there else None

    def read(self, vaddr: int, size: int, _what: str) -> bytes:
        assert self.file_offset(vaddr, size) is not None
        word = self.obj.layout.word
        slots = range(vaddr, vaddr + size, word)
        return b"".join((slot + 1).to_bytes(word, "little") for slot in slots)[:size]

    def word(self, vaddr: int) -> int:
        return int.from_bytes(self.read(vaddr, self.obj.layout.word, "a word"), "little")

    def symbol(self, _index: int) -> tuple[bytes, int, int]:
        return b"other", 0, elf.SHN_UNDEF


def words(view: View, *wanted: range) -> Words:
    known = Definitions(cast("LoadView", view), [b"mcount"], {})
    return Words(cast("LoadView", view), wanted, known)


def relative(slots: Sequence[int]) -> DynamicRelocations:
    return DynamicRelocations([*slots], [R_RELATIVE] * len(slots), None)


@pytest.mark.parametrize("layout", [elf.ELF64, elf.ELF32], ids=["64", "32"])
@pytest.mark.parametrize("start", [0x1800, 0x2FE8], ids=["in a segment", "in two"])
@pytest.mark.parametrize("odd", [0, 1, 3])
def test_a_range_may_end_inside_of_a_word_and_be_in_two_segments(
    odd: int, start: int, layout: elf.Layout
) -> None:
    slots = range(start, start + 16 * layout.word, layout.word)
    wanted = range(start, slots.stop - odd)
    found = words(View(layout, relative(slots)), wanted)
    assert dict(found.values.items()) == {slot: slot + 1 for slot in slots}
    assert [found.value(slot, 0) for slot in slots] == [slot + 1 for slot in slots]
