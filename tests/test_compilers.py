"""Objects of every compiler and flag of the manifest get the table that their code asks for.

Expected is what disassembly finds, what gcc lists itself, and what the kernel's C tool makes,
where that is right. Where it is not, `test_peer_errors` says so.
"""

import re
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

import capstone
import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection

from fixtures.manifest import Fixture
from tests.support.command import call
from tests.support.loc_table import table_entries
from tests.support.matrix import each_fixture
from tests.support.oracle import MCOUNT_NAMES, Site, call_forms, expected_sites
from tests.support.peers import Peers

pytestmark = pytest.mark.matrix

FixtureObject = Callable[[str], Path]

OWN_TABLE = "warning: __mcount_loc already exists: "
# Those of the sections that occur in fixtures/ whose calls must become NOPs.
NOT_RECORDED = {".foo.text", ".exit.text", ".noinstr.text"}


def is_new(fixture: Fixture) -> bool:
    """Whether there is something to record: code, and no table yet."""
    return fixture.content == "object" and fixture.table != "__mcount_loc"


def names(fixture: Fixture) -> set[str]:
    """All names of the callee that a recorder who is told of the fixture's looks for."""
    return {*MCOUNT_NAMES, *fixture.names}


def record(fixture: Fixture, path: Path, *options: str) -> str:
    """Record with the names of the fixture, as a kernel's, and return the warnings of calls."""
    symbols = [f"--symbol={name}" for name in sorted(names(fixture) - set(MCOUNT_NAMES))]
    done = call("recordmcount", "--kernel", *options, *symbols, path)
    assert (done.status, done.stdout) == (0, "")
    lines = done.stderr.splitlines(keepends=True)
    return "".join(line for line in lines if "a fat LTO object" not in line)


def all_entries(path: Path) -> list[Site]:
    """The entries of the table of mcount's calls, and of that of calls of __return__."""
    return table_entries(path) + table_entries(path, "__return_loc")


def places(sites: Iterable[Site]) -> list[tuple[str, int]]:
    """Section names and offsets alone, sorted: for tables of objects whose sections moved."""
    return sorted((site.section, site.offset) for site in sites)


# --- disassembly ----------------------------------------------------------------------------------


@each_fixture(is_new)
def test_the_table_names_every_call_in_a_recorded_section(
    fixture: Fixture, fixture_object: FixtureObject
) -> None:
    path = fixture_object(fixture.name)
    expected = expected_sites(path, names(fixture))
    warnings = record(fixture, path)
    entries = all_entries(path)
    assert len(entries) == len(set(entries))
    assert set(entries) == {site for site in expected if site.section not in NOT_RECORDED}
    assert warnings.count("not recorded") == len(warnings.splitlines())
    assert warnings.count("large") == fixture.unsupported


@each_fixture(is_new)
def test_with_all_sections_the_table_names_every_call(
    fixture: Fixture, fixture_object: FixtureObject
) -> None:
    path = fixture_object(fixture.name)
    expected = expected_sites(path, names(fixture))
    record(fixture, path, "--all-sections")
    entries = all_entries(path)
    assert len(entries) == len(set(entries))
    assert set(entries) == expected == expected_sites(path, names(fixture))


@each_fixture(lambda fixture: is_new(fixture) and bool(fixture.forms))
def test_calls_in_other_sections_become_one_nop_and_nothing_else_changes(
    fixture: Fixture, fixture_object: FixtureObject
) -> None:
    path = fixture_object(fixture.name)
    forms = call_forms(path, names(fixture))
    before = _code(path)
    record(fixture, path)
    after = _code(path)
    assert set(call_forms(path, names(fixture))) == set(all_entries(path))
    mode = capstone.CS_MODE_32 if fixture.target == "i386" else capstone.CS_MODE_64
    decoder = capstone.Cs(capstone.CS_ARCH_X86, mode)
    for site in forms:
        if site.section in NOT_RECORDED:
            code, index = before[site.section_index], site.offset
            call = 2 if forms[site] == "call-abs" else 1  # instructions
            size = sum(i.size for i in decoder.disasm(code[index:], 0, count=call))
            (nop,) = decoder.disasm(after[site.section_index][index : index + size], 0)
            assert (nop.mnemonic, nop.size) in {("nop", size), ("lea", size)}
            before[site.section_index] = code[:index] + nop.bytes + code[index + size :]
    assert all(after[index] == code for index, code in before.items())


def _code(path: Path) -> dict[int, bytes]:
    """Return section index -> bytes of the executable sections."""
    with path.open("rb") as stream:
        sections = enumerate(ELFFile(stream).iter_sections())
        return {index: section.data() for index, section in sections if section["sh_flags"] & 4}


@pytest.mark.kernel
@pytest.mark.parametrize("name", ["as-many-sections", "as-i386-many-sections"])
def test_seventy_thousand_sections(
    name: str, fixture_object: FixtureObject, peers: Peers, tmp_path: Path
) -> None:
    """35,000 functions f0, f1, ... with a call as first instruction; pyelftools takes a minute."""
    ours = fixture_object(name)
    c = Path(shutil.copy(ours, tmp_path / "c.o"))
    assert call("recordmcount", ours) == (0, "", "")
    assert peers.c(c) == (0, "", "")
    listing = _objdump("-r", ours)
    assert [row[2].removeprefix(".text.") for row in listing] == [f"f{n}" for n in range(35_000)]
    in_place = "".join(word for row in _objdump("-s", ours) for word in row[1:5])
    assert set(in_place) == {"0"}
    # The C tool counts from global symbols, ours from symbols of the sections that it adds.
    assert [[*row[:2], row[2].removeprefix(".text.")] for row in listing] == _objdump("-r", c)


def _objdump(what: str, path: Path) -> list[list[str]]:
    """Return the words of the rows about `__mcount_loc`."""
    output = subprocess.run(
        ["objdump", what, "-j", "__mcount_loc", path], check=True, capture_output=True, text=True
    ).stdout
    return [row.split() for row in output.splitlines() if re.match(r" ?[0-9a-f]+ ", row)]


# --- gcc's own tables -----------------------------------------------------------------------------


@each_fixture(lambda fixture: fixture.table is not None and bool(fixture.forms))
def test_the_table_equals_the_compiler_s(fixture: Fixture, fixture_object: FixtureObject) -> None:
    """gcc records every section, and for each name of the callee in a table of its own."""
    path = fixture_object(fixture.name)
    assert fixture.table
    own = table_entries(path, fixture.table)
    remove = [f"--remove-section={prefix}{fixture.table}" for prefix in ("", ".rel", ".rela")]
    subprocess.run(["objcopy", *remove, path], check=True)
    record(fixture, path, "--all-sections")
    of_its_names = expected_sites(path, fixture.names)
    assert places(own) == places(site for site in all_entries(path) if site in of_its_names)


@each_fixture(lambda fixture: fixture.table == "__mcount_loc")
def test_a_compiler_s_table_stays(fixture: Fixture, fixture_object: FixtureObject) -> None:
    path = fixture_object(fixture.name)
    contents = path.read_bytes()
    assert call("recordmcount", path) == (0, "", f"{OWN_TABLE}{path}\n")
    assert path.read_bytes() == contents


# --- the C tool -----------------------------------------------------------------------------------


def is_plain(fixture: Fixture) -> bool:
    """Whether the compiler wrote nothing but plain calls, which the C tool understands."""
    compiled = fixture.source.suffix in {".c", ".cc"} and fixture.source.name != "weak.c"
    told = set(fixture.names) <= set(MCOUNT_NAMES)
    return (
        is_new(fixture)
        and compiled
        and told
        and fixture.forms <= {"call"}
        and not fixture.unsupported
        and fixture.target != "x32"
    )


def by_both(fixture: Fixture, ours: Path, peers: Peers) -> tuple[Path, Path]:
    """An object that we recorded, and a copy that the C tool did."""
    c = Path(shutil.copy(ours, ours.with_name("c.o")))
    record(fixture, ours)
    assert peers.c(c) == (0, "", "")
    return ours, c


@pytest.mark.kernel
@each_fixture(is_plain)
def test_the_table_equals_the_c_tool_s(
    fixture: Fixture, fixture_object: FixtureObject, peers: Peers
) -> None:
    ours, c = by_both(fixture, fixture_object(fixture.name), peers)
    assert places(table_entries(ours)) == places(table_entries(c))


@pytest.mark.kernel
@each_fixture(lambda fixture: is_plain(fixture) and fixture.source.suffix == ".c")
def test_the_object_equals_the_c_tool_s(
    fixture: Fixture, fixture_object: FixtureObject, peers: Peers
) -> None:
    """The same headers and contents; on i386 but for the calls that the C tool never turns off."""
    ours, c = by_both(fixture, fixture_object(fixture.name), peers)
    ignored = NOT_RECORDED if fixture.target == "i386" else set[str]()
    assert _parts(ours, ignored) == _parts(c, ignored)


def _parts(path: Path, ignored: set[str]) -> list[tuple[str, object, bytes]]:
    """Everything that a header refers to, so everything but padding, less `ignored` contents.

    And less the symbols of relocations that became R_*_NONE: the C tool keeps them, and then bfd
    refuses a PIE.
    """
    with path.open("rb") as stream:
        file = ELFFile(stream)
        parts: list[tuple[str, object, bytes]] = [("", dict(file.header), b"")]
        for section in file.iter_sections():
            kept = section.name.removeprefix(".rel") not in ignored
            data = bytearray(section.data() if kept else b"")
            if isinstance(section, RelocationSection) and kept:
                word = file.elfclass // 8
                for number, row in enumerate(section.iter_relocations()):
                    if row["r_info_type"] == 0:
                        at = number * section["sh_entsize"] + word
                        data[at : at + word] = bytes(word)
            parts.append((section.name, dict(section.header), bytes(data)))
        return parts


# --- what is no object ----------------------------------------------------------------------------


@each_fixture(lambda fixture: fixture.content != "object")
def test_what_has_no_code_yet_is_named(fixture: Fixture, fixture_object: FixtureObject) -> None:
    path = fixture_object(fixture.name)
    contents = path.read_bytes()
    done = call("recordmcount", path)
    kind = {"slim-lto": "a slim LTO object", "bitcode": "LLVM bitcode"}[fixture.content]
    assert (done.status, done.stdout) == (1, "")
    assert done.stderr.startswith(f"{path}: {kind}")
    assert done.stderr.endswith(f"\n{path}: failed\n")
    assert path.read_bytes() == contents
