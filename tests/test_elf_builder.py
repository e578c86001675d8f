"""The ELF writer of the tests, read back by pyelftools and binutils, which do not know it."""

import io
import subprocess
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection
from elftools.elf.sections import Section as ELFSection
from elftools.elf.sections import SymbolTableIndexSection, SymbolTableSection

from tests.support.elf_builder import (
    I386,
    SHF_ALLOC,
    SHF_EXECINSTR,
    SHF_GROUP,
    SHF_LINK_ORDER,
    SHN_ABS,
    SHT_NOBITS,
    STB_LOCAL,
    STB_WEAK,
    STT_FUNC,
    X32,
    X86_64,
    Elf,
    Group,
    Relocation,
    Section,
    Symbol,
    Target,
    build,
    section_symbol,
)

AX = SHF_ALLOC | SHF_EXECINSTR
TARGETS = pytest.mark.parametrize("target", [X86_64, I386, X32], ids=["x86_64", "i386", "x32"])
R_PC32 = 2  # the same number in both psABIs
CALL = b"\xe8\0\0\0\0\xc3"


def typical(
    target: Target, *, extended_numbering: bool = False, shared_strtab: bool = False
) -> Elf:
    """Two callers of mcount, one of them in a COMDAT group with a link-order companion."""
    return build(
        target,
        [
            Section(".text", flags=AX, align=16, data=CALL,
                    relocations=[Relocation(1, R_PC32, "mcount", -4)]),
            Section(".text.g", flags=AX, data=b"\x90" + CALL,
                    relocations=[Relocation(2, R_PC32, "mcount", -4),
                                 Relocation(2, 0, ".text", 0)]),
            Section("companion", flags=SHF_ALLOC | SHF_LINK_ORDER, data=b"\1", link=".text.g"),
            Section(".bss", SHT_NOBITS, flags=SHF_ALLOC, size=4096),
        ],
        [
            Symbol("f", ".text", value=0, size=6, type=STT_FUNC),
            Symbol("g", ".text.g", value=1, size=6, bind=STB_WEAK, type=STT_FUNC),
            Symbol("file.c", SHN_ABS, bind=STB_LOCAL),
            section_symbol(".text"),
            Symbol("mcount"),
        ],
        [Group("g", [".text.g", "companion"])],
        extended_numbering=extended_numbering,
        shared_strtab=shared_strtab,
    )  # fmt: skip


def readelf(elf: Elf, tmp_path: Path, *options: str) -> str:
    """Return what readelf prints; the test fails if it has anything to warn of."""
    path = elf.write(tmp_path / "built.o")
    done = subprocess.run(
        ["readelf", "-W", *options, path], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return done.stdout


def parse(elf: Elf) -> ELFFile:
    return ELFFile(io.BytesIO(elf.data))


def section(file: ELFFile, name: str) -> ELFSection:
    found = file.get_section_by_name(name)
    assert found is not None
    return found


def symbol_table(file: ELFFile) -> SymbolTableSection:
    table = section(file, ".symtab")
    assert isinstance(table, SymbolTableSection)
    return table


@TARGETS
@pytest.mark.parametrize("extended_numbering", [False, True])
@pytest.mark.parametrize("shared_strtab", [False, True])
def test_readelf_reads_every_part_without_a_warning(
    target: Target, extended_numbering: bool, shared_strtab: bool, tmp_path: Path
) -> None:
    elf = typical(target, extended_numbering=extended_numbering, shared_strtab=shared_strtab)
    text = readelf(elf, tmp_path, "-h", "-S", "-s", "-r", "-g")
    for word in ("mcount", "file.c", "COMDAT", "companion", ".symtab"):
        assert word in text
    assert ("SYMTAB SECTION INDICES" in text) == extended_numbering
    assert (".shstrtab" in text) != shared_strtab


@TARGETS
def test_pyelftools_reads_back_what_was_described(target: Target) -> None:
    file = parse(typical(target))
    assert file.elfclass == {1: 32, 2: 64}[target.elf_class]
    assert [section.name for section in file.iter_sections()][:6] == [
        "", ".group", ".text",
        ".rela.text" if target.rela else ".rel.text",
        ".text.g",
        ".rela.text.g" if target.rela else ".rel.text.g",
    ]  # fmt: skip
    names = [symbol.name for symbol in symbol_table(file).iter_symbols()]
    assert names == ["", "file.c", "", "f", "g", "mcount"]
    assert symbol_table(file)["sh_info"] == 3
    assert section(file, ".bss")["sh_size"] == 4096


@TARGETS
def test_relocations_and_their_addends(target: Target) -> None:
    elf = typical(target)
    file = parse(elf)
    relocations = file.get_section(elf.section_index(".text.g") + 1)
    assert isinstance(relocations, RelocationSection)
    rows = [(row["r_offset"], row["r_info_type"], row["r_info_sym"])
            for row in relocations.iter_relocations()]  # fmt: skip
    assert rows == [(2, R_PC32, 5), (2, 0, 2)]
    code = file.get_section(elf.section_index(".text.g")).data()
    if target.rela:
        assert [row["r_addend"] for row in relocations.iter_relocations()] == [-4, 0]
        assert code == b"\x90" + CALL
    else:
        assert code == b"\x90\xe8\xfc\xff\xff\xff\xc3"


def test_a_group_holds_its_members_and_their_relocations() -> None:
    elf = typical(X86_64)
    members = ["sections[.text.g]", "sections[.rela.text.g]", "sections[companion]"]
    assert [elf.value(f"group[g][{n}].word") for n in range(4)] == [
        1, *(elf.section_index(name) for name in (".text.g", ".rela.text.g", "companion")),
    ]  # fmt: skip
    assert all(elf.value(f"{member}.sh_flags") & SHF_GROUP for member in members)
    assert not elf.value("sections[.text].sh_flags") & SHF_GROUP


@TARGETS
def test_the_linker_resolves_the_calls(target: Target, tmp_path: Path) -> None:
    emulation = {X86_64: "elf_x86_64", I386: "elf_i386", X32: "elf32_x86_64"}[target]
    program = tmp_path / "program"
    subprocess.run(
        ["ld", "-m", emulation, "--defsym=mcount=f", "-e", "f", "-o", program,
         typical(target).write(tmp_path / "built.o")],
        check=True,
    )  # fmt: skip
    with ELFFile.load_from_path(str(program)) as file:
        text = section(file, ".text").data()
    assert text.startswith(b"\xe8\xfb\xff\xff\xff")  # f calls itself: -5


def test_extended_numbering_in_a_small_file() -> None:
    elf = typical(X86_64, extended_numbering=True)
    assert elf.value("e_shnum") == 0
    assert elf.value("e_shstrndx") == elf.value("symbols[f].st_shndx") == 0xFFFF
    file = parse(elf)
    assert file.num_sections() == len(elf.section_names)
    indices = file.get_section_by_name(".symtab_shndx")
    assert isinstance(indices, SymbolTableIndexSection)
    f = elf.symbol_names.index("f")
    assert indices.get_section_index(f) == elf.section_index(".text")
    assert elf.value("symbols[file.c].st_shndx") == SHN_ABS


def test_more_sections_than_a_half_word_counts(tmp_path: Path) -> None:
    number = 0xFF00 + 100
    elf = build(
        X86_64,
        [Section(f".text.f{n}", flags=AX, data=b"\xc3") for n in range(number)],
        [Symbol("low", ".text.f0"), Symbol("high", f".text.f{number - 1}")],
    )
    assert elf.value("symbols[low].st_shndx") == 1
    assert elf.value("symbols[high].st_shndx") == 0xFFFF
    assert f" {number} high" in readelf(elf, tmp_path, "-s")


@TARGETS
def test_a_patch_changes_one_field_and_nothing_else(target: Target) -> None:
    elf = typical(target)
    for name in elf.fields():
        offset, size = elf.locate(name)
        corrupted = elf.patch(name, -1)
        assert corrupted[offset : offset + size] == b"\xff" * size
        assert corrupted[:offset] == elf.data[:offset]
        assert corrupted[offset + size :] == elf.data[offset + size :]


@TARGETS
def test_fields_lie_where_pyelftools_reads_them(target: Target) -> None:
    elf = typical(target)
    file = ELFFile(io.BytesIO(elf.patch_all({
        "e_flags": 7,
        "sections[.text].sh_addralign": 32,
        "symbols[f].st_value": 5,
        "relocations[.text][0].r_sym": 3,
    })))  # fmt: skip
    assert file["e_flags"] == 7
    assert section(file, ".text")["sh_addralign"] == 32
    named_f = symbol_table(file).get_symbol_by_name("f")
    assert named_f is not None
    assert named_f[0]["st_value"] == 5
    relocations = file.get_section(elf.section_index(".text") + 1)
    assert isinstance(relocations, RelocationSection)
    assert relocations.get_relocation(0)["r_info_sym"] == 3
    assert relocations.get_relocation(0)["r_info_type"] == R_PC32


@pytest.mark.parametrize(
    "name",
    ["e_nothing", "sections[.nowhere].sh_size", "sections[99].sh_size", "symbols[f].sh_size"],
)
def test_an_unknown_field_is_an_error(name: str) -> None:
    with pytest.raises((KeyError, ValueError)):
        typical(X86_64).locate(name)


def test_a_value_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(OverflowError):
        typical(X86_64).patch("e_shnum", 0x10000)
