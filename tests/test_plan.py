"""What recording changes in an object: the tables, the NOPs, and nothing else."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from recordmcount import x86
from recordmcount.x86 import CallForm
from tests.support.elf_builder import (
    I386,
    SHF_ALLOC,
    SHF_EXECINSTR,
    SHF_GROUP,
    SHF_LINK_ORDER,
    SHF_WRITE,
    SHN_LORESERVE,
    STB_GLOBAL,
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
from tests.support.loc_table import table_entries
from tests.support.objects import (
    AX,
    CALL,
    EVERY_FORM,
    R_PLT32,
    TARGETS,
    Read,
    caller,
    record_file,
    recorded,
    text,
)
from tests.support.oracle import Site

RECORDED = [
    ".text", ".text.unlikely", ".text.hot.f", ".textual", ".init.text", ".ref.text", ".sched.text",
    ".spinlock.text", ".irqentry.text", ".softirqentry.text", ".kprobes.text", ".cpuidle.text",
]  # fmt: skip
OF_A_KERNEL = [
    ".exit.text", ".noinstr.text", ".init.text.f", ".fixup", ".meminit.text", ".altinstr_aux",
]  # fmt: skip
OF_A_PROGRAM = [
    "text", "plugin_code", ".ltext", ".ltext.unlikely.f", ".unlikely", "text.hot", ".init", ".fini",
]  # fmt: skip


def bases(path: Path) -> list[str]:
    """Of each entry the name of the base symbol, or of its section where it has none."""
    read = Read(path)
    return [
        read.symbol_name(row["r_info_sym"])
        for table in read.tables
        for row in read.relocations_of(table).iter_relocations()
    ]


def with_symbols(*symbols: Symbol, calls: int = 1, target: Target = X86_64) -> Elf:
    return build(target, [text(calls=calls)], [*symbols, Symbol("__fentry__")])


def in_group(target: Target = X86_64) -> Elf:
    """A plain function and one in a COMDAT group, as of two inline C++ functions."""
    sections = [text(".text"), text(".text.inline", 2), text(".exit.text")]
    symbols = [
        section_symbol(".text.inline"),
        Symbol("plain", ".text", type=STT_FUNC),
        Symbol("inline", ".text.inline", bind=STB_WEAK, type=STT_FUNC),
        Symbol("__fentry__"),
    ]
    return build(target, sections, symbols, [Group("inline", [".text.inline"])])


# --- which sections -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*RECORDED, *OF_A_PROGRAM])
def test_calls_in_loaded_code_get_entries(name: str, tmp_path: Path) -> None:
    sound = caller(name)
    path = recorded(tmp_path / "x.o", sound)
    assert table_entries(path) == [Site(name, 1, 0)]
    assert path.read_bytes()[64 : len(sound.data)] == sound.data[64:]


def assert_nop(name: str, path: Path) -> None:
    assert [site for site in table_entries(path) if site.section == name] == []
    assert Read(path).named(name)[0].data() == x86.NOP5 + b"\xc3"


@pytest.mark.parametrize("name", OF_A_KERNEL)
def test_calls_that_no_kernel_may_trace_become_nops(name: str, tmp_path: Path) -> None:
    sound = caller(name)
    path = recorded(tmp_path / "x.o", sound)
    assert_nop(name, path)
    assert len(path.read_bytes()) == len(sound.data)


@pytest.mark.parametrize("name", ["text", ".unlikely"])
@pytest.mark.parametrize(
    "sign",
    [".init.text", ".modinfo", "__ksymtab+printk", ".discard.addressable", ".initcall6.init",
     "__bug_table", ".altinstructions", ".data..percpu"],
)  # fmt: skip
def test_one_section_of_a_kernels_own_tells_that_an_object_is_a_kernels(
    sign: str, name: str, tmp_path: Path
) -> None:
    symbols = [Symbol("f", name, type=STT_FUNC), Symbol("__fentry__")]
    sections = [text(name), Section(sign, data=b"sign", flags=SHF_ALLOC)]
    assert_nop(name, recorded(tmp_path / "x.o", build(X86_64, sections, symbols)))


@pytest.mark.parametrize("name", [*OF_A_KERNEL, "text", ".foo.text"])
def test_one_may_say_that_it_is_a_kernels(name: str, tmp_path: Path) -> None:
    assert_nop(name, recorded(tmp_path / "x.o", caller(name), kernel=True))


@pytest.mark.parametrize("name", RECORDED)
def test_a_kernels_list_is_the_same_whoever_says_so(name: str, tmp_path: Path) -> None:
    path = recorded(tmp_path / "x.o", caller(name), kernel=True)
    assert table_entries(path) == [Site(name, 1, 0)]


@pytest.mark.parametrize("name", [*OF_A_KERNEL, *OF_A_PROGRAM, ".foo.text"])
def test_with_all_sections_they_get_entries(name: str, tmp_path: Path) -> None:
    path = recorded(tmp_path / "x.o", caller(name), all_sections=True)
    assert table_entries(path) == [Site(name, 1, 0)]
    assert Read(path).named(name)[0].data() == CALL


@pytest.mark.parametrize("all_sections", [False, True])
@TARGETS
def test_code_that_is_never_loaded_is_never_recorded(
    target: Target, all_sections: bool, tmp_path: Path
) -> None:
    sound = caller(".text.loaded", ".text.not", target=target)
    contents = sound.patch("sections[.text.not].sh_flags", SHF_EXECINSTR)
    path = recorded(tmp_path / "x.o", contents, all_sections=all_sections)
    assert [site.section for site in table_entries(path)] == [".text.loaded"]
    assert Read(path).named(".text.not")[0].data()[:1] != b"\xe8"


# --- NOPs -----------------------------------------------------------------------------------------


@EVERY_FORM
def test_of_a_call_without_entry_only_code_and_what_its_relocation_names_change(
    target: Target, kind: int, form: CallForm, tmp_path: Path
) -> None:
    call = form.prefix + bytes(form.width) + form.suffix
    relocations = [
        Relocation(0, kind, "other"),
        Relocation(8 + len(form.prefix), kind, "mcount", form.addend),
        Relocation(8 + len(call), kind, "other"),
    ]
    code = Section(".exit.text", flags=AX, data=bytes(8) + call + bytes(8), relocations=relocations)
    sound = build(target, [code], [Symbol("mcount"), Symbol("other")])
    path = recorded(tmp_path / "x.o", sound)
    gone = {f"relocations[.exit.text][1].{field}": 0 for field in ("r_type", "r_sym")}
    expected = bytearray(sound.patch_all(gone))
    start = sound.value("sections[.exit.text].sh_offset") + 8
    expected[start : start + len(call)] = form.nop
    assert path.read_bytes() == expected


def test_entries_and_nops_may_come_together(tmp_path: Path) -> None:
    sound = caller(".text", ".exit.text", ".init.text", ".fixup")
    path = recorded(tmp_path / "x.o", sound)
    assert [site.section for site in table_entries(path)] == [".text", ".init.text"]
    read = Read(path)
    for name, code in ((".text", CALL), (".exit.text", x86.NOP5 + b"\xc3")):
        assert read.named(name)[0].data() == code
    neutral = read.relocations_of(read.named(".exit.text")[0]).get_relocation(0)
    assert (neutral["r_info"], neutral["r_addend"]) == (0, -4)


def test_a_section_that_lies_over_a_header_is_not_made_nops(tmp_path: Path) -> None:
    contents = caller(".exit.text").patch_all(
        {"EI_PAD": 0xE8, "sections[.exit.text].sh_offset": 8, "sections[.exit.text].sh_size": 8}
    )
    path = tmp_path / "x.o"
    path.write_bytes(contents)
    assert record_file(path).err == [
        f"{path}: the ELF header and section 1 overlap at file offset 0x8",
        f"{path}: failed",
    ]
    assert path.read_bytes() == contents


# --- the table ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "word", "relocations"),
    [(X86_64, 8, "SHT_RELA"), (X32, 4, "SHT_RELA"), (I386, 4, "SHT_REL")],
    ids=["x86_64", "x32", "i386"],
)
def test_the_table_is_one_read_only_section_with_its_relocations(
    target: Target, word: int, relocations: str, tmp_path: Path
) -> None:
    read = Read(recorded(tmp_path / "x.o", caller(".text", ".init.text", target=target)))
    (table,) = read.tables
    assert (table["sh_type"], table["sh_flags"]) == ("SHT_PROGBITS", SHF_ALLOC)
    assert (table["sh_addralign"], table["sh_entsize"], table["sh_size"]) == (word, word, 2 * word)
    assert table["sh_offset"] % word == 0
    own = read.relocations_of(table)
    assert own.name == (".rel" if relocations == "SHT_REL" else ".rela") + "__mcount_loc"
    assert (own["sh_type"], own["sh_flags"], own["sh_addralign"]) == (relocations, 0, word)
    assert read.sections[own["sh_link"]].name == ".symtab"
    assert read.sections[-2:] == [table, own]


@TARGETS
def test_what_is_appended_comes_in_the_order_of_the_kernels_tool(
    target: Target, tmp_path: Path
) -> None:
    sound = caller(target=target)
    read = Read(recorded(tmp_path / "x.o", sound))
    names = read.named(".shstrtab")[0]["sh_offset"]
    places = [len(sound.data), names, read.file["e_shoff"], read.tables[0]["sh_offset"],
              read.sections[-1]["sh_offset"]]  # fmt: skip
    assert places == sorted(places)
    assert names == len(sound.data)


@pytest.mark.parametrize("shared_strtab", [False, True])
@TARGETS
def test_all_that_was_in_the_object_is_still_there(
    target: Target, shared_strtab: bool, tmp_path: Path
) -> None:
    sections = [text(), Section(".data", flags=SHF_ALLOC | SHF_WRITE, data=b"data")]
    symbols = [
        Symbol("f", ".text", bind=STB_LOCAL), Symbol("d", ".data"), Symbol("__fentry__"),
    ]  # fmt: skip
    sound = build(target, sections, symbols, shared_strtab=shared_strtab)
    before = Read(sound.write(tmp_path / "before.o"))
    after = Read(recorded(tmp_path / "x.o", sound))
    for old, new in zip(before.sections, after.sections, strict=False):
        assert new.name == old.name
        if old.name not in (".shstrtab", ".strtab"):
            assert dict(new.header) == dict(old.header, sh_name=new["sh_name"])
        assert new.data()[: len(old.data())] == old.data()
    assert [symbol.name for symbol in after.symbols] == list(sound.symbol_names)
    assert [section.name for section in after.sections[len(before.sections) :]] == [
        "__mcount_loc",
        (".rela" if target.rela else ".rel") + "__mcount_loc",
    ]


@pytest.mark.parametrize("shape", [caller(".text", ".exit.text"), in_group()])
@pytest.mark.parametrize("options", [{}, {"gc_sections": True}, {"pic": True}], ids=str)
def test_a_second_run_changes_nothing(shape: Elf, options: dict[str, bool], tmp_path: Path) -> None:
    path = recorded(tmp_path / "x.o", shape, **options)
    once = path.read_bytes()
    result = record_file(path, **options)
    assert result.err == [f"warning: __mcount_loc already exists: {path}"]
    assert not result.failed
    assert path.read_bytes() == once


@pytest.mark.matrix
@pytest.mark.parametrize("option", ["warn", "all_sections", "gc_sections"])
@TARGETS
def test_binutils_and_llvm_have_nothing_to_warn_of(
    target: Target, option: str, tmp_path: Path
) -> None:
    path = recorded(tmp_path / "x.o", in_group(target), **{option: True})
    for tool in ("readelf", "llvm-readelf"):
        done = subprocess.run([tool, "-aW", path], check=True, capture_output=True, text=True)
        assert done.stderr == ""


# --- base symbols ---------------------------------------------------------------------------------

PLAIN = Symbol("plain", ".text", 6)
LOCAL = Symbol("local", ".text", bind=STB_LOCAL)
WEAK = Symbol("weak", ".text", bind=STB_WEAK)
IFUNC = Symbol("ifunc", ".text", type=10, bind=STB_LOCAL)
BEYOND = Symbol("beyond", ".text", 1 << 40, bind=STB_LOCAL)
ELSEWHERE = Symbol("elsewhere", 0xFFF1, bind=STB_LOCAL)


@pytest.mark.parametrize(
    ("symbols", "base"),
    [
        ((PLAIN,), ".text"),
        ((WEAK,), ".text"),
        ((Symbol("unique", ".text", bind=10),), ".text"),
        ((LOCAL, PLAIN), "local"),
        ((IFUNC, LOCAL), "local"),
        ((BEYOND, LOCAL), "local"),
        ((ELSEWHERE, LOCAL), "local"),
        ((Symbol("last", ".text", 18, bind=STB_LOCAL), LOCAL), "last"),
        ((section_symbol(".text"), LOCAL, PLAIN), ".text"),
        ((IFUNC, PLAIN), ".text"),
        ((WEAK, BEYOND, ELSEWHERE), ".text"),
    ],
    ids=lambda value: (
        ",".join(s.name or "section" for s in value)
        if isinstance(value, tuple) and isinstance(value[0], Symbol)
        else ""
    ),
)
@pytest.mark.parametrize("option", ["stats", "pic", "gc_sections", "all_sections"])
def test_entries_count_from_a_symbol_of_their_own_section_that_no_linker_binds_elsewhere(
    symbols: Sequence[Symbol], base: str, option: str, tmp_path: Path
) -> None:
    path = recorded(tmp_path / "x.o", with_symbols(*symbols, calls=3), **{option: True})
    assert bases(path) == [base] * 3
    assert [site.offset for site in table_entries(path)] == [0, 6, 12]


@TARGETS
def test_the_table_of_a_group_does_not_count_from_a_global_symbol(
    target: Target, tmp_path: Path
) -> None:
    sections = [text(".text.inline"), text(".text")]
    symbols = [Symbol(name, section, bind=STB_GLOBAL) for name, section in (
        ("inline", ".text.inline"), ("plain", ".text"), ("__fentry__", 0))]  # fmt: skip
    sound = build(target, sections, symbols, [Group("inline", [".text.inline"])])
    path = recorded(tmp_path / "x.o", sound)
    assert bases(path) == [".text.inline", ".text"]
    assert [site.section for site in table_entries(path)] == [".text.inline", ".text"]


# --- PIC ------------------------------------------------------------------------------------------


@EVERY_FORM
def test_a_table_is_writable_if_a_call_is_of_a_pic_form(
    target: Target, kind: int, form: CallForm, tmp_path: Path
) -> None:
    call = form.prefix + bytes(form.width) + form.suffix
    relocations = [Relocation(len(form.prefix), kind, "mcount", form.addend)]
    sections = [text(), Section(".text.other", flags=AX, data=call, relocations=relocations)]
    sound = build(target, sections, [section_symbol(".text"), section_symbol(".text.other"),
                                     Symbol("__fentry__"), Symbol("mcount")])  # fmt: skip
    (table,) = Read(recorded(tmp_path / "x.o", sound)).tables
    assert table["sh_flags"] == SHF_ALLOC | (SHF_WRITE if form.pic else 0)


@TARGETS
def test_with_pic_every_table_is_writable(target: Target, tmp_path: Path) -> None:
    read = Read(recorded(tmp_path / "x.o", in_group(target), pic=True))
    assert len(read.tables) == 2
    assert all(table["sh_flags"] & SHF_WRITE for table in read.tables)


# --- groups and --gc-sections ---------------------------------------------------------------------


def group_members(path: Path) -> list[str]:
    """The names of the members of the first group, the flag word checked."""
    read = Read(path)
    data = read.named(".group")[0].data()
    words = [int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), 4)]
    assert words[0] == 1
    return [f"{read.sections[word].name} {word}" for word in words[1:]]


@TARGETS
def test_a_section_in_a_group_has_its_own_table_in_the_same_group(
    target: Target, tmp_path: Path
) -> None:
    sound = in_group(target)
    path = recorded(tmp_path / "x.o", sound)
    read = Read(path)
    plain, grouped = read.tables
    assert (plain["sh_flags"], plain["sh_link"]) == (SHF_ALLOC, 0)
    assert (grouped["sh_flags"], grouped["sh_link"]) == (SHF_ALLOC | SHF_GROUP, 0)
    own = read.relocations_of(grouped)
    assert own["sh_flags"] == SHF_GROUP
    prefix = ".rela" if target.rela else ".rel"
    inline = sound.section_index(".text.inline")
    table = read.sections.index(grouped)
    assert group_members(path) == [
        f".text.inline {inline}", f"{prefix}.text.inline {inline + 1}",
        f"__mcount_loc {table}", f"{prefix}__mcount_loc {table + 1}",
    ]  # fmt: skip
    assert [site.section for site in table_entries(path)] == [".text", *[".text.inline"] * 2]


@TARGETS
def test_with_gc_sections_each_text_section_has_a_table_linked_to_it(
    target: Target, tmp_path: Path
) -> None:
    sound = in_group(target)
    path = recorded(tmp_path / "x.o", sound, gc_sections=True, all_sections=True)
    read = Read(path)
    flags = SHF_ALLOC | SHF_LINK_ORDER
    assert [(table["sh_flags"], read.sections[table["sh_link"]].name) for table in read.tables] == [
        (flags, ".text"),
        (flags | SHF_GROUP, ".text.inline"),
        (flags, ".exit.text"),
    ]
    assert len(group_members(path)) == 4


def test_two_groups_each_have_their_own_table(tmp_path: Path) -> None:
    names = ["one", "two"]
    sound = build(
        X86_64,
        [text(f".text.{name}") for name in names],
        [*(section_symbol(f".text.{name}") for name in names),
         *(Symbol(name, f".text.{name}", bind=STB_WEAK) for name in names),
         Symbol("__fentry__")],
        [Group(name, [f".text.{name}"]) for name in names],
    )  # fmt: skip
    read = Read(recorded(tmp_path / "x.o", sound))
    assert len(read.tables) == 2
    for group, table in zip(read.named(".group"), read.tables, strict=True):
        data = group.data()
        members = [int.from_bytes(data[at : at + 4], "little") for at in range(4, len(data), 4)]
        assert read.sections.index(table) in members
        assert len(members) == 4


def test_a_group_of_an_impossible_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.o"
    path.write_bytes(in_group().patch("sections[.group].sh_size", 6))
    result = record_file(path)
    assert result.err[0] == f"{path}: section group 1 has an impossible size"


# --- section numbers ------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [SHN_LORESERVE - 3, SHN_LORESERVE - 2, SHN_LORESERVE - 1])
@TARGETS
def test_two_more_sections_may_be_too_many_for_e_shnum(
    target: Target, before: int, tmp_path: Path
) -> None:
    fillers = before - len(caller(target=target).section_names)
    sound = build(
        target,
        [text(), *[Section(".filler")] * fillers],
        [Symbol("f", ".text"), Symbol("__fentry__")],
    )
    assert sound.value("e_shnum") == before
    path = recorded(tmp_path / "x.o", sound)
    with path.open("rb") as stream:
        file = ELFFile(stream)
        after = before + 2
        assert file["e_shnum"] == (after if after < SHN_LORESERVE else 0)
        assert file.num_sections() == after
        assert file["e_shstrndx"] == sound.value("e_shstrndx")
        first = file.get_section(0)
        assert first["sh_size"] == (0 if after < SHN_LORESERVE else after)
        assert file.get_section(after - 2).name == "__mcount_loc"
        assert file.get_section(1).name == ".text"


@TARGETS
def test_an_object_that_numbers_few_sections_as_if_they_were_many_stays_consistent(
    target: Target, tmp_path: Path
) -> None:
    """The gABI has the count either in e_shnum or in section 0's sh_size, never in both."""
    sound = build(
        target, [text()], [Symbol("f", ".text"), Symbol("__fentry__")], extended_numbering=True
    )
    read = Read(recorded(tmp_path / "x.o", sound))
    assert {read.file["e_shnum"], read.sections[0]["sh_size"]} == {0, len(read.sections)}
    assert read.named(".text")[0]["sh_size"] == 6
    assert [section.name for section in read.sections[:2]] == ["", ".text"]


def test_the_whole_symbol_of_a_rel_relocation_goes(tmp_path: Path) -> None:
    """Beside the type, in the lowest byte of r_info, it has three bytes."""
    symbols = [*(Symbol(f"s{number}") for number in range(300)), Symbol("mcount")]
    code = Section(".exit.text", flags=AX, data=CALL,
                   relocations=[Relocation(1, R_PLT32, "mcount", -4)])  # fmt: skip
    sound = build(I386, [code], symbols)
    path = recorded(tmp_path / "x.o", sound)
    read = Read(path)
    row = read.relocations_of(read.named(".exit.text")[0]).get_relocation(0)
    assert row["r_info"] == 0
