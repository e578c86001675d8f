"""Reading objects: nothing is trusted, and what is wrong is said in one line."""

from pathlib import Path

import pytest

from recordmcount.elf import object as elf
from recordmcount.errors import FormatError
from tests.support.elf_builder import (
    EM_386,
    SHT_NOBITS,
    SHT_NULL,
    SHT_PROGBITS,
    SHT_STRTAB,
    SHT_SYMTAB,
    STB_LOCAL,
    STB_WEAK,
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
    R_PLT32,
    TARGETS,
    caller,
    found,
    parsed,
    record_file,
    recorded,
    text,
)
from tests.support.oracle import Site

HUGE = 1 << 40
SOUND = caller()  # sections: .text 1, .rela.text 2, .symtab 3, .strtab 4, .shstrtab 5


def assert_refused(path: Path, contents: bytes, message: str) -> None:
    """Recording says `message`, in which PATH stands for the path, and leaves the file alone."""
    path.write_bytes(contents)
    result = record_file(path)
    first, *_, last = result.err  # between them may stand what to do
    assert (first, last) == (message.replace("PATH", str(path)), f"{path}: failed")
    assert result.failed
    assert path.read_bytes() == contents


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (SOUND.data, "more than 8 times its size would be read of it"),
        (
            SOUND.patch("sections[.strtab].sh_offset", 0x41),
            "section 1 and section 4 overlap at file offset 0x41",
        ),
    ],
)
def test_a_file_is_not_read_without_end_and_what_overlaps_is_named(
    contents: bytes, message: str
) -> None:
    obj = parsed(contents)

    def read_on() -> None:
        for _ in range(10):
            obj.read(0, obj.size, "all of it")

    with pytest.raises(FormatError, match=f": {message}$"):
        read_on()


# --- one field corrupted --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("EI_MAG", 0, "unrecognized ET_REL file PATH"),
        ("EI_DATA", 2, "unrecognized ELF data encoding 2: PATH"),
        ("EI_DATA", 0, "unrecognized ELF data encoding 0: PATH"),
        ("e_type", 2, "unrecognized ET_REL file PATH"),
        ("e_type", 3, "unrecognized ET_REL file PATH"),
        ("e_machine", 40, "unrecognized e_machine 40 PATH"),
        ("e_machine", EM_386, "unrecognized e_machine 3 PATH"),
    ],
)
def test_what_is_no_x86_object_is_refused_in_the_words_of_the_kernels_tool(
    field: str, value: int, message: str, tmp_path: Path
) -> None:
    assert_refused(tmp_path / "x.o", SOUND.patch(field, value), message)


def outside(what: str, offset: int, size: int) -> str:
    return f"{what} at {offset:#x}, {size:#x} bytes, is outside the file"


def offset_of(section: str) -> int:
    return SOUND.value(f"sections[{section}].sh_offset")


def size_of(section: str) -> int:
    return SOUND.value(f"sections[{section}].sh_size")


ENTRY_SIZE = "relocation section 2 has an unknown entry size"
OUTSIDE_SECTION = "relocation outside the section"


@pytest.mark.parametrize(
    ("field", "value", "what"),
    [
        ("EI_CLASS", 3, "unrecognized ELF class 3"),
        ("e_shoff", HUGE, outside("the section header table", HUGE, 6 * 64)),
        ("e_shnum", 700, outside("the section header table", SOUND.value("e_shoff"), 700 * 64)),
        ("e_shentsize", 40, "e_shentsize is 40, not 64"),
        ("e_shstrndx", 6, "e_shstrndx 6 names no section"),
        ("e_shstrndx", 1, "section 1 is no string table"),
        ("e_shstrndx", 0, "there are no section names, which say what to record"),
        ("sections[.shstrtab].sh_offset", HUGE,
         outside("string table 5", HUGE, size_of(".shstrtab"))),
        ("sections[.shstrtab].sh_size", 3, "string table 5 does not end in NUL"),
        ("sections[.symtab].sh_offset", HUGE, outside("section 3", HUGE, size_of(".symtab"))),
        ("sections[.symtab].sh_size", 71, "the symbol table ends inside a symbol"),
        ("sections[.symtab].sh_entsize", 16, "symbol table with an unknown entry size"),
        ("sections[.symtab].sh_link", 0, "section 0 is no string table"),
        ("sections[.symtab].sh_link", 77, "section 77 is no string table"),
        ("sections[.strtab].sh_size", HUGE, outside("string table 4", offset_of(".strtab"), HUGE)),
        ("sections[.rela.text].sh_link", 4, "relocation section 2 has another symbol table"),
        ("sections[.rela.text].sh_info", 77, "relocation section 2 is for no section"),
        ("sections[.rela.text].sh_entsize", 0, ENTRY_SIZE),
        ("sections[.rela.text].sh_entsize", 16, ENTRY_SIZE),
        ("sections[.rela.text].sh_size", 25, ENTRY_SIZE),
        ("sections[.rela.text].sh_offset", HUGE, outside("a relocation section", HUGE, 24)),
        ("sections[.rela.text].sh_size", 24 << 20, "relocation sections overlap"),
        ("sections[.text].sh_offset", HUGE, outside("a text section", HUGE, 6)),
        ("sections[.text].sh_size", 1, f".text+0x1: {OUTSIDE_SECTION}"),
        ("relocations[.text][0].r_offset", 6, f".text+0x6: {OUTSIDE_SECTION}"),
        ("relocations[.text][0].r_offset", HUGE, f".text+0x10000000000: {OUTSIDE_SECTION}"),
    ],
)  # fmt: skip
def test_one_corrupted_field_is_named_and_the_file_left_alone(
    field: str, value: int, what: str, tmp_path: Path
) -> None:
    assert_refused(tmp_path / "x.o", SOUND.patch(field, value), f"PATH: {what}")


SMALL = {
    "plain": lambda target: caller(target=target),
    "weak": lambda target: build(
        target,
        [text(calls=2), text(".exit.text"), text(".text.g")],
        [section_symbol(".exit.text"), Symbol("f", ".text", bind=STB_WEAK),
         Symbol("g", ".text.g", bind=STB_WEAK), Symbol("__fentry__")],
        [Group("g", [".text.g"])],
        extended_numbering=True,
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("shape", SMALL)
@TARGETS
def test_whatever_one_field_holds_the_file_is_recorded_or_untouched_with_one_line(
    shape: str, target: Target, tmp_path: Path
) -> None:
    sound = SMALL[shape](target)
    path = tmp_path / "x.o"
    for field in sound.fields():
        size = sound.locate(field).size
        for value in (0, 1, 7, (1 << 8 * size - 1) - 1, 1 << 8 * size - 1, -1):
            contents = sound.patch(field, value)
            path.write_bytes(contents)
            result = record_file(path)
            after = path.read_bytes()
            if result.failed:
                assert after == contents, field
                assert len(result.err) == 2, field
                assert "\n" not in "".join(result.err), field
            else:
                assert not record_file(path).failed, field
                assert path.read_bytes() == after, field


@pytest.mark.parametrize("size", [0, 1, 5, 6, 16, 40, 51, 52, 63, 64, 65])
@TARGETS
def test_a_truncated_object_is_refused(target: Target, size: int, tmp_path: Path) -> None:
    path = tmp_path / "x.o"
    contents = caller(target=target).data[:size]
    path.write_bytes(contents)
    assert record_file(path).failed
    assert path.read_bytes() == contents


# --- sections -------------------------------------------------------------------------------------


@TARGETS
def test_an_object_without_sections_has_nothing_to_record(target: Target, tmp_path: Path) -> None:
    contents = caller(target=target).patch_all({"e_shoff": 0, "e_shnum": 0, "e_shstrndx": 0})
    assert recorded(tmp_path / "x.o", contents).read_bytes() == contents


@TARGETS
def test_extended_numbering_is_read_where_there_are_few_sections(target: Target) -> None:
    sound = build(
        target, [text()], [Symbol("f", ".text"), Symbol("__fentry__")], extended_numbering=True
    )
    obj = parsed(sound.data)
    assert [obj.section(index).name for index in range(len(obj.headers))] == [*sound.section_names]
    assert [symbol[5] for symbol in obj.raw_symbols()] == [0, 1, 0]


@pytest.mark.slow
def test_seventy_thousand_sections_are_recorded(tmp_path: Path) -> None:
    names = [f".text.{number}" for number in range(35_000)]
    many = caller(*names)
    assert len(many.section_names) > 70_000
    path = recorded(tmp_path / "x.o", many)
    index = {name: number for number, name in enumerate(many.section_names)}
    assert table_entries(path) == [Site(name, index[name], 0) for name in names]


def test_a_section_is_found_by_its_whole_name_only() -> None:
    sections = [Section(name) for name in ("loc", "__mcount_loc", ".rela__mcount_loc", "x")]
    built = build(X86_64, sections)
    assert parsed(built.data).named(b"__mcount_loc") == [2]
    assert parsed(built.data).named(b"mcount_loc") == []


def test_a_section_name_may_be_the_tail_of_another() -> None:
    built = build(X86_64, [Section(".rela__mcount_loc"), Section("x")])
    tail = built.value("sections[1].sh_name") + len(".rela")
    obj = parsed(built.patch("sections[x].sh_name", tail))
    assert obj.named(b"__mcount_loc") == [2]
    assert obj.section(2).name == "__mcount_loc"


def test_the_same_name_may_stand_twice_in_a_string_table() -> None:
    assert elf.string_places(b"\0aa\0a\0aa\0baa\0", b"aa") == {1, 6, 10}


def test_a_name_that_is_not_utf8_can_be_printed() -> None:
    assert elf.string_at(b"\0\xff\n\0", 1) == "\\xff\n"
    assert elf.string_at(b"\0abc", 1) == ""
    assert elf.string_at(b"\0abc\0", 77) == ""


def test_a_section_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(FormatError, match=r"^object.o: there is no section 6$"):
        parsed(SOUND.data).section(6)
    assert parsed(SOUND.data).section_type(6) == SHT_NULL


def test_a_section_without_bits_has_no_content() -> None:
    built = build(X86_64, [Section(".bss", SHT_NOBITS, size=HUGE)])
    assert parsed(built.data).content(1) == b""


def test_a_file_that_shrinks_while_it_is_read_is_an_error() -> None:
    data = SOUND.data
    obj = elf.Object("object.o", len(data), lambda offset, size: data[offset : offset + size])
    data = data[:65]
    with pytest.raises(FormatError, match=r"^object.o: the file shrank while it was read$"):
        obj.content(1)


# --- symbols --------------------------------------------------------------------------------------


@TARGETS
def test_symbols_that_share_the_tail_of_a_string_are_told_apart(target: Target) -> None:
    built = build(
        target,
        [Section(".text", flags=AX, data=CALL,
                 relocations=[Relocation(1, R_PLT32, "tail", -4)])],
        [Symbol("f", ".text"), Symbol("_mcount"), Symbol("tail"), Symbol("amcount")],
    )  # fmt: skip
    _mcount = built.value("symbols[_mcount].st_name")
    for place, name, count in ((_mcount + 1, b"mcount", 1), (_mcount + 2, b"count", 0)):
        contents = built.patch("symbols[tail].st_name", place)
        assert parsed(contents).symbols_named([name]) == {built.symbol_names.index("tail")}
        assert len(list(found(contents))) == count


def test_a_name_in_many_tails_is_still_found_everywhere() -> None:
    symbols = [Symbol(f"{number}mcount") for number in range(40)]
    built = build(X86_64, [Section(".text", data=b"\xc3")], [*symbols, Symbol("mcount")])
    assert parsed(built.data).symbols_named([b"mcount"]) == {41}
    tail = built.value("symbols[7mcount].st_name") + 1
    tailed = built.patch("symbols[3mcount].st_name", tail)
    assert parsed(tailed).symbols_named([b"mcount"]) == {4, 41}


def test_a_value_that_looks_like_a_name_is_no_name() -> None:
    built = build(X86_64, [Section(".text", data=b"\xc3")], [Symbol("mcount"), Symbol("f")])
    name = built.value("symbols[mcount].st_name")
    for field in ("st_value", "st_size"):
        contents = built.patch(f"symbols[f].{field}", name | name << 32)
        assert parsed(contents).symbols_named([b"mcount"]) == {1}


@TARGETS
def test_a_symbol_that_is_not_there_is_an_error(target: Target) -> None:
    data = build(target, [Section(".text", data=b"\xc3")], [Symbol("f", ".text")]).data
    for is_read in (False, True):
        obj = parsed(data)
        if is_read:
            assert obj.symbol_bytes
        assert obj.raw_symbol(1)[4:] == (0, 1)
        with pytest.raises(FormatError, match="there is no symbol 2"):
            obj.raw_symbol(2)


@TARGETS
def test_symbols_of_no_section_have_none(target: Target) -> None:
    built = build(
        target,
        [Section(".text", data=b"\xc3")],
        [Symbol("a", 0xFFF1, bind=STB_LOCAL), Symbol("c", 0xFFF2), Symbol("u"), Symbol("f", 1, 9)],
    )
    symbols = list(parsed(built.data).raw_symbols())
    assert [symbol[5] for symbol in symbols] == [0, 0, 0, 0, 1]
    assert symbols[4][1] == 9


def test_a_second_symbol_table_is_refused(tmp_path: Path) -> None:
    built = build(
        X86_64,
        [text(), Section(".second", SHT_SYMTAB, entsize=24, link=".strtab")],
        [Symbol("f", ".text"), Symbol("__fentry__")],
    )
    assert_refused(tmp_path / "x.o", built.data, "PATH: more than one symbol table")


def test_without_a_symbol_table_there_is_nothing_to_record(tmp_path: Path) -> None:
    contents = SOUND.patch("sections[.symtab].sh_type", SHT_PROGBITS)
    assert recorded(tmp_path / "x.o", contents).read_bytes() == contents


# --- relocations ----------------------------------------------------------------------------------


def test_compact_relocations_of_text_are_refused(tmp_path: Path) -> None:
    contents = SOUND.patch("sections[.rela.text].sh_type", 0x40000014)
    assert_refused(
        tmp_path / "x.o", contents,
        "PATH: section 2: CREL relocations are not supported: assemble without -Wa,--crel",
    )  # fmt: skip


def test_relocation_sections_may_not_share_their_bytes(tmp_path: Path) -> None:
    """A file of n bytes has no more than n bytes of relocations, whatever its headers say."""
    names = [f".text.{number}" for number in range(200)]
    built = caller(*names)
    place, size = built.value("sections[.rela.text.0].sh_offset"), 240 * 24
    corrupted: dict[str, int] = {}
    for name in names:
        corrupted |= {
            f"sections[.rela{name}].sh_offset": place,
            f"sections[.rela{name}].sh_size": size,
        }
    assert_refused(
        tmp_path / "x.o", built.patch_all(corrupted), "PATH: relocation sections overlap"
    )


@pytest.mark.parametrize("count", [1 << 20, 1 << 60])
def test_an_impossible_number_of_sections_takes_no_memory(count: int, tmp_path: Path) -> None:
    contents = SOUND.patch_all({"e_shnum": 0, "sections[0].sh_size": count})
    assert_refused(
        tmp_path / "x.o",
        contents,
        f"PATH: the section header table at {SOUND.value('e_shoff'):#x}, {64 * count:#x} bytes, is "
        "outside the file",
    )


def test_the_names_of_an_object_are_those_it_was_built_with() -> None:
    built: Elf = caller(".text", ".init.text")
    obj = parsed(built.data)
    assert [obj.section(index).name for index in range(len(obj.headers))] == [*built.section_names]
    assert obj.section_type(obj.shstrndx) == SHT_STRTAB
