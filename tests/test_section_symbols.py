"""Section symbols added where entries have nothing to count from: every symbol index follows."""

import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from elftools.elf.relocation import RelocationSection
from elftools.elf.sections import SymbolTableIndexSection

from tests.support.elf_builder import (
    STB_LOCAL,
    STB_WEAK,
    STT_FILE,
    X86_64,
    Elf,
    Group,
    Section,
    Symbol,
    Target,
    build,
    section_symbol,
)
from tests.support.loc_table import table_entries
from tests.support.objects import R_PLT32, TARGETS, Read, as_bytes, record_file, recorded, text

SHT_LLVM_ADDRSIG = 0x6FFF4C03
SHT_LLVM_CALL_GRAPH_PROFILE_INDICES = 0x6FFF4C02  # before LLVM 13
WEAK_FIXTURES = [
    "gcc-weak", "gcc-weak-pic", "gcc-weak-sections", "gcc-i386-weak", "gcc-x32-weak",
    "clang-weak", "clang-weak-sections", "clang-i386-weak",
    "llvm-symbol-indices", "llvm-i386-symbol-indices",
]  # fmt: skip


def weak(target: Target = X86_64, *, extra: tuple[Section, ...] = (), many: int = 0) -> Elf:
    """Weak functions only: recorded, in a group, and one that is not recorded."""
    names = (".text", ".text.group", ".exit.text")
    return build(
        target,
        [text(".text", 2), text(".text.group"), text(".exit.text"), *extra],
        [
            Symbol("file.c", 0xFFF1, bind=STB_LOCAL, type=STT_FILE),
            section_symbol(".exit.text"),
            *(Symbol(f"f{name}", name, bind=STB_WEAK) for name in names),
            Symbol("__fentry__"),
            *(Symbol(f"s{number}") for number in range(many)),
        ],
        [Group("f.text.group", [".text.group"])],
    )


def meaning(path: Path) -> list[str]:
    """What every symbol index in the object means, in words; entries of new tables left out.

    Where symbols stand among those of their binding means nothing.
    """
    read = Read(path)
    said = []
    extended = [one for one in read.sections if isinstance(one, SymbolTableIndexSection)]
    for number, symbol in enumerate(read.symbols):
        index = symbol["st_shndx"]
        if index == "SHN_XINDEX":
            index = extended[0].get_section_index(number)
        if symbol["st_info"]["type"] != "STT_SECTION":
            said.append(f"{symbol.name} in {index}: {symbol['st_value']} {symbol['st_info']}")
    said.sort()
    for section in read.sections:
        if isinstance(section, RelocationSection) and not section.name.endswith("__mcount_loc"):
            for row in section.iter_relocations():
                name = read.symbol_name(row["r_info_sym"]) if row["r_info_sym"] else "nothing"
                addend = row["r_addend"] if section.is_RELA() else None
                said.append(f"{section.name}+{row['r_offset']}: {name} {addend}")
        if section["sh_type"] == "SHT_GROUP":
            said.append(f"group {read.symbol_name(section['sh_info'])}")
    return said


def turned_off(said: list[str]) -> list[str]:
    """The same when calls that no kernel may trace became NOPs: their relocations name nothing."""
    is_off = re.compile(r"\.rela?\.(exit|foo|noinstr)\.text\+").match
    names = re.compile(": (__fentry__|mcount) ")
    return [names.sub(": nothing ", line) if is_off(line) else line for line in said]


def llvm_says(path: Path) -> str:
    """What LLVM reads in the sections of its own, symbols by name."""
    done = subprocess.run(
        ["llvm-readobj", "--addrsig", "--cg-profile", path],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stderr == ""
    said = done.stdout.partition("AddressSize")[2]
    return re.sub(r" \(\d+\)", "", said)  # the indices


# --- the symbol table -----------------------------------------------------------------------------


@TARGETS
def test_new_section_symbols_are_the_last_local_ones(target: Target, tmp_path: Path) -> None:
    read = Read(recorded(tmp_path / "x.o", weak(target)))
    kinds = [(symbol["st_info"]["bind"], symbol["st_info"]["type"]) for symbol in read.symbols]
    local = [kind for kind in kinds if kind[0] == "STB_LOCAL"]
    assert kinds[: len(local)] == local
    assert local[-2:] == [("STB_LOCAL", "STT_SECTION")] * 2
    new = read.symbols[len(local) - 2 : len(local)]
    assert [read.sections[symbol["st_shndx"]].name for symbol in new] == [".text", ".text.group"]
    assert [(symbol["st_value"], symbol["st_size"], symbol.name) for symbol in new] == [
        (0, 0, "")
    ] * 2
    (symtab,) = read.named(".symtab")
    assert symtab["sh_info"] == len(local)


@TARGETS
def test_a_section_that_has_a_usable_symbol_gets_no_other(target: Target, tmp_path: Path) -> None:
    sound = build(
        target,
        [text(".text"), text(".text.weak"), text(".text.global")],
        [
            Symbol("f", ".text", bind=STB_LOCAL),
            Symbol("g", ".text.weak", bind=STB_WEAK),
            Symbol("h", ".text.global"),
            Symbol("__fentry__"),
        ],
    )
    read = Read(recorded(tmp_path / "x.o", sound))
    sections = [
        read.sections[symbol["st_shndx"]].name
        for symbol in read.symbols
        if symbol["st_info"]["type"] == "STT_SECTION"
    ]
    assert sections == [".text.weak", ".text.global"]


def test_a_section_that_is_not_recorded_needs_no_symbol(tmp_path: Path) -> None:
    sound = build(X86_64, [text(".exit.text")], [Symbol("f", ".exit.text", bind=STB_WEAK),
                                                Symbol("__fentry__")])  # fmt: skip
    path = recorded(tmp_path / "x.o", sound)
    assert len(path.read_bytes()) == len(sound.data)


# --- what follows ---------------------------------------------------------------------------------


@pytest.mark.parametrize("extended", [False, True], ids=["", "extended"])
@TARGETS
def test_every_symbol_index_means_what_it_meant(
    target: Target, extended: bool, tmp_path: Path
) -> None:
    sound = weak(target)
    if extended:
        sound = build(
            target,
            [text(".text", 2), text(".exit.text")],
            [Symbol("f", ".text", bind=STB_WEAK), Symbol("g", ".exit.text", bind=STB_WEAK),
             Symbol("absolute", 0xFFF1), Symbol("__fentry__")],
            extended_numbering=True,
        )  # fmt: skip
    before = meaning(sound.write(tmp_path / "before.o"))
    assert meaning(recorded(tmp_path / "x.o", sound)) == turned_off(before)


@pytest.mark.matrix
@pytest.mark.parametrize("name", WEAK_FIXTURES)
def test_every_symbol_index_of_a_compiled_object_means_what_it_meant(
    name: str, fixture_object: Callable[[str], Path]
) -> None:
    path = fixture_object(name)
    before, said = meaning(path), llvm_says(path)
    count = len(Read(path).symbols)
    assert record_file(path, kernel=True).err == []
    assert len(Read(path).symbols) > count
    assert meaning(path) == turned_off(before)
    assert llvm_says(path) == said


def test_nops_and_new_symbol_numbers_meet_in_one_relocation_section(tmp_path: Path) -> None:
    path = recorded(tmp_path / "x.o", weak())
    read = Read(path)
    (foo,) = read.named(".exit.text")
    row = read.relocations_of(foo).get_relocation(0)
    assert foo.data()[:1] != b"\xe8"
    assert (row["r_info"], row["r_addend"]) == (0, -4)
    row = read.relocations_of(read.named(".text")[0]).get_relocation(0)
    assert (row["r_info_type"], row["r_addend"]) == (R_PLT32, -4)


@TARGETS
def test_the_address_significance_table_follows(target: Target, tmp_path: Path) -> None:
    """Two section symbols take the places of 3 and 4, which become 147 and 148: two bytes each."""
    table = Section(
        ".llvm_addrsig", SHT_LLVM_ADDRSIG, link=".symtab", data=b"\x02\x03\x04\x05\x80\x01\x80\x00"
    )
    sound = weak(target, extra=(table,), many=140)
    assert sound.value("sections[.symtab].sh_info") == 3
    path = recorded(tmp_path / "x.o", sound)
    read = Read(path)
    assert len(read.symbols) == 149
    (section,) = read.named(".llvm_addrsig")
    # The padded 0 is written shortly.
    assert section.data() == b"\x02\x93\x01\x94\x01\x05\x80\x01\x00"


@pytest.mark.parametrize(
    ("data", "what"),
    [(b"\x02\x80", "section 8 ends inside a number"),
     (b"\xff" * 11 + b"\x01", "section 8: a number is too long")],
)  # fmt: skip
def test_a_broken_address_significance_table_is_refused(
    data: bytes, what: str, tmp_path: Path
) -> None:
    table = Section(".llvm_addrsig", SHT_LLVM_ADDRSIG, link=".symtab", data=data)
    sound = weak(extra=(table,))
    path = sound.write(tmp_path / "x.o")
    assert record_file(path).err == [f"{path}: {what}", f"{path}: failed"]
    assert path.read_bytes() == sound.data


def test_an_old_call_graph_profile_follows(tmp_path: Path) -> None:
    def entry(caller: int, callee: int) -> bytes:
        ends = caller.to_bytes(4, "little") + callee.to_bytes(4, "little")
        return ends + (77).to_bytes(8, "little")

    profile = Section(
        ".llvm.call-graph-profile",
        SHT_LLVM_CALL_GRAPH_PROFILE_INDICES,
        link=".symtab",
        data=entry(3, 1) + entry(2, 5),
    )
    path = recorded(tmp_path / "x.o", weak(extra=(profile,)))
    read = Read(path)
    (section,) = read.named(".llvm.call-graph-profile")
    assert section.data() == entry(len(read.symbols) - 2, 1) + entry(2, 5)


def test_a_section_that_may_hold_symbol_indices_is_refused(tmp_path: Path) -> None:
    strange = Section(".strange", 0x6FFF4C7F, link=".symtab", data=bytes(8))
    sound = weak(extra=(strange,))
    path = sound.write(tmp_path / "x.o")
    what = "type 0x6fff4c7f may hold symbol indices"
    assert record_file(path).err == [f"{path}: .strange: {what}", f"{path}: failed"]
    assert path.read_bytes() == sound.data


def test_where_no_symbol_is_added_a_strange_section_does_not_matter(tmp_path: Path) -> None:
    strange = Section(".strange", 0x6FFF4C7F, link=".symtab", data=bytes(8))
    symbols = [section_symbol(".text"), Symbol("__fentry__")]
    sound = build(X86_64, [text(), strange], symbols)
    assert len(table_entries(recorded(tmp_path / "x.o", sound))) == 1


def test_sections_with_indices_of_another_symbol_table_stay(tmp_path: Path) -> None:
    """As .llvm_addrsig after `ld -r` of binutils, which has no link any more."""
    table = Section(".llvm_addrsig", SHT_LLVM_ADDRSIG, data=b"\x05")
    path = recorded(tmp_path / "x.o", weak(extra=(table,)))
    assert Read(path).named(".llvm_addrsig")[0].data() == b"\x05"


# --- section numbers ------------------------------------------------------------------------------


@pytest.mark.slow
@TARGETS
def test_a_section_beyond_st_shndx_gets_a_symbol_in_the_extended_table(
    target: Target, tmp_path: Path
) -> None:
    sound = build(
        target,
        [*[Section(".filler")] * 0xFF00, text(".text.far")],
        [Symbol("f", ".text.far", bind=STB_WEAK), Symbol("__fentry__")],
    )
    path = recorded(tmp_path / "x.o", sound)
    (site,) = table_entries(path)
    assert (site.section, site.section_index, site.offset) == (".text.far", 0xFF01, 0)


# --- what cannot be trusted -----------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1, 2, 4, 77])
def test_a_symbol_table_without_a_sound_end_of_locals_is_refused(
    number: int, tmp_path: Path
) -> None:
    path = tmp_path / "x.o"
    contents = weak().patch("sections[.symtab].sh_info", number)
    path.write_bytes(contents)
    what = f"sh_info of the symbol table is {number}, where its local symbols do not end"
    assert record_file(path).err == [f"{path}: {what}", f"{path}: failed"]
    assert path.read_bytes() == contents


@pytest.mark.parametrize(
    "field", ["relocations[.text][1].r_sym", "relocations[.exit.text][0].r_sym",
              "sections[.group].sh_info"],
)  # fmt: skip
@pytest.mark.parametrize("value", [0x7FFFFF, 0xFFFFFF, 0xFFFFFFFF])
@TARGETS
def test_a_symbol_index_without_a_symbol_is_refused(
    target: Target, value: int, field: str, tmp_path: Path
) -> None:
    sound = weak(target)
    limit = (1 << 8 * sound.locate(field).size) - 1
    contents = sound.patch(field, value & limit)
    path = tmp_path / "x.o"
    path.write_bytes(contents)
    result = record_file(path)
    assert result.failed
    assert len(result.err) == 2
    assert path.read_bytes() == contents


# --- linked and run -------------------------------------------------------------------------------

PROGRAM = """
extern unsigned long __start___mcount_loc[], __stop___mcount_loc[];
static int calls;
__attribute__((no_instrument_function, section(".callee"))) void __fentry__(void) { calls++; }
__attribute__((weak)) int first(int n) { return n + 1; }
__attribute__((weak)) int second(int n) { return first(n) + 1; }
__attribute__((weak, section(".exit.text"))) int untraced(int n) { return second(n) + 1; }
__attribute__((weak)) int main(void)
{
    unsigned long *entry;
    for (entry = __start___mcount_loc; entry < __stop___mcount_loc; entry++)
        if (*(unsigned char *)*entry != 0xe8)
            return 1;
    if (entry - __start___mcount_loc != 3)
        return 2;
    if (untraced(0) != 3)
        return 3;
    return calls == 3 ? 0 : 4;  /* main, second and first */
}
"""


@pytest.mark.matrix
@pytest.mark.parametrize("linker", ["bfd", "gold", "lld", "mold"])
@pytest.mark.parametrize(
    "compiler", ["gcc", "clang", "clang -ffunction-sections", "clang -fno-integrated-as"]
)
def test_a_program_of_weak_functions_is_linked_and_runs(
    compiler: str, linker: str, tmp_path: Path
) -> None:
    source, path, program = (tmp_path / name for name in ("x.c", "x.o", "program"))
    source.write_text(PROGRAM)
    flags = ["-O1", "-fno-pic", "-pg", "-mfentry", "-fno-asynchronous-unwind-tables"]
    subprocess.run([*compiler.split(), *flags, "-fno-inline", "-c", source, "-o", path], check=True)
    before = Read(path).symbols
    after = Read(recorded(path, path.read_bytes())).symbols
    assert len(after) > len(before)
    command = ["gcc", "-no-pie", f"-fuse-ld={linker}", str(path), "-o", str(program)]
    subprocess.run(command, check=True)
    assert subprocess.run([program], check=False).returncode == 0


def test_the_contents_of_the_old_file_stay_where_they_were(tmp_path: Path) -> None:
    """Nothing but the ELF header changes in place; what has to follow is appended."""
    sound = weak(extra=(text(".text.b", calls=3),))
    path = recorded(tmp_path / "x.o", sound, all_sections=True)
    before, after = as_bytes(sound), path.read_bytes()
    assert after[64 : len(before)] == before[64:]
    assert meaning(path) == meaning(sound.write(tmp_path / "before.o"))


@TARGETS
def test_many_sections_get_symbols_and_what_names_those_that_move_follows(
    target: Target, tmp_path: Path
) -> None:
    """Each of 40 functions calls __fentry__, which stays, and the one before it, which moves."""
    sections = []
    for number in range(40):
        code = text(f".text.f{number}", calls=2)
        entry, call = code.relocations
        callee = f"f{number - 1}" if number else "__fentry__"
        sections.append(replace(code, relocations=[entry, replace(call, symbol=callee)]))
    symbols = [*(Symbol(f"f{number}", f".text.f{number}") for number in range(40)),
               *(Symbol(f"s{number}") for number in range(40)), Symbol("__fentry__")]  # fmt: skip
    sound = build(target, sections, symbols)
    before = meaning(sound.write(tmp_path / "before.o"))
    path = recorded(tmp_path / "x.o", sound)
    assert meaning(path) == before
    assert [site.section for site in table_entries(path)] == sorted(
        [".text.f0", *(f".text.f{number}" for number in range(40))], key=lambda name: int(name[7:])
    )


# --- cheap ----------------------------------------------------------------------------------------


def test_a_section_of_relocations_that_name_no_moved_symbol_is_not_written_again(
    tmp_path: Path,
) -> None:
    """`__fentry__` moves, if it is the first global symbol, and not if it is another."""
    sizes = []
    for symbols in (["__fentry__", "f"], ["f", "__fentry__"]):
        sound = build(
            X86_64, [text(calls=1000)],
            [Symbol(name, ".text" if name == "f" else 0) for name in symbols],
        )  # fmt: skip
        path = recorded(tmp_path / "x.o", sound)
        sizes.append(len(path.read_bytes()) - len(sound.data))
    assert sizes[0] - sizes[1] == 24 * 1000
