"""The words of `__mcount_loc` and their relocations, read by others and read back."""

from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection

from recordmcount import table
from recordmcount.errors import FormatError
from tests.elf_builder import (
    I386,
    SHF_ALLOC,
    STB_LOCAL,
    X32,
    X86_64,
    Relocation,
    Section,
    Symbol,
    Target,
    build,
)
from tests.loc_table import table_entries
from tests.objects import TARGETS, caller, parsed, recorded, text
from tests.oracle import Site

WORDS = [(X86_64, 8, "R_X86_64_64"), (X32, 4, "R_X86_64_32"), (I386, 4, "R_386_32")]
KINDS = {"R_X86_64_64": 1, "R_X86_64_32": 10, "R_386_32": 1}
WORD = pytest.mark.parametrize(("target", "word", "kind"), WORDS, ids=["x86_64", "x32", "i386"])


@WORD
def test_a_word_is_an_address_that_a_relocation_fills_in(
    target: Target, word: int, kind: str
) -> None:
    obj = parsed(caller(target=target).data)
    assert table.word_relocation(obj) == KINDS[kind]
    assert table.uses_rela(obj) == target.rela
    words, _ = table.encode(obj, [(3, [0, 6, 12]), (5, [-1])])
    assert len(words) == 4 * word


@WORD
def test_the_value_is_in_the_addend_or_in_place(target: Target, word: int, kind: str) -> None:
    obj = parsed(caller(target=target).data)
    words, relocations = table.encode(obj, [(3, [6, -2]), (500, [1 << 20])])
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


@TARGETS
def test_a_table_reads_back_as_it_was_written(target: Target, tmp_path: Path) -> None:
    names = (".text", ".init.text", ".text.unlikely")
    path = recorded(tmp_path / "x.o", caller(*names, target=target))
    obj = parsed(path.read_bytes())
    (index,) = obj.named(table.NAME)
    decoded = [
        Site(obj.section(section).name, section, at) for section, at in table.decode(obj, index)
    ]
    assert decoded == table_entries(path)
    assert [site.section for site in decoded] == [*names]


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


def tabled(relocation: Relocation, size: int = 8) -> bytes:
    return build(
        X86_64,
        [Section(".text", data=bytes(8)),
         Section("__mcount_loc", flags=SHF_ALLOC, data=bytes(size), relocations=[relocation])],
        [Symbol("f", ".text", bind=STB_LOCAL)],
    ).data  # fmt: skip


@pytest.mark.parametrize(
    ("relocation", "message"),
    [
        (Relocation(0, 2, "f"), "__mcount_loc+0x0: unknown relocation"),
        (Relocation(0, 1, 77), "__mcount_loc+0x0: unknown relocation"),
    ],
)
def test_what_is_no_entry_is_not_decoded(relocation: Relocation, message: str) -> None:
    obj = parsed(tabled(relocation))
    with pytest.raises(FormatError) as error:
        table.decode(obj, obj.named(table.NAME)[0])
    assert str(error.value) == f"object.o: {message}"


def test_a_word_without_a_relocation_is_not_decoded() -> None:
    obj = parsed(tabled(Relocation(0, 1, "f"), size=16))
    with pytest.raises(FormatError):
        table.decode(obj, obj.named(table.NAME)[0])
