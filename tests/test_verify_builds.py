"""`recordmcount verify` on what real builds make: a kernel's modules, other recorders, all linkers.

What is right verifies clean; with one thing changed, that is found and nothing else.
"""

import shutil
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from fixtures.manifest import Fixture, fixtures
from recordmcount.errors import Error
from recordmcount.verify.asked import Asked
from recordmcount.verify.examine import examine
from tests.support import images
from tests.support.command import call
from tests.support.kernel_modules import CLOUD, Module
from tests.support.linked import Image
from tests.support.matrix import each_fixture
from tests.support.objects import record_file
from tests.support.oracle import MCOUNT_NAMES
from tests.support.peers import Peers
from tests.support.program import FENTRY, KINDS, MCOUNT, OWN_MCOUNT, Flavour, Program

FixtureObject = Callable[[str], Path]
LINKERS = ("bfd", "gold", "lld", "mold")


def found(path: Path, asked: Asked | None = None) -> Counter[str]:
    """How many findings of each rule there are in a file that can be read."""
    rules: Counter[str] = Counter()
    for file in examine(str(path), asked or Asked()):
        assert not isinstance(file, Error), file
        rules.update(finding["rule"] for finding in file["findings"])
    return rules


# --- a kernel's modules ---------------------------------------------------------------------------

# kvm.ko was linked from objects of which one has weak functions that the other defines again:
# these lost their symbols, and their code and entries stayed. `nm` shows no symbol there.
OVERRIDDEN = {"kvm.ko": 16}


@pytest.mark.kernel
def test_every_module_is_clean_but_for_weak_functions_that_are_overridden() -> None:
    folder = CLOUD / "modules"
    wrong = {}
    for path in sorted(folder.iterdir()):
        if rules := found(path):
            wrong[path.name] = rules
    assert wrong == {
        name: Counter({"overridden-function": number}) for name, number in OVERRIDDEN.items()
    }


@pytest.mark.kernel
def test_no_symbol_names_the_code_that_is_said_to_be_overridden() -> None:
    (file,) = examine(str(CLOUD / "modules" / "kvm.ko"))
    assert not isinstance(file, Error)
    module = Module((CLOUD / "modules" / "kvm.ko").read_bytes())
    symbols = module.content(module.names.index(".symtab"))
    text = module.names.index(".text")
    rows = [row for row in struct.iter_unpack("<IBBHQQ", symbols) if row[3] == text and row[1] & 15]
    for finding in file["findings"]:
        covering = [row for row in rows if row[4] <= finding["offset"] < row[4] + row[5]]
        assert [row for row in covering if row[1] & 15 != 3] == []


@pytest.mark.kernel
def test_the_table_of_a_kernel_image_names_all_its_calls() -> None:
    assert found(CLOUD / "vmlinuz") == {}


def some_modules() -> list[str]:
    """A few modules, large and small."""
    every = sorted((CLOUD / "modules").iterdir(), key=lambda path: path.stat().st_size)
    return [path.name for path in every[40::160] if path.name not in OVERRIDDEN]


def changed(name: str, folder: Path, change: Callable[[Module, bytearray, int], None]) -> Path:
    """A copy of a module with one thing of its middle entry changed."""
    module = Module((CLOUD / "modules" / name).read_bytes())
    data = bytearray(module.data)
    change(module, data, len(module.entries()) // 2)
    path = folder / name
    path.write_bytes(data)
    return path


def relocation(module: Module, number: int) -> int:
    """The file offset of the relocation of an entry."""
    return module.headers[module.names.index(".rela__mcount_loc")].offset + 24 * number


def a_byte_off(module: Module, data: bytearray, number: int) -> None:
    at = relocation(module, number) + 16
    (addend,) = struct.unpack_from("<q", data, at)
    struct.pack_into("<q", data, at, addend + 1)


def removed(module: Module, data: bytearray, number: int) -> None:
    at = relocation(module, number) + 8
    data[at : at + 16] = bytes(16)


def doubled(module: Module, data: bytearray, number: int) -> None:
    """The last entry becomes a dead one, and the first is doubled."""
    first, at = relocation(module, 0) + 8, relocation(module, number) + 8
    data[at : at + 16] = data[first : first + 16]


def overwritten(module: Module, data: bytearray, number: int) -> None:
    section, offset = module.entries()[number]
    data[module.headers[module.names.index(section)].offset + offset] = 0xCC


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (a_byte_off, {"entry-off": 1}),
        (removed, {"missing-entry": 1}),
        (doubled, {"missing-entry": 1, "repeated-entry": 1}),
        (overwritten, {"no-site": 1}),
    ],
)
def test_one_thing_changed_in_a_module_is_what_is_found(
    tmp_path: Path,
    change: Callable[[Module, bytearray, int], None],
    expected: dict[str, int],
) -> None:
    names = [
        name
        for name in some_modules()
        if len(Module((CLOUD / "modules" / name).read_bytes()).entries()) > 1
    ]
    assert len(names) > 3
    for name in names:
        path = changed(name, tmp_path, change)
        assert (name, found(path)) == (name, expected)


# --- the recorder, and others ---------------------------------------------------------------------


def names(fixture: Fixture) -> tuple[str, ...]:
    return tuple(sorted({*fixture.names} - {*MCOUNT_NAMES}))


@each_fixture(lambda row: row.content == "object" and row.table != "__mcount_loc")
def test_what_the_recorder_wrote_is_clean(fixture: Fixture, fixture_object: FixtureObject) -> None:
    path = fixture_object(fixture.name)
    content = path.read_bytes()
    for options in ({}, {"kernel": True}, {"all_sections": True}, {"gc_sections": True}):
        path.write_bytes(content)
        assert not record_file(path, symbols=names(fixture), **options).failed
        asked = Asked(names(fixture), "kernel" in options, "all_sections" in options)
        assert found(path, asked) == {}, options


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gcc-fentry", {}),
        ("gcc-fentry-pic", {"entry-off": 10, "call-left": 3}),
        ("gcc-pg-large", {"entry-off": 10, "call-left": 3}),
        ("gcc-x32-fentry-pic", {"entry-off": 10, "call-left": 3}),
        ("gcc-i386-fentry", {"call-left": 3}),
        ("gcc-pg-large-pic", {"no-site": 10}),
        ("gcc-attributes-name", {"missing-entry": 1}),
        ("gcc-first", {"group": 5}),
        ("gcc-weak", {"no-table": 1}),
        ("as-references", {"no-site": 15}),
        ("as-disguise", {"no-site": 2}),
        ("as-names", {"missing-entry": 2, "call-left": 1}),
    ],
)
def test_faults_of_the_c_tool_are_named(
    name: str, expected: dict[str, int], fixture_object: FixtureObject, peers: Peers
) -> None:
    """Those of tests/test_peer_errors.py, on the same objects."""
    path = fixture_object(name)
    peers.c(path)
    assert found(path, Asked(names(fixtures()[name]), kernel=True)) == expected


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gcc-pg-pic", {"entry-off": 10, "call-left": 3}),
        ("gcc-first", {"missing-entry": 5}),
        ("as-references", {"no-site": 15}),
    ],
)
def test_faults_of_the_perl_tool_are_named(
    name: str, expected: dict[str, int], fixture_object: FixtureObject, peers: Peers
) -> None:
    path = fixture_object(name)
    peers.perl(path)
    assert found(path, Asked(kernel=True)) == expected


@pytest.mark.kernel
def test_sections_that_objtool_should_not_record_are_named(
    fixture_object: FixtureObject, peers: Peers
) -> None:
    path = fixture_object("gcc-fentry")
    assert peers.objtool(path) == (0, "", "")
    assert found(path, Asked(kernel=True)) == {"untraced-section": 3}
    assert found(path, Asked(all_sections=True)) == {}


# --- linkers --------------------------------------------------------------------------------------

FLAVOURS = {"fentry": FENTRY, "mcount": MCOUNT, "own-mcount": OWN_MCOUNT}


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("compiler", "flavour"),
    [("g++", FENTRY), ("g++", MCOUNT), ("clang++", OWN_MCOUNT)],
    ids=["g++-fentry", "g++-mcount", "clang++-own-mcount"],
)
@pytest.mark.parametrize("kind", KINDS)
def test_linked_tables_are_clean_by_every_linker_and_stay_so(
    tmp_path: Path, compiler: str, kind: str, flavour: Flavour
) -> None:
    """With calls, with NOPs in their place, and stripped of symbols."""
    program = Program(tmp_path, compiler, kind, flavour)
    objects = program.compile()
    program.record(objects)
    for linker in LINKERS:
        path = program.link(linker, objects)
        stripped = shutil.copy(path, tmp_path / "stripped")
        images.tool("strip", stripped)
        assert found(path) == found(Path(stripped)) == {}, linker
        assert call("patcher", "nop", "-q", path).status == 0
        assert found(path) == {}, linker


@pytest.mark.matrix
@pytest.mark.parametrize("linker", LINKERS)
def test_one_entry_changed_after_the_link_is_what_is_found(tmp_path: Path, linker: str) -> None:
    program = Program(tmp_path, "g++", "exe")
    objects = program.compile()
    program.record(objects)
    path = program.link(linker, objects)
    table = Image(path).table
    offset, _, _ = images.section(path, "__mcount_loc")
    site = table[2]
    for word, expected in (
        (site + 1, {"entry-off": 1}),
        (0, {"missing-entry": 1}),
        (table[1], {"missing-entry": 1, "repeated-entry": 1}),
        (site, {}),
    ):
        images.write(path, offset + 16, word.to_bytes(8, "little"))
        assert found(path) == expected
    at, start, _ = images.section(path, ".text")
    images.write(path, at + site - start, b"\xcc")
    assert found(path) == {"no-site": 1}


@pytest.mark.matrix
def test_entries_that_a_linker_takes_from_live_code_are_missing(tmp_path: Path) -> None:
    """lld collects a table of several sections with the first of them that it drops."""
    program = Program(tmp_path, "g++", "exe")
    objects = program.compile()
    program.record(objects)
    path = program.link("lld", objects, "-Wl,--gc-sections")
    missing = found(path)
    assert missing.keys() == {"missing-entry"}
    assert missing.total() + len(Image(path).table) == len(Image(path).live_calls())


@pytest.mark.matrix
@pytest.mark.parametrize("linker", ["gold", "lld", "mold"])
def test_entries_of_functions_that_were_folded_into_one_are_no_repetition(
    tmp_path: Path, linker: str
) -> None:
    source = "".join(f"int {name}(int x) {{ return x * 3; }}\n" for name in ("f", "g", "h"))
    source += "int main(void) { return f(1) + g(1) + h(1); }"
    flags = ("-O1", "-pg", "-mfentry", "-fno-pic", "-ffunction-sections", "-fno-inline")
    work = images.compile_object(tmp_path, "work", source, "gcc", *flags)
    counter = images.compile_object(tmp_path, "counter", images.COUNTER, "gcc", "-fno-pic")
    assert call("recordmcount", work) == (0, "", "")
    path = tmp_path / "program"
    images.tool(
        "gcc", f"-fuse-ld={linker}", "-Wl,--icf=all", "-no-pie", "-o", path, work, counter
    )  # fmt: skip
    table = Image(path).table
    assert len(table) - len({*table}) == 2
    assert found(path) == {}
    # The fourth entry, of main, becomes one more of the same.
    folded = max(table, key=table.count)
    other = table.index(next(each for each in table if each != folded))
    offset, _, _ = images.section(path, "__mcount_loc")
    images.write(path, offset + 8 * other, folded.to_bytes(8, "little"))
    assert found(path) == {"missing-entry": 1, "repeated-entry": 1}
