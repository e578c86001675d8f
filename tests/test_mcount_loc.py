"""The words of `__mcount_loc` and their relocations, read by others and read back."""

from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection

from recordmcount import mcount_loc
from tests.support.elf_builder import (
    I386,
    X32,
    X86_64,
    Symbol,
    Target,
    build,
)
from tests.support.loc_table import table_entries
from tests.support.objects import TARGETS, caller, parsed, recorded, text
from tests.support.oracle import Site

WORDS = [(X86_64, 8, "R_X86_64_64"), (X32, 4, "R_X86_64_32"), (I386, 4, "R_386_32")]
KINDS = {"R_X86_64_64": 1, "R_X86_64_32": 10, "R_386_32": 1}
WORD = pytest.mark.parametrize(("target", "word", "kind"), WORDS, ids=["x86_64", "x32", "i386"])


@WORD
def test_a_word_is_an_address_that_a_relocation_fills_in(
    target: Target, word: int, kind: str
) -> None:
    obj = parsed(caller(target=target).data)
    assert mcount_loc.word_relocation(obj) == KINDS[kind]
    assert mcount_loc.uses_rela(obj) == target.rela
    words, _ = mcount_loc.encode(obj, [(3, [0, 6, 12]), (5, [-1])])
    assert len(words) == 4 * word


@WORD
def test_the_value_is_in_the_addend_or_in_place(target: Target, word: int, kind: str) -> None:
    obj = parsed(caller(target=target).data)
    words, relocations = mcount_loc.encode(obj, [(3, [6, -2]), (500, [1 << 20])])
    values = [6, -2, 1 << 20]
    if target.rela:
        assert words == bytes(3 * word)
        addends = [
            int.from_bytes(relocations[at + 2 * word : at + 3 * word], "little", signed=True)
            for at in range(0, len(relocations), 3 * word)
        ]
        assert addends == values
    else:
        assert len(relocations) == 3 * 8
        assert words == b"".join(value.to_bytes(4, "little", signed=True) for value in values)


@pytest.mark.parametrize("count", [mcount_loc.BLOCK - 1, mcount_loc.BLOCK, mcount_loc.BLOCK + 1])
@TARGETS
def test_a_long_table_has_every_entry_in_order(target: Target, count: int, tmp_path: Path) -> None:
    sections = [text(".text.first", 5), text(".text.second", count)]
    symbols = [Symbol("f", ".text.first"), Symbol("g", ".text.second", 6), Symbol("__fentry__")]
    sound = build(target, sections, symbols)
    assert table_entries(recorded(tmp_path / "x.o", sound)) == [
        Site(name, sound.section_index(name), 6 * number)
        for name, length in ((".text.first", 5), (".text.second", count))
        for number in range(length)
    ]


@WORD
def test_the_linkers_table_has_one_pointer_a_call(
    target: Target, word: int, kind: str, tmp_path: Path
) -> None:
    path = recorded(
        tmp_path / "x.o",
        build(target, [text(calls=3)], [Symbol("f", ".text", 6), Symbol("__fentry__")]),
    )
    with path.open("rb") as stream:
        file = ELFFile(stream)
        (relocations,) = (
            section
            for section in file.iter_sections()
            if isinstance(section, RelocationSection) and section.name.endswith("__mcount_loc")
        )
        section = file.get_section(relocations["sh_info"])
        assert section.name == "__mcount_loc"
        assert (section["sh_size"], section["sh_entsize"], section["sh_addralign"]) == (
            3 * word, word, word,
        )  # fmt: skip
        assert [row["r_offset"] for row in relocations.iter_relocations()] == [0, word, 2 * word]
        assert {row["r_info_type"] for row in relocations.iter_relocations()} == {KINDS[kind]}
    assert [site.offset for site in table_entries(path)] == [0, 6, 12]
