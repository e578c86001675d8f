"""Source lines of code, as addr2line has them; and debug information that was split off."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from recordmcount.elf import debug_files
from recordmcount.elf.lines import Line, Lines
from recordmcount.elf.object import SHF_COMPRESSED, Object
from recordmcount.elf.open import reader
from recordmcount.report.reasons import Reasons
from tests.support.command import call
from tests.support.images import tool

HEADER = """static inline int inner(int n)
{
    return n * 3;
}
"""
SOURCE = """#include "inner.h"
int one(int n)
{
    int sum = 0;
    for (int i = 0; i < n; i++)
        sum += inner(i);
    return sum;
}

__attribute__((section(".text.other"))) int other(int n)
{
    return n ? one(n - 1) : 7;
}

#line 200000 "generated.y"
int far(int n) { return one(n) + other(n); }
int main(void) { return far(3); }
"""


@contextmanager
def opened(path: Path) -> Iterator[Object]:
    fd = os.open(path, os.O_RDONLY)
    try:
        yield Object(str(path), os.fstat(fd).st_size, reader(fd))
    finally:
        os.close(fd)


def compiled(folder: Path, compiler: str, *options: str) -> Path:
    (folder / "inner.h").write_text(HEADER)
    (folder / "x.c").write_text(SOURCE)
    tool(compiler, *options, "-c", folder / "x.c", "-o", folder / "x.o")
    return folder / "x.o"


def output(*words: str | Path) -> list[str]:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()


def addresses(path: Path, *sections: str) -> dict[str, list[int]]:
    """By section, the offsets or addresses of all instructions, by objdump."""
    found: dict[str, list[int]] = {}
    section = ""
    for line in output("objdump", "-d", "--no-show-raw-insn", path):
        if line.startswith("Disassembly of section "):
            section = line.split()[-1].removesuffix(":")
        elif line.startswith(" ") and (not sections or section in sections):
            found.setdefault(section, []).append(int(line.split(":")[0], 16))
    return found


def told(path: Path, section: str, places: list[int]) -> list[tuple[str, int] | None]:
    """What addr2line says of places: (name of the file without folders, line)."""
    options = ["-j", section] if path.suffix == ".o" else []
    rows: list[tuple[str, int] | None] = []
    for line in output("addr2line", "-e", path, *options, *map(hex, places)):
        file, number = line.split(" (")[0].rsplit(":", 1)
        rows.append(None if number in ("?", "0") else (os.path.basename(file), int(number)))
    return rows


def found(path: Path, section: str, places: list[int]) -> list[tuple[str, int] | None]:
    with opened(path) as obj:
        index = obj.named(section.encode())[0]
        lines = Lines(obj).of(index, places)
    return [line and (os.path.basename(line.file), line.number) for line in lines]


def compared(rows: list[tuple[str, int] | None], compiler: str) -> list[object]:
    """What can be compared: of files that clang numbers from 0, addr2line 2.40 tells the wrong."""
    return [row and row[1] for row in rows] if compiler == "clang" else [*rows]


KINDS = [
    ["-O2", "-gdwarf-5"], ["-O2", "-gdwarf-4"], ["-O0", "-gdwarf-3"], ["-O2", "-gdwarf-2"],
    ["-O2", "-g", "-ffunction-sections"], ["-O2", "-g", "-gz=zlib"], ["-O2", "-g0"],
]  # fmt: skip


@pytest.mark.matrix
@pytest.mark.parametrize("machine", ["-m64", "-m32", "-mx32"])
@pytest.mark.parametrize("options", KINDS, ids=" ".join)
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_the_line_of_every_instruction_of_an_object_is_known(
    compiler: str, options: list[str], machine: str, tmp_path: Path
) -> None:
    path = compiled(tmp_path, compiler, machine, *options)
    places = addresses(path)
    assert ".text.other" in places
    for section, offsets in places.items():
        ours, theirs = found(path, section, offsets), told(path, section, offsets)
        assert compared(ours, compiler) == compared(theirs, compiler), section


@pytest.mark.matrix
@pytest.mark.parametrize("options", KINDS, ids=" ".join)
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_and_of_a_program(compiler: str, options: list[str], tmp_path: Path) -> None:
    program = tmp_path / "program"
    tool(compiler, *options, compiled(tmp_path, compiler, *options), "-o", program)
    for section, places in addresses(program, ".text").items():
        ours, theirs = found(program, section, places), told(program, section, places)
        assert compared(ours, compiler) == compared(theirs, compiler)


@pytest.mark.matrix
@pytest.mark.parametrize("how", ["zlib", "zstd"])
@pytest.mark.parametrize("is_linked", [False, True], ids=["object", "program"])
def test_compressed_debug_information_tells_the_same(
    how: str, is_linked: bool, tmp_path: Path
) -> None:
    path = compiled(tmp_path, "gcc", "-O2", "-g")
    if is_linked:
        tool("gcc", path, "-o", tmp_path / "program")
        path = tmp_path / "program"
    before = told_of(path)
    assert (before["lines"], before["reasons"]) != ([], [])
    tool("objcopy", f"--compress-debug-sections={how}", path)
    with opened(path) as obj:
        flags = obj.section(obj.named(b".debug_line")[0]).flags
    assert flags & SHF_COMPRESSED
    assert told_of(path) == before


def told_of(path: Path) -> dict[str, list[object]]:
    """What `report` makes of debug information: lines of code, and why functions have no site."""
    section = ".text"
    with opened(path) as obj:
        reasons = Reasons(obj, obj)
        units = [str(reasons.of("f", place)) for place in addresses(path, section)[section]]
        lines = found(path, section, addresses(path, section)[section])
        return {"lines": [*lines], "reasons": [*units, *reasons.inlined()]}


def test_a_broken_section_of_debug_information_is_one_line(tmp_path: Path) -> None:
    path = compiled(tmp_path, "gcc", "-O2", "-g", "-pg")
    tool("objcopy", "--compress-debug-sections=zlib", path)
    with opened(path) as obj:
        section = obj.section(obj.named(b".debug_line")[0])
    content = bytearray(path.read_bytes())
    content[section.offset + 40] ^= 0xFF
    path.write_bytes(content)
    done = call("recordmcount", "report", "--lines", path)
    assert (done.status, done.stderr) == (1, f"{path}: .debug_line: compressed, and broken\n")
    assert call("recordmcount", "report", path).status == 0


def test_a_path_is_joined_from_its_folder(tmp_path: Path) -> None:
    with opened(compiled(tmp_path, "gcc", "-O0", "-g")) as obj:
        (line,) = Lines(obj).of(obj.named(b".text")[0], [0])
    assert line == Line(str(tmp_path / "inner.h"), 2)


@pytest.mark.matrix
@pytest.mark.parametrize("version", [2, 3, 4, 5])
def test_the_files_that_clang_numbers_are_told_apart(version: int, tmp_path: Path) -> None:
    path = compiled(tmp_path, "clang", "-O0", "-ffunction-sections", f"-gdwarf-{version}")
    assert found(path, ".text.far", [0]) == [("generated.y", 200000)]
    assert found(path, ".text.inner", [0]) == [("inner.h", 2)]
    assert found(path, ".text.other", [0]) == [("x.c", 11)]


@pytest.mark.slow
def test_whatever_is_broken_no_line_is_made_up(tmp_path: Path) -> None:
    """Every byte of the line table in turn is another one: an answer may be lost, no error come."""
    path = compiled(tmp_path, "gcc", "-O2", "-gdwarf-5")
    with opened(path) as obj:
        section = obj.section(obj.named(b".debug_line")[0])
    contents = path.read_bytes()
    for at in range(section.size):
        for value in (0, 0x7F, 0xFF):
            mutant = bytearray(contents)
            mutant[section.offset + at] = value
            obj = Object("x.o", len(mutant), lambda at, size, m=mutant: bytes(m[at : at + size]))  # type: ignore[misc]
            assert len(Lines(obj).of(1, [0, 4, 1 << 40])) == 3


# --- files of debug information -------------------------------------------------------------------


@pytest.fixture
def split(tmp_path: Path) -> tuple[Path, Path]:
    """A stripped program, and the file with its debug information, which nothing links yet."""
    program, debug = tmp_path / "program", tmp_path / "program.debug"
    build_id = "-Wl,--build-id=0xabcdef0123"
    tool("gcc", "-g", build_id, compiled(tmp_path, "gcc", "-O2", "-g"), "-o", program)
    tool("objcopy", "--only-keep-debug", program, debug)
    tool("strip", program)
    return program, debug


def where(program: Path, root: Path) -> str | None:
    with opened(program) as obj:
        result = debug_files.of(obj, str(root))
        if result is None:
            return None
        os.close(result[1])
        return result[0].path


@pytest.mark.parametrize("place", ["", ".debug/"])
def test_it_is_found_by_its_link(place: str, split: tuple[Path, Path]) -> None:
    program, debug = split
    tool("objcopy", f"--add-gnu-debuglink={debug}", program)
    target = program.parent / f"{place}program.debug"
    target.parent.mkdir(exist_ok=True)
    debug.rename(target)
    assert where(program, program.parent / "root") == str(target)
    with opened(target) as obj:
        assert Lines(obj).of(0, addresses(program, ".text")[".text"]) != []


def test_it_is_found_by_the_build_id(split: tuple[Path, Path]) -> None:
    program, debug = split
    root = program.parent / "root"
    target = root / ".build-id" / "ab" / "cdef0123.debug"
    target.parent.mkdir(parents=True)
    debug.rename(target)
    assert where(program, root) == str(target)


def test_one_of_another_build_is_not_taken(split: tuple[Path, Path]) -> None:
    program, debug = split
    tool("objcopy", f"--add-gnu-debuglink={debug}", program)
    tool("gcc", "-g", program.parent / "x.o", "-o", program.parent / "other")
    tool("objcopy", "--only-keep-debug", program.parent / "other", debug)
    assert where(program, program.parent / "root") is None
    debug.write_bytes(b"\x7fELF")
    assert where(program, program.parent / "root") is None


def test_a_link_names_no_folder(split: tuple[Path, Path]) -> None:
    program, debug = split
    link = program.parent / "link"
    link.write_bytes(b"../program.debug\0\0\0\0" + bytes(4))
    subprocess.run(
        ["objcopy", f"--add-section=.gnu_debuglink={link}", program], check=True
    )  # fmt: skip
    debug.rename(program.parent.parent / "program.debug")
    assert where(program, program.parent / "root") is None
