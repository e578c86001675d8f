"""Where the kernel's recorders are wrong, each stated by name: a test that fails here is good news.

The recorders are those of linux-kbuild-6.1. `test_compilers` shows ours right on the same objects.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from fixtures.build import build
from fixtures.manifest import Fixture, fixtures
from tests.support.loc_table import table_entries
from tests.support.matrix import each_fixture
from tests.support.oracle import Site, expected_sites, uses
from tests.support.peers import Peers

pytestmark = pytest.mark.kernel

FixtureObject = Callable[[str], Path]

NOT_RECORDED = {".foo.text", ".exit.text", ".noinstr.text"}
# How far into the instruction a relocation lies, by the call form.
FIELD = {"call": 1, "call-got": 2, "call-abs": 2}


def recordable(sites: set[Site]) -> set[Site]:
    return {site for site in sites if site.section not in NOT_RECORDED}


def shifted(sites: set[Site], by: int) -> set[Site]:
    return {site._replace(offset=site.offset + by) for site in sites}


def places(sites: set[Site]) -> set[tuple[str, int]]:
    """Section names and offsets, for objects whose sections moved."""
    return {(site.section, site.offset) for site in sites}


def compiled(fixture: Fixture) -> bool:
    return fixture.source.name == "functions.c" and len(fixture.forms) == 1 and (
        fixture.table is None and len(fixture.names) == 3
    )  # fmt: skip


# --- the C tool -----------------------------------------------------------------------------------


@each_fixture(lambda row: compiled(row) and row.target != "x32" and row.forms != {"call"})
def test_c_takes_the_byte_before_the_relocation_for_the_call(
    fixture: Fixture, fixture_object: FixtureObject, peers: Peers
) -> None:
    path = fixture_object(fixture.name)
    (form,) = fixture.forms
    expected = recordable(expected_sites(path))
    assert peers.c(path) == (0, "", "")
    assert set(table_entries(path)) == shifted(expected, FIELD[form] - 1)


@each_fixture(lambda row: compiled(row) and row.target == "x32")
def test_c_takes_the_relocation_itself_for_the_call_on_x32(
    fixture: Fixture, fixture_object: FixtureObject, peers: Peers
) -> None:
    path = fixture_object(fixture.name)
    (form,) = fixture.forms
    expected = recordable(expected_sites(path))
    assert peers.c(path) == (0, "", "")
    assert set(table_entries(path)) == shifted(expected, FIELD[form])


@each_fixture(lambda row: row.unsupported > 0)
def test_c_records_the_middle_of_calls_of_the_large_pic_model(
    fixture: Fixture, fixture_object: FixtureObject, peers: Peers
) -> None:
    path = fixture_object(fixture.name)
    assert expected_sites(path) == set()
    assert peers.c(path) == (0, "", "")
    assert len(table_entries(path)) == fixture.unsupported - len(NOT_RECORDED)


@pytest.mark.parametrize("name", ["as-references", "as-i386-references", "as-disguise"])
def test_c_records_whatever_names_mcount_in_code(
    name: str, fixture_object: FixtureObject, peers: Peers
) -> None:
    path = fixture_object(name)
    fields = {
        use.site if use.kind == "reference" else use.site._replace(offset=use.site.offset + 1)
        for use in uses(path)
        if use.site.section == ".text"
    }
    assert len(fields) > len(expected_sites(path)) == 1
    assert peers.c(path) == (0, "", "")
    assert set(table_entries(path)) == shifted(fields, -1)


@pytest.mark.parametrize("name", ["as-names", "as-i386-names"])
def test_c_records_only_the_first_of_two_names_in_a_section(
    name: str, fixture_object: FixtureObject, peers: Peers
) -> None:
    path = fixture_object(name)
    of_the_first = recordable(expected_sites(path, ["__fentry__"]))
    assert of_the_first < recordable(expected_sites(path))
    assert peers.c(path) == (0, "", "")
    assert set(table_entries(path)) == of_the_first


@each_fixture(lambda row: row.source.name in {"weak.c", "symbol_indices.S"})
def test_c_fails_where_a_section_has_weak_symbols_only(
    fixture: Fixture, fixture_object: FixtureObject, peers: Peers
) -> None:
    path = fixture_object(fixture.name)
    done = peers.c(path)
    assert (done.status, done.stdout) == (1, "")
    assert done.stderr.startswith("Cannot find symbol for section ")
    assert done.stderr.endswith(f".\n{path}: failed\n")


@each_fixture(
    lambda row: (
        compiled(row)
        and (row.forms != {"call"} or row.target == "i386")
        and (row.compiler, row.target) != ("clang", "x32")
    )
)
def test_c_leaves_calls_in_sections_it_does_not_record(
    fixture: Fixture, fixture_object: FixtureObject, peers: Peers
) -> None:
    """It knows one NOP and looks for `e8 00000000`, which i386 and PIC calls are not."""
    path = fixture_object(fixture.name)
    before = expected_sites(path)
    assert peers.c(path) == (0, "", "")
    assert expected_sites(path) == before > recordable(before)


def test_c_writes_what_was_in_its_memory_between_the_sections(tmp_path: Path, peers: Peers) -> None:
    contents = []
    for batch in (["gcc-fentry"], ["gcc-pg-debug", "gcc-fentry"]):
        paths = [
            Path(shutil.copy(build(fixtures()[name]), tmp_path / f"{name}.o")) for name in batch
        ]
        assert peers.c(*paths) == (0, "", "")
        contents.append(paths[-1].read_bytes())
    assert contents[0] != contents[1]


def test_c_passes_over_a_slim_lto_object(fixture_object: FixtureObject, peers: Peers) -> None:
    path = fixture_object("gcc-lto-slim")
    contents = path.read_bytes()
    assert peers.c(path) == (0, "", "")
    assert path.read_bytes() == contents


# --- the Perl tool --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["gcc-pg-pic", "gcc-fentry-pic", "gcc-fentry-cet-pic", "gcc-pg-large", "gcc-i386-pg-pic"],
)
def test_perl_takes_the_byte_before_the_relocation_for_the_call(
    name: str, fixture_object: FixtureObject, peers: Peers
) -> None:
    path = fixture_object(name)
    expected = recordable(expected_sites(path))
    bits = 32 if fixtures()[name].target == "i386" else 64
    assert peers.perl(path, bits=bits).status == 0
    assert places(set(table_entries(path))) == places(shifted(expected, 1))


def test_perl_records_whatever_names_mcount_in_code(
    fixture_object: FixtureObject, peers: Peers
) -> None:
    path = fixture_object("as-references")
    assert len(expected_sites(path)) == 1
    assert peers.perl(path).status == 0
    assert len(table_entries(path)) == 16


@pytest.mark.parametrize("name", ["gcc-first", "clang-first", "gcc-weak", "llvm-symbol-indices"])
def test_perl_passes_over_sections_that_have_weak_symbols_only(
    name: str, fixture_object: FixtureObject, peers: Peers
) -> None:
    """Every section of a shared inline function is one."""
    path = fixture_object(name)
    expected = recordable(expected_sites(path))
    assert peers.perl(path).status == 0
    assert places(set(table_entries(path))) < places(expected)


def test_perl_leaves_a_fat_lto_object_with_entries_that_lie_in_no_section(
    fixture_object: FixtureObject, peers: Peers
) -> None:
    path = fixture_object("gcc-lto-fat")
    assert peers.perl(path).status == 0
    with pytest.raises(AssertionError, match="lies in no section"):
        table_entries(path)


def test_perl_says_all_is_well_when_the_linker_failed(
    fixture_object: FixtureObject, peers: Peers
) -> None:
    path = fixture_object("clang-x32-fentry")
    contents = path.read_bytes()
    done = peers.perl(path)
    assert "is not supported" in done.stderr
    assert done.status == 0
    assert path.read_bytes() == contents


# --- objtool --------------------------------------------------------------------------------------


@each_fixture(
    lambda row: (
        compiled(row)
        and row.target == "x86_64"
        and (row.forms != {"call"} or "-mfentry" not in row.flags)
    )
)
def test_objtool_silently_finds_nothing_but_plain_calls_of_fentry(
    fixture: Fixture, fixture_object: FixtureObject, peers: Peers
) -> None:
    path = fixture_object(fixture.name)
    assert expected_sites(path)
    assert peers.objtool(path) == (0, "", "")
    assert table_entries(path) == []


def test_objtool_records_sections_that_must_not_be_traced(
    fixture_object: FixtureObject, peers: Peers
) -> None:
    path = fixture_object("gcc-fentry")
    expected = expected_sites(path)
    assert peers.objtool(path) == (0, "", "")
    assert set(table_entries(path)) == expected > recordable(expected)


def test_objtool_writes_slots_of_eight_bytes_and_entries_of_no_section_on_32_bit(
    fixture_object: FixtureObject, peers: Peers
) -> None:
    path = fixture_object("gcc-x32-fentry")
    count = len(expected_sites(path))
    assert peers.objtool(path) == (0, "", "")
    with path.open("rb") as stream:
        table = ELFFile(stream).get_section_by_name("__mcount_loc")
        assert table is not None
        assert table["sh_size"] == 8 * count
    with pytest.raises(AssertionError, match="lies in no section"):
        table_entries(path)
