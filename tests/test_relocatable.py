"""Sites and table entries of objects, whoever wrote the table.

What is said of real objects is compared with pyelftools and capstone (`oracle`, `loc_table`), odd
tables are built by hand.
"""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from fixtures.build import build as build_fixture
from fixtures.manifest import Fixture
from recordmcount.errors import FormatError
from recordmcount.sites import relocatable
from recordmcount.sites.relocatable import RelocatableSites
from recordmcount.sites.site import Site as Found
from recordmcount.sites.state import State
from tests.support.command import run
from tests.support.elf_builder import (
    I386,
    SHF_ALLOC,
    STB_LOCAL,
    STT_FUNC,
    X86_64,
    Elf,
    Relocation,
    Section,
    Symbol,
    build,
    section_symbol,
)
from tests.support.loc_table import table_entries
from tests.support.matrix import each_fixture
from tests.support.objects import AX, CALL, as_bytes, caller, parsed, recorded, text
from tests.support.oracle import (
    MCOUNT_NAMES,
    Site,
    call_forms,
    functions,
    references,
    unsupported_calls,
)
from tests.support.peers import Peers

R_X86_64_64 = 1
R_PLT32 = 4


def listing(contents: Path | Elf | bytes, *names: str) -> RelocatableSites:
    data = contents.read_bytes() if isinstance(contents, Path) else as_bytes(contents)
    return relocatable.read(parsed(data), names)


def places(sites: list[Found]) -> list[tuple[str, int]]:
    return [(site.section, site.position) for site in sites]


def in_file(sites: set[Site]) -> list[tuple[str, int]]:
    """By section header index, then by offset: the order of a listing."""
    order = sorted(sites, key=lambda site: (site.section_index, site.offset))
    return [(site.section, site.offset) for site in order]


# --- real objects ---------------------------------------------------------------------------------


@each_fixture(lambda fixture: fixture.content == "object")
def test_calls_are_those_of_a_disassembler(fixture: Fixture) -> None:
    path = build_fixture(fixture)
    names = {*MCOUNT_NAMES, *fixture.names}
    kinds = call_forms(path, names)
    sites = listing(path, *fixture.names)
    calls = [site for site in sites if site.state is State.CALL]
    assert places(calls) == in_file(set(kinds))
    assert Counter(site.form for site in calls) == Counter(kinds.values())
    said = sorted((str(site.function), site.function_offset) for site in calls)
    assert said == functions(path, kinds)
    if not fixture.nops:
        foreign = {(site.section, site.position) for site in sites} - {*places(calls)}
        assert {*in_file(unsupported_calls(path, names))} <= foreign
        assert foreign <= {*in_file(unsupported_calls(path, names) | references(path, names))}


@each_fixture(lambda fixture: fixture.content == "object")
def test_bytes_are_those_of_the_file(fixture: Fixture) -> None:
    path = build_fixture(fixture)
    with path.open("rb") as stream:
        contents = [(one.name, one.data()) for one in ELFFile(stream).iter_sections()]
    sites = listing(path, *fixture.names)
    assert list(sites) == [sites[number] for number in range(len(sites))]  # fast, and one by one
    for site in sites:
        assert any(
            name == site.section and data[site.position :].startswith(site.code)
            for name, data in contents
        )


@each_fixture(lambda fixture: fixture.table == "__mcount_loc")
def test_tables_of_gcc_are_read(fixture: Fixture) -> None:
    path = build_fixture(fixture)
    result = listing(path, *fixture.names)
    assert (result.has_table, result.dead, result.repeated) == (True, 0, 0)
    assert places(list(result)) == in_file(set(table_entries(path)))
    assert all(site.recorded for site in result)
    assert {site.state for site in result} == {State.NOP if fixture.nops else State.CALL}


@each_fixture(lambda fixture: bool(fixture.forms) and fixture.table != "__mcount_loc"
              and fixture.content == "object")  # fmt: skip
def test_what_the_recorder_did_is_seen(
    fixture: Fixture, fixture_object: Callable[[str], Path]
) -> None:
    path = fixture_object(fixture.name)
    before = listing(path, *fixture.names)
    assert not before.has_table
    assert run("recordmcount", *(f"--symbol={name}" for name in fixture.names), path).status == 0
    after = listing(path, *fixture.names)
    entries = in_file({*table_entries(path), *table_entries(path, "__return_loc")})
    assert places([site for site in after if site.recorded]) == entries
    for was, became in zip(before, after, strict=True):
        assert (was.section, was.position, was.form, was.function, len(was.code)) == (
            became.section, became.position, became.form, became.function, len(became.code),
        )  # fmt: skip
        if was.state is State.FOREIGN:
            assert became == was
        else:
            assert became.state is (State.CALL if became.recorded else State.NOP)
            assert (became.code == was.code) == became.recorded


@pytest.mark.kernel
@pytest.mark.parametrize("name", ["gcc-fentry-pic", "gcc-fentry-large", "gcc-i386-pg-pic"])
def test_entries_inside_a_call_are_foreign(
    name: str, fixture_object: Callable[[str], Path], peers: Peers
) -> None:
    """The kernel's tool records relocation - 1, which is no instruction in these objects."""
    path = fixture_object(name)
    calls = places(list(listing(path)))
    assert peers.c(path).status == 0
    sites = listing(path)
    assert places([site for site in sites if site.state is State.CALL]) == calls
    foreign = [site for site in sites if site.state is State.FOREIGN]
    assert len(foreign) == 10
    assert {(site.section, site.position - 1) for site in foreign} < set(calls)
    assert {site.reason for site in foreign} == {"0x1 into the call"}
    assert all(site.recorded == (site.state is State.FOREIGN) for site in sites)


@pytest.mark.kernel
def test_calls_that_the_kernel_tool_turned_off_are_nops(
    fixture_object: Callable[[str], Path], peers: Peers
) -> None:
    path = fixture_object("gcc-fentry")
    assert peers.c(path).status == 0
    off = {site.section for site in listing(path) if site.state is State.NOP}
    assert off == {".foo.text", ".exit.text", ".noinstr.text"}


# --- odd tables -----------------------------------------------------------------------------------


def odd(*entries: tuple[str, int], words: int = 0, code: bytes = CALL) -> Elf:
    """One function `f`, and a table of (symbol, addend) entries and `words` words without any."""
    relocations = [Relocation(8 * i, R_X86_64_64, *entry) for i, entry in enumerate(entries)]
    calls = [Relocation(1, R_PLT32, "__fentry__", -4)] if code == CALL else []
    data = bytes(8 * (len(entries) + words))
    return build(
        X86_64,
        [
            Section(".text", flags=AX, data=code, relocations=calls),
            Section(".data", flags=SHF_ALLOC, data=b"abc"),
            Section("__mcount_loc", flags=SHF_ALLOC, data=data, relocations=relocations),
        ],
        [
            section_symbol(".text"),
            section_symbol(".data"),
            Symbol("f", ".text", type=STT_FUNC, size=len(code), bind=STB_LOCAL),
            Symbol("__fentry__"),
        ],
    )


def shown(result: RelocatableSites) -> list[str]:
    """A line for each site: section+offset, bytes, state, form, recorded, reason."""
    return [
        f"{site.section}+{site.position} {site.code.hex()} {site.state} {site.form or '-'} "
        f"{'recorded' if site.recorded else 'unrecorded'} {site.reason}".rstrip()
        for site in result
    ]


CALLED = ".text+0 e800000000 call call recorded"
UNCALLED = ".text+0 e800000000 call call unrecorded"


def test_an_entry_may_be_based_on_any_symbol() -> None:
    assert shown(listing(odd((".text", 0)))) == shown(listing(odd(("f", 0)))) == [CALLED]


def test_words_that_name_no_place_are_dead() -> None:
    bare = listing(odd(("f", 0), words=2))
    undefined = listing(odd(("__fentry__", 0), ("f", 0)))
    assert (shown(bare), bare.dead) == ([CALLED], 2)
    assert (shown(undefined), undefined.dead) == ([CALLED], 1)


def test_entries_beyond_the_first_for_one_place_are_repeated() -> None:
    result = listing(odd(("f", 0), (".text", 0), ("f", 0)))
    assert (shown(result), result.repeated) == ([CALLED], 2)


def test_an_empty_table_is_a_table() -> None:
    empty = listing(odd(code=b"\xc3"))
    assert (len(empty), empty.has_table, empty.dead, empty.repeated) == (0, True, 0, 0)


@pytest.mark.parametrize(
    ("entry", "line"),
    [
        ((".text", 5), ".text+5 c3 foreign - recorded neither a call of mcount nor a NOP of one"),
        ((".text", 4), ".text+4 00c3 foreign - recorded 0x4 into the call"),
        ((".text", 6), ".text+6  foreign - recorded outside the section"),
        ((".text", -1), ".text+-1  foreign - recorded outside the section"),
        ((".data", 1), ".data+1 6263 foreign - recorded neither a call of mcount nor a NOP of one"),
    ],
    ids=["ret", "inside", "end", "before", "data"],
)
def test_an_entry_that_names_no_site_is_foreign(entry: tuple[str, int], line: str) -> None:
    assert set(shown(listing(odd(entry)))) == {UNCALLED, line}


@pytest.mark.parametrize(
    ("code", "form"),
    [
        ("0f1f440000", "call"),
        ("660f1f440000", "call-got"),
        ("66662e0f1f840000000000", None),
        ("6666662e0f1f840000000000", "call-abs"),
        ("666666662e0f1f840000000000", "call-abs"),
    ],
)
def test_a_nop_that_only_the_table_names_tells_its_form(code: str, form: str | None) -> None:
    """As with gcc's -mnop-mcount, where there never was a relocation."""
    (site,) = listing(odd(("f", 0), code=bytes.fromhex(code)))
    if form is None:
        assert (site.state, site.form) == (State.FOREIGN, "")
    else:
        assert (site.state, site.form, site.code.hex()) == (State.NOP, form, code)


def test_a_relocation_that_was_turned_off_needs_its_nop() -> None:
    contents = caller(".text").patch("relocations[.text][0].r_type", 0)
    (line,) = shown(listing(contents))
    place, reason = line.split(" unrecorded ")
    assert place == ".text+1 00000000c3 foreign -"
    assert reason == "the relocation of a call that was turned off, but no NOP"


def test_i386_keeps_addends_in_the_table(tmp_path: Path) -> None:
    """And here they are not 0: the base symbol is the first, `g`."""
    symbols = [Symbol("g", ".text", value=6, type=STT_FUNC), Symbol("__fentry__")]
    path = recorded(tmp_path / "x.o", build(I386, [text(calls=3)], symbols))
    sites = listing(path)
    assert [(site.position, site.recorded) for site in sites] == [(0, True), (6, True), (12, True)]


@pytest.mark.parametrize(
    ("field", "value"), [("r_type", 2), ("r_sym", 99), ("r_offset", 1), ("r_offset", 1 << 63)]
)
def test_a_relocation_that_makes_no_entry_is_an_error(field: str, value: int) -> None:
    contents = odd(("f", 0)).patch(f"relocations[__mcount_loc][0].{field}", value)
    where = value if field == "r_offset" else 0
    with pytest.raises(FormatError) as caught:
        listing(contents)
    assert str(caught.value) == f"object.o: __mcount_loc+{where:#x}: unknown relocation"


def test_tables_of_more_bytes_than_the_file_has_are_an_error() -> None:
    contents = odd(("f", 0)).patch("sections[__mcount_loc].sh_size", 1 << 40)
    with pytest.raises(FormatError, match="tables overlap"):
        listing(contents)


def test_no_field_of_an_object_is_trusted() -> None:
    contents = odd(("f", 0), words=1)
    read = refused = 0
    for field in contents.fields():
        for value in (0, 1, contents.value(field) + 1, contents.value(field) ^ 0x80, -1):
            mask = (1 << 8 * contents.locate(field).size) - 1
            try:
                listing(contents.patch(field, value & mask))
                read += 1
            except FormatError:
                refused += 1
    assert min(read, refused) > 100


# --- functions ------------------------------------------------------------------------------------


def function_of_second_call(*symbols: Symbol) -> tuple[str | None, int]:
    """What function the call of mcount at offset 6 of a section is said to be in."""
    code = text(calls=2, callee="mcount")
    _, site = listing(build(X86_64, [code], [*symbols, Symbol("mcount")]))
    return site.function, site.function_offset


def test_the_function_is_the_nearest_symbol_before() -> None:
    first = Symbol("first", ".text", size=6, type=STT_FUNC)
    second = Symbol("second", ".text", value=6, size=6, type=STT_FUNC)
    assert function_of_second_call(first, second) == ("second", 0)
    assert function_of_second_call(second, first) == ("second", 0)


def test_assembly_leaves_out_type_and_size() -> None:
    assert function_of_second_call(Symbol("label", ".text", value=2)) == ("label", 4)


def test_code_that_no_function_covers_is_of_none() -> None:
    before = Symbol("before", ".text", size=6, type=STT_FUNC)
    behind = Symbol("behind", ".text", value=7, type=STT_FUNC)
    assert function_of_second_call(before, behind) == (None, 0)


def test_a_call_of_fentry_is_a_function_s_first_instruction() -> None:
    symbols = [Symbol("label", ".text"), Symbol("__fentry__")]
    first, second = listing(build(X86_64, [text(calls=2)], symbols))
    assert (first.function, first.reason) == ("label", "")
    assert (second.function, second.reason) == (
        None, "no symbol names this function; a weak one that is overridden?",
    )  # fmt: skip


def test_of_aliases_the_first_global_function_is_named() -> None:
    alias = Symbol("alias", ".text", bind=STB_LOCAL, type=STT_FUNC)
    label = Symbol("label", ".text")
    first, second = (Symbol(name, ".text", type=STT_FUNC) for name in ("first", "second"))
    assert function_of_second_call(alias, label, first, second) == ("first", 6)
