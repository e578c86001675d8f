"""An entry names its own section, so no linker, tool or loader can make it mean other code.

Objects without section symbols are linked in ways that bind their global symbols elsewhere. What
the table must then have is found in the bytes: each `e8` in code that leads to __fentry__.
"""

import json
import subprocess
from pathlib import Path

import pytest

from tests.support import command, images
from tests.support.linked import Image
from tests.support.objects import Read
from tests.support.peers import Peers

pytestmark = pytest.mark.matrix

LINKERS = ("bfd", "gold", "lld", "mold")
SOURCES = {
    "old": "int get(int n) { return n + 1; } int spare(int n) { return get(n) + 2; }",
    "new": "int get(int n) { return n + 3; } int put(int n) { return get(n) + 4; }",
    "main": "int spare(int); int put(int);"
    "int __wrap_get(int n) { return n; }"
    "int main(void) { return spare(1) + put(2); }",
    "other": "int get(int n) { return n + 5; }",
}
TRACER = """
__attribute__((naked, aligned(16))) void __fentry__(void) { __asm__("ret"); }
extern unsigned long __start___mcount_loc[], __stop___mcount_loc[];
unsigned long entries(void) { return __stop___mcount_loc - __start___mcount_loc; }
"""


@pytest.fixture
def objects(tmp_path: Path) -> dict[str, Path]:
    """The sources without section symbols, and recorded; and a tracer."""
    flags = ["-O1", "-fno-inline", "-fno-pic", "-fno-asynchronous-unwind-tables"]
    built = {
        name: images.compile_object(tmp_path, name, source, "gcc", *flags, "-pg", "-mfentry")
        for name, source in SOURCES.items()
    }
    for path in built.values():
        types = [symbol["st_info"]["type"] for symbol in Read(path).symbols]
        assert "STT_SECTION" not in types, "the compiler gives what the test is about to lack"
    assert command.call("recordmcount", *built.values()) == (0, "", "")
    built["tracer"] = images.compile_object(tmp_path, "tracer", TRACER, "gcc", *flags)
    return built


def link(linker: str, objects: dict[str, Path], names: str, *options: str) -> Path:
    program = objects["main"].with_name("program")
    paths = [objects[name] for name in (*names.split(), "tracer")]
    images.tool("gcc", "-no-pie", f"-fuse-ld={linker}", *options, *paths, "-o", program)
    return program


def calls_of_fentry(program: Path) -> set[int]:
    """Each place in .text whose bytes are a call of __fentry__."""
    target = images.symbol(program, "__fentry__")
    offset, start, size = images.section(program, ".text")
    code = program.read_bytes()[offset : offset + size]
    return {
        start + at
        for at in range(size - 4)
        if code[at] == 0xE8
        and start + at + 5 + int.from_bytes(code[at + 1 : at + 5], "little", signed=True) == target
    }


def assert_every_site_has_its_entry(program: Path, sites: int) -> None:
    table = Image(program).table
    assert sorted(table) == sorted(calls_of_fentry(program))
    assert len(table) == sites


@pytest.mark.parametrize("linker", LINKERS)
def test_of_two_definitions_each_has_its_own_entries(linker: str, objects: dict[str, Path]) -> None:
    program = link(linker, objects, "old new main", "-Wl,-z,muldefs")
    assert_every_site_has_its_entry(program, 6)


@pytest.mark.parametrize("linker", LINKERS)
def test_wrapped_functions_keep_their_entries(linker: str, objects: dict[str, Path]) -> None:
    program = link(linker, objects, "old new main", "-Wl,-z,muldefs", "-Wl,--wrap=get")
    assert_every_site_has_its_entry(program, 6)


CHANGES: dict[str, list[str]] = {
    "weaken": ["--weaken-symbol=get"],
    "localize": ["--localize-symbol=get"],
    "rename": ["--redefine-sym=get=get_of_old"],
    "global": ["--keep-global-symbol=spare"],
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("linker", LINKERS)
def test_what_becomes_of_a_symbol_after_recording_is_nothing_to_its_entries(
    change: str, linker: str, objects: dict[str, Path]
) -> None:
    subprocess.run(["objcopy", *CHANGES[change], objects["old"]], check=True)
    program = link(linker, objects, "old new main")
    assert_every_site_has_its_entry(program, 6)


@pytest.mark.parametrize("linker", LINKERS)
def test_a_function_that_is_interposed_keeps_its_entries(
    linker: str, objects: dict[str, Path], tmp_path: Path
) -> None:
    flags = ["-O1", "-fPIC", "-fno-asynchronous-unwind-tables", "-pg", "-mfentry"]
    path = images.compile_object(tmp_path, "library", SOURCES["old"], "clang", *flags)
    assert command.call("recordmcount", "--pic", path) == (0, "", "")
    library = tmp_path / "library.so"
    images.tool("gcc", "-shared", f"-fuse-ld={linker}", path, "-o", library)
    image = Image(library)
    assert {image.function_at(entry) for entry in image.table} == {"get", "spare"}


@pytest.mark.parametrize("linker", ["bfd", "lld", "gold"])
def test_a_relocatable_link_before_or_after_recording_gives_the_same_sites(
    linker: str, objects: dict[str, Path], tmp_path: Path
) -> None:
    joined = tmp_path / "joined.o"
    images.tool(f"ld.{linker}", "-r", "-z", "muldefs", "-o", joined, objects["old"], objects["new"])
    objects["joined"] = joined
    program = link(linker, objects, "joined main")
    assert_every_site_has_its_entry(program, 6)


# --- tables of others -----------------------------------------------------------------------------


@pytest.fixture
def loose(tmp_path: Path, peers: Peers) -> Path:
    """An object whose entries count from a global symbol, as the kernel's recorder leaves them."""
    flags = ["-O1", "-fno-inline", "-fno-pic", "-fno-asynchronous-unwind-tables"]
    source = SOURCES["old"]
    path = images.compile_object(tmp_path, "loose", source, "gcc", *flags, "-pg", "-mfentry")
    assert peers.c(path) == (0, "", "")
    return path


@pytest.mark.kernel
def test_a_report_does_not_present_entries_of_a_global_symbol_as_sound(loose: Path) -> None:
    reason = "its entry counts from the global symbol get, which a linker may bind elsewhere"
    done = command.call("recordmcount", "report", loose)
    assert command.words(done.stdout).count(f"({reason})") == 2
    (file,) = json.loads(command.call("recordmcount", "report", "--json", loose).stdout)["files"]
    assert [site["reason"] for site in file["sites"]] == [reason] * 2
    done = command.call("patcher", "status", loose)
    assert done.stdout.count(f"call  ({reason})\n") == 2


@pytest.mark.kernel
@pytest.mark.parametrize("quiet", [False, True])
def test_patcher_warns_of_entries_of_a_global_symbol(quiet: bool, loose: Path) -> None:
    warning = (
        f"{loose}: warning: entries count from 'get', a global symbol: a linker may let them name "
        "other code; compile and record the object again\n"
    )
    done = command.call("patcher", "nop", *["-q"] * quiet, loose)
    assert (done.status, done.stderr) == (0, "" if quiet else warning)


@pytest.mark.kernel
def test_of_our_own_tables_there_is_nothing_to_say(objects: dict[str, Path]) -> None:
    (file,) = json.loads(command.call("recordmcount", "report", "--json", objects["old"]).stdout)[
        "files"
    ]
    assert [site["reason"] for site in file["sites"]] == [None] * 2
    assert command.call("patcher", "nop", objects["old"]).stderr == ""
