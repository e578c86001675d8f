"""What is a call of mcount, what is not, and in which order calls are found."""

import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from recordmcount import x86
from recordmcount.elf import object as elf
from recordmcount.errors import FormatError
from recordmcount.sites import calls
from recordmcount.x86 import CallForm
from tests.support.elf_builder import (
    I386,
    SHF_ALLOC,
    SHT_NOBITS,
    STT_FUNC,
    X86_64,
    Elf,
    Relocation,
    Section,
    Symbol,
    Target,
    build,
)
from tests.support.objects import (
    AX,
    CALL,
    EVERY_FORM,
    R_PC32,
    R_PLT32,
    TARGETS,
    found,
    parsed,
    record_file,
    text,
)

NAMES = ("mcount", "_mcount", "__fentry__")


def object_with(target: Target, code: bytes, relocations: Sequence[Relocation]) -> Elf:
    """An object of one section of code; its relocations may name all that is in NAMES."""
    section = Section(".text", flags=AX, data=code, relocations=relocations)
    symbols = [Symbol("f", ".text"), *map(Symbol, NAMES), Symbol("elsewhere")]
    return build(target, [section], symbols)


def places_of(contents: Elf | bytes, *names: str) -> list[tuple[int, int]]:
    """(section index, section offset of the first byte) of each call, in order."""
    return [(site.section, site.offset) for site in found(contents, *names)]


# --- each form ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@EVERY_FORM
def test_a_call_is_named_by_the_first_byte_of_its_instruction(
    target: Target, kind: int, form: CallForm, name: str
) -> None:
    call = form.prefix + bytes(form.width) + form.suffix
    field = 7 + len(form.prefix)
    contents = object_with(
        target, b"\x90" * 7 + call + bytes(9), [Relocation(field, kind, name, form.addend)]
    )
    (site,) = found(contents)
    assert (site.section, site.offset, site.entry, site.form) == (1, 7, 0, form)


@EVERY_FORM
def test_a_call_may_be_all_there_is_in_its_section(
    target: Target, kind: int, form: CallForm
) -> None:
    call = form.prefix + bytes(form.width) + form.suffix
    contents = object_with(
        target, call, [Relocation(len(form.prefix), kind, "mcount", form.addend)]
    )
    assert places_of(contents) == [(1, 0)]


@EVERY_FORM
def test_a_call_that_ends_outside_of_its_section_is_none(
    target: Target, kind: int, form: CallForm
) -> None:
    call = form.prefix + bytes(form.width) + form.suffix
    whole = object_with(target, call, [Relocation(len(form.prefix), kind, "mcount", form.addend)])
    result = found(whole.patch("sections[.text].sh_size", len(call) - 1))
    assert (list(result), result.references) == ([], 1)


@pytest.mark.parametrize("kind", [R_PC32, R_PLT32])
@TARGETS
def test_calls_of_all_names_in_one_section_are_found(target: Target, kind: int) -> None:
    relocations = [Relocation(6 * i + 1, kind, name, -4) for i, name in enumerate(NAMES)]
    assert places_of(object_with(target, CALL * 3, relocations)) == [(1, 0), (1, 6), (1, 12)]


def test_a_further_name_is_found_when_it_is_asked_for() -> None:
    contents = object_with(
        X86_64,
        CALL * 2,
        [Relocation(1, R_PLT32, "elsewhere", -4), Relocation(7, R_PLT32, "__fentry__", -4)],
    )
    assert places_of(contents) == [(1, 6)]
    assert places_of(contents, "elsewhere") == [(1, 0), (1, 6)]
    assert places_of(contents, "nowhere", "elsewhere") == [(1, 0), (1, 6)]


def test_a_further_name_may_have_bytes_that_are_not_utf8() -> None:
    contents = object_with(X86_64, CALL, [Relocation(1, R_PLT32, "elsewhere", -4)])
    renamed = contents.data.replace(b"elsewhere", b"else\xffhere")
    assert places_of(renamed, "else\udcffhere") == [(1, 0)]


# --- what is no call ------------------------------------------------------------------------------

R64, R32S, GOTPCREL, GOTPCRELX = 1, 11, 9, 41  # R_X86_64_*
I32, GOT32, GOT32X = 1, 3, 43  # R_386_*
NO_CALLS = [
    pytest.param(X86_64, bytes(8), 0, R64, 0, id="X86_64 quad"),
    pytest.param(
        X86_64,
        b"\x49\xba" + bytes(8) + b"\x41\xff\xd3",
        2,
        R64,
        0,
        id="X86_64 movabs, call of another",
    ),
    pytest.param(
        X86_64, b"\x49\xba" + bytes(8) + b"\x41\xff\xe2", 2, R64, 0, id="X86_64 movabs, jmp *%r10"
    ),
    pytest.param(
        X86_64, b"\x49\xba" + bytes(8) + b"\x41\xff\xd2", 2, R64, 1, id="X86_64 movabs + 1, call"
    ),
    pytest.param(
        X86_64,
        b"\x49\xba" + bytes(8) + b"\xff\xd2",
        2,
        R64,
        0,
        id="X86_64 movabs, without a REX call",
    ),
    pytest.param(X86_64, b"\x48\x8d\x05" + bytes(4), 3, R_PC32, -4, id="X86_64 lea"),
    pytest.param(X86_64, b"\x48\xc7\xc0" + bytes(4), 3, R32S, 0, id="X86_64 mov $"),
    pytest.param(X86_64, b"\x48\x8b\x05" + bytes(4), 3, GOTPCRELX, -4, id="X86_64 mov GOT"),
    pytest.param(X86_64, b"\xe9" + bytes(4), 1, R_PLT32, -4, id="X86_64 jmp"),
    pytest.param(X86_64, b"\x0f\x84" + bytes(4), 2, R_PLT32, -4, id="X86_64 jz"),
    pytest.param(X86_64, b"\xff\x25" + bytes(4), 2, GOTPCRELX, -4, id="X86_64 jmp *GOT"),
    pytest.param(X86_64, b"\xff\x35" + bytes(4), 2, GOTPCREL, -4, id="X86_64 push GOT"),
    pytest.param(
        X86_64, b"\xff\x15" + bytes(4), 2, R_PC32, -4, id="X86_64 call through the bytes of mcount"
    ),
    pytest.param(X86_64, b"\xe8" + bytes(4), 1, R_PLT32, 0, id="X86_64 call mcount+4"),
    pytest.param(X86_64, b"\xe8" + bytes(4), 1, R_PLT32, -5, id="X86_64 call mcount-1"),
    pytest.param(X86_64, b"\xe8" + bytes(4), 1, 10, -4, id="X86_64 call, absolute"),
    pytest.param(X86_64, b"\xe8" + bytes(8), 1, R64, -4, id="X86_64 call, of 64 bits"),
    pytest.param(X86_64, b"\xff\x15" + bytes(4), 2, GOTPCRELX, 0, id="X86_64 call GOT+4"),
    pytest.param(X86_64, bytes(8), 0, R_PLT32, -4, id="X86_64 field without room for an opcode"),
    pytest.param(I386, bytes(4), 0, I32, 0, id="I386 long"),
    pytest.param(I386, b"\xe8" + bytes(4), 1, I32, -4, id="I386 call, absolute"),
    pytest.param(I386, b"\xb8" + bytes(4), 1, I32, 0, id="I386 mov $"),
    pytest.param(I386, b"\xe9" + bytes(4), 1, R_PC32, -4, id="I386 jmp"),
    pytest.param(I386, b"\xff\xa3" + bytes(4), 2, GOT32X, 0, id="I386 jmp *GOT"),
    pytest.param(I386, b"\x8b\x83" + bytes(4), 2, GOT32X, 0, id="I386 mov GOT"),
    pytest.param(I386, b"\xff\x94\x24" + bytes(4), 3, GOT32, 0, id="I386 call *GOT(%esp)"),
    pytest.param(I386, b"\xff\x93" + bytes(4), 2, GOT32X, 4, id="I386 call *GOT+4(%ebx)"),
    pytest.param(I386, b"\xe8" + bytes(4), 1, R_PC32, 0, id="I386 call mcount+4"),
]


@pytest.mark.parametrize(
    ("target", "code", "field", "kind", "addend"),
    NO_CALLS,
)
def test_a_reference_that_is_no_call_is_counted_and_left_alone(
    target: Target, code: bytes, field: int, kind: int, addend: int, tmp_path: Path
) -> None:
    contents = object_with(target, code, [Relocation(field, kind, "mcount", addend)])
    result = found(contents)
    assert (list(result), result.references, result.unsupported) == ([], 1, [])
    path = tmp_path / "x.o"
    contents.write(path)
    assert record_file(path, stats=True, all_sections=True).counts == (0, 0, 1)
    assert path.read_bytes() == contents.data


@TARGETS
def test_a_reference_between_calls_takes_none_of_them_away(target: Target) -> None:
    code = CALL * 2 + b"\xe9\0\0\0\0\xc3" + CALL
    relocations = [Relocation(at, R_PC32, "mcount", -4) for at in (1, 7, 13, 19)]
    contents = object_with(target, code, relocations)
    assert places_of(contents) == [(1, 0), (1, 6), (1, 18)]
    assert found(contents).references == 1


@TARGETS
@pytest.mark.parametrize(
    "section",
    [
        Section(".data", flags=SHF_ALLOC, data=CALL),
        Section(".text", SHT_NOBITS, flags=AX, size=6),
    ],
    ids=["not executable", "without bytes"],
)
def test_only_code_is_searched(target: Target, section: Section) -> None:
    relocated = Section(
        section.name, section.type, section.flags, section.data,
        [Relocation(1, R_PLT32, "mcount")], size=section.size,
    )  # fmt: skip
    result = found(build(target, [relocated], [Symbol("mcount")]).data)
    assert (list(result), result.references) == ([], 0)


@TARGETS
def test_a_call_turned_off_long_ago_is_neither_a_call_nor_a_reference(target: Target) -> None:
    contents = object_with(target, CALL, [Relocation(1, 0, "mcount", -4)])
    result = found(contents)
    assert (list(result), result.references) == ([], 0)


@TARGETS
def test_calls_of_other_functions_are_not_looked_at(target: Target) -> None:
    relocations = [
        Relocation(1, R_PLT32, "elsewhere", -4),
        Relocation(7, R_PLT32, "f", -4),
        Relocation(99, R_PLT32, "elsewhere"),  # outside of the section, but none of our business
    ]
    assert places_of(object_with(target, CALL * 2, relocations)) == []


# --- what is a call but cannot be recorded --------------------------------------------------------


def large_pic(callee: str) -> tuple[bytes, list[Relocation]]:
    """The 36 bytes of gcc's large PIC model.

    1: lea 1b(%rip), %r11; movabs $_GLOBAL_OFFSET_TABLE_-1b, %r10; add %r11, %r10;
    movabs $callee@PLTOFF, %r11; add %r11, %r10; call *%r10
    """
    code = (
        b"\x4c\x8d\x1d\xf9\xff\xff\xff"
        + (b"\x49\xba" + bytes(8))
        + b"\x4d\x01\xda"
        + (b"\x49\xbb" + bytes(8))
        + b"\x4d\x01\xda"
        + b"\x41\xff\xd2"
    )
    return code, [Relocation(22, x86.R_X86_64_PLTOFF64, callee)]


def test_a_call_of_the_large_pic_model_is_a_warning_and_no_entry(tmp_path: Path) -> None:
    code, relocations = large_pic("mcount")
    assert len(code) == 36
    contents = object_with(X86_64, code, relocations)
    result = found(contents)
    assert (list(result), result.references) == ([], 0)
    assert [(section, field) for section, field, _ in result.unsupported] == [(1, 22)]
    path = tmp_path / "x.o"
    contents.write(path)
    what = "a call in an unsupported form, not recorded"
    assert record_file(path).err == [f"{path}: warning: .text+0x16: {what}"]
    assert path.read_bytes() == contents.data
    assert record_file(path, quiet=True).err == []


# --- order ----------------------------------------------------------------------------------------


def test_calls_come_by_relocation_section_and_then_by_relocation() -> None:
    backwards = Section(
        ".text.b",
        flags=AX,
        data=CALL * 3,
        relocations=[Relocation(at, R_PLT32, "mcount", -4) for at in (13, 1, 7)],
    )
    sections = [backwards, text(".text.a", 2, "mcount"), text(".text", 1, "mcount")]
    built = build(X86_64, sections, [Symbol("mcount")])
    index = built.section_index
    assert places_of(built.data) == [
        *((index(".text.b"), offset) for offset in (12, 0, 6)),
        *((index(".text.a"), offset) for offset in (0, 6)),
        (index(".text"), 0),
    ]
    assert [site.entry for site in found(built.data)] == [0, 1, 2, 0, 1, 0]


CHUNK = elf.CHUNK


@pytest.mark.parametrize("count", [1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 1])
@pytest.mark.parametrize("mixed", [False, True], ids=["calls", "calls and others"])
@TARGETS
def test_relocations_beyond_one_piece_are_found_in_order(
    target: Target, mixed: bool, count: int
) -> None:
    relocations = [
        Relocation(6 * i + 1, R_PLT32, "elsewhere" if mixed and i % 3 else "mcount", -4)
        for i in range(count)
    ]
    ours = [i for i in range(count) if not (mixed and i % 3)]
    contents = object_with(target, CALL * count, relocations)
    assert [(site.offset, site.entry) for site in found(contents)] == [(6 * i, i) for i in ours]


@pytest.mark.parametrize("target", [X86_64, I386], ids=["x86_64", "i386"])
def test_relocations_may_come_in_any_order(target: Target) -> None:
    """Also over a distance larger than the window in which code is read."""
    count = (1 << 20) // 6 + 5000
    places = random.Random(1).sample(range(count), 5000)
    relocations = [Relocation(6 * place + 1, R_PLT32, "mcount", -4) for place in places]
    contents = object_with(target, CALL * count, relocations)
    assert places_of(contents) == [(1, 6 * place) for place in places]


@pytest.mark.parametrize("apart", [8, 1 << 20, (1 << 20) + 64])
def test_the_form_of_a_call_far_from_the_others_is_seen(apart: int) -> None:
    got = b"\xff\x15" + bytes(4)
    code = got + CALL + bytes(apart) + got
    far = len(code) - 4
    relocations = [
        Relocation(far, GOTPCRELX, "mcount", -4),
        Relocation(2, GOTPCRELX, "mcount", -4),
        Relocation(7, R_PLT32, "mcount", -4),
    ]
    contents = object_with(X86_64, code, relocations)
    assert [(site.offset, site.form) for site in found(contents)] == [
        (far - 2, x86.CALL_GOT),
        (0, x86.CALL_GOT),
        (6, x86.CALL),
    ]


# --- symbols that share their lowest byte ---------------------------------------------------------


@pytest.mark.parametrize("position", [1, 255, 256, 257, 300])
@TARGETS
def test_another_symbol_of_the_same_lowest_byte_is_not_mistaken(
    target: Target, position: int
) -> None:
    symbols = [Symbol(f"s{number}") for number in range(1, 600)]
    symbols[position - 1] = Symbol("mcount")
    relocations = [
        Relocation(6 * i + 1, R_PLT32, number, -4)
        for i, number in enumerate(range(position % 256 or 256, 600, 256))
    ]
    section = Section(".text", flags=AX, data=CALL * 3, relocations=relocations)
    contents = build(target, [section], symbols).data
    assert places_of(contents) == [(1, 6 * ((position - 1) // 256))]


# --- what cannot be trusted -----------------------------------------------------------------------


@TARGETS
def test_two_relocations_for_one_call_are_refused(target: Target) -> None:
    relocations = [Relocation(1, R_PLT32, name, -4) for name in ("mcount", "__fentry__")]
    with pytest.raises(FormatError, match="two relocations for one call"):
        found(object_with(target, CALL, relocations))


def test_two_relocation_sections_for_one_call_are_refused() -> None:
    built = build(
        X86_64,
        [text(".text"), text(".text.other")],
        [Symbol("f", ".text"), Symbol("__fentry__")],
    )
    doubled = built.patch("sections[.rela.text.other].sh_info", 1)
    with pytest.raises(FormatError, match="two relocations for one call"):
        found(doubled)


@TARGETS
def test_a_section_may_have_two_relocation_sections(target: Target) -> None:
    second = Section(
        ".second", flags=AX, data=CALL * 2, relocations=[Relocation(7, R_PLT32, "mcount", -4)]
    )
    built = build(target, [text(".text", 2, "mcount"), second], [Symbol("mcount")])
    prefix = ".rela" if target.rela else ".rel"
    size = built.value(f"sections[{prefix}.text].sh_entsize")
    contents = built.patch_all(
        {f"sections[{prefix}.second].sh_info": 1, f"sections[{prefix}.text].sh_size": size}
    )
    assert places_of(contents) == [(1, 0), (1, 6)]


@TARGETS
def test_of_a_section_only_that_has_to_be_in_the_file_which_has_calls(target: Target) -> None:
    built = build(target, [text(".text", 2, "mcount")], [Symbol("mcount")])
    for size in (len(built.data), calls.WINDOW, calls.WINDOW + 1):
        contents = built.patch("sections[.text].sh_size", size)
        assert places_of(contents) == places_of(built)


# --- e8 as a ModRM byte ---------------------------------------------------------------------------

# imul $imm32,%eax,%ebp and sub $imm32,%eax: with a relocation, the bytes of a call from the second.
IN_DISGUISE = pytest.mark.parametrize("before", [b"\x69", b"\x81"], ids=["imul", "sub"])


def after(before: bytes, kind: int, at: int) -> Elf:
    """An object in which, behind `before`, a call with this relocation begins at offset `at`."""
    code = b"\x90" * (at - 1) + before + CALL
    return object_with(X86_64, code, [Relocation(at + 1, kind, "mcount", -4)])


@IN_DISGUISE
def test_what_may_be_an_immediate_is_a_warning_and_no_entry(before: bytes) -> None:
    result = found(after(before, R_PC32, at=9))
    what = "a call, or a part of another instruction"
    assert (list(result), result.unsupported) == ([], [(1, 10, what)])


@IN_DISGUISE
def test_a_relocation_that_only_branches_have_leaves_no_doubt(before: bytes) -> None:
    assert places_of(after(before, R_PLT32, at=9)) == [(1, 9)]


@IN_DISGUISE
def test_alignment_is_no_proof(before: bytes) -> None:
    assert places_of(after(before, R_PC32, at=16)) == []


@IN_DISGUISE
def test_where_the_symbol_of_a_function_stands_a_call_begins(before: bytes) -> None:
    code = b"\x90" * 8 + before + CALL
    section = Section(
        ".text", flags=AX, data=code, relocations=[Relocation(10, R_PC32, "mcount", -4)]
    )
    symbols = [Symbol("f", ".text", value=9, type=STT_FUNC), Symbol("mcount")]
    assert places_of(build(X86_64, [section], symbols)) == [(1, 9)]


def test_one_doubtful_call_among_many_takes_none_of_them_away() -> None:
    code = CALL * 3 + b"\x69" + CALL * 2
    starts = [0, 6, 12, 19, 25]
    relocations = [Relocation(start + 1, R_PC32, "mcount", -4) for start in starts]
    result = found(object_with(X86_64, code, relocations))
    assert [site.offset for site in result] == [0, 6, 12, 25]
    assert [field for _, field, _ in result.unsupported] == [20]


def test_the_same_doubt_twice_is_refused() -> None:
    code = b"\x90" * 8 + b"\x69" + CALL
    relocations = [Relocation(10, R_PC32, "mcount", -4)] * 2
    with pytest.raises(FormatError, match="two relocations for one call"):
        found(object_with(X86_64, code, relocations))


# --- several processes ----------------------------------------------------------------------------


def test_several_processes_find_what_one_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "WORTH_FORKING", 0)
    monkeypatch.setattr(elf, "CHUNK", 7)
    built = build(
        X86_64,
        [text(".text", 100), text(".text.odd", 3), text(".init.text", 40, "mcount")],
        [Symbol("__fentry__"), Symbol("mcount")],
    )
    alone, shared = (
        [
            (part.section, part.relocations, part.starts, part.entries, bytes(part.forms))
            for part in calls.find(parsed(built.data), (), processes).sections
        ]
        for processes in (1, 3)
    )
    assert shared == alone
    assert [len(starts) for _, _, starts, _, _ in alone] == [100, 3, 40]
