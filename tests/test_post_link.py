"""`recordmcount --image`: an image that is linked gets its table, runs as ever, can be stripped.

Whatever links it: no address moves, and nothing of the old file changes but headers and the dynamic
tags that must name what has grown.
"""

import re
import shutil
import subprocess
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import pytest

from tests.support import command, images
from tests.support.linked import Image
from tests.support.patching import patch, status
from tests.support.post_link import (
    START,
    STOP,
    addresses,
    calls,
    changed,
    complaints,
    dynamic_tags,
    is_loaded,
    post_link,
    table,
)
from tests.support.program import FENTRY, KINDS, Flavour, Program, tool

pytestmark = pytest.mark.matrix

COMPILERS = ("g++", "clang++")
LINKERS = ("bfd", "gold", "lld", "mold")
# The program has its own __fentry__ or mcount, and weak references to the bounds of its table.
LATE = Flavour(FENTRY.flags, ("late_table.c", "tracer.c"))
LATE_MCOUNT = Flavour(("-pg",), LATE.runtime)
# glibc has mcount: it is called through PLT or GOT.
LATE_GLIBC = Flavour(("-pg",), ("late_table.c",))
MAY_CHANGE = {"ELF header", "program headers", ".dynamic"}
# On i386 and in an executable a word that refers to the table holds the address itself.
MAY_REFER = {".got", ".got.plt", ".data.rel.ro"}


def entries_by_function(path: Path) -> set[tuple[str | None, int]]:
    """What a table names, whatever the addresses are: (function, bytes from its start)."""
    image = Image(path)
    starts = {symbol.name: symbol["st_value"] for symbol in image.symbols}
    found = set()
    for entry in image.table if is_loaded(path) else table(path):
        name = image.function_at(entry)
        found.add((name, entry - starts[name or ""]))
    return found


def recorded_before_the_link(folder: Path, program: Program, linker: str) -> Path:
    """The same program, of objects that were recorded."""
    (folder / "recorded").mkdir()
    other = Program(
        folder / "recorded", program.compiler, program.kind, program.flavour, program.machine
    )
    objects = other.compile()
    other.record(objects)
    return other.link(linker, objects)


def every_program() -> list[tuple[str, str, str, str, Flavour]]:
    """(compiler, kind, linker, machine, flavour): all kinds and linkers, the rest in turns."""
    flavours = {"-m64": (LATE, LATE_GLIBC, LATE_MCOUNT), "-m32": (LATE_MCOUNT, LATE_GLIBC)}
    found = []
    for number, (machine, kind, linker) in enumerate(product(flavours, KINDS, LINKERS)):
        turns = flavours[machine]
        compiler = COMPILERS[(number + number // len(LINKERS)) % 2]
        found.append((compiler, kind, linker, machine, turns[number % len(turns)]))
    return found


@pytest.mark.parametrize(("compiler", "kind", "linker", "machine", "flavour"), every_program())
class TestEveryProgram:
    def test_a_table_for_tools(
        self, tmp_path: Path, compiler: str, kind: str, linker: str, machine: str, flavour: Flavour
    ) -> None:
        program = Program(tmp_path, compiler, kind, flavour, machine)
        path = program.link(linker, program.compile())
        old, said = path.read_bytes(), complaints(path)
        sites = calls(path)
        result = post_link(path)
        assert (result.failed, result.err, result.counts) == (False, [], (len(sites), 0, 0))
        assert table(path) == sites
        assert not is_loaded(path)
        assert entries_by_function(path) == entries_by_function(
            recorded_before_the_link(tmp_path, program, linker)
        )
        assert changed(path, old) <= {"ELF header"}
        assert complaints(path) <= said
        program.run(path)
        assert status(path) == f"{len(sites)} sites: {len(sites)} call, 0 nop, 0 foreign"
        recorded = path.read_bytes()
        patch("nop", path)
        assert not program.run(path).returns
        patch("call", path)
        assert path.read_bytes() == recorded

    def test_a_table_for_the_program(
        self, tmp_path: Path, compiler: str, kind: str, linker: str, machine: str, flavour: Flavour
    ) -> None:
        program = Program(tmp_path, compiler, kind, flavour, machine)
        path = program.link(linker, program.compile())
        old, said, places = path.read_bytes(), complaints(path), addresses(path)
        sites = calls(path)
        result = post_link(path, alloc=True)
        assert (result.failed, result.counts) == (False, (len(sites), 0, 0))
        image = Image(path)
        assert image.table == table(path) == sites
        assert is_loaded(path)
        holds_addresses = machine == "-m32" or kind == "exe"
        assert changed(path, old) <= MAY_CHANGE | (MAY_REFER if holds_addresses else set())
        assert {*places.items()} <= {*addresses(path).items()}
        assert complaints(path) <= said
        said_by_it = program.run(path)
        assert [image.base + entry for entry in said_by_it.entries] == sites
        assert bool(said_by_it.returns) == ("tracer.c" in flavour.runtime)
        assert status(path) == f"{len(sites)} sites: {len(sites)} call, 0 nop, 0 foreign"
        patch("nop", path)
        off = program.run(path)
        assert (off.entries, off.returns) == (said_by_it.entries, set())


# --- without a loader -----------------------------------------------------------------------------

STATIC = {
    "static": ("-fno-pic", "-static"),
    "static-pie": ("-fpie", "-static-pie"),
}


def static_program(folder: Path, how: str, linker: str, machine: str) -> images.Built:
    """Four instrumented functions, main and a counter, without dynamic libraries."""
    compile_flag, link_flag = STATIC[how]
    flags = (machine, compile_flag)
    objects = [
        images.compile_object(folder, "work", images.WORK, "gcc", "-O0", "-pg", *flags),
        images.compile_object(folder, "main", images.MAIN, "gcc", *flags),
        images.compile_object(folder, "counter", images.COUNTER, "gcc", *flags),
    ]
    program = folder / "program"
    images.tool("gcc", machine, link_flag, f"-fuse-ld={linker}", "-o", program, *objects)
    return images.Built(program, program, None)


def calls_by_objdump(path: Path) -> list[int]:
    """The link-time virtual addresses of the calls of mcount, with mold's NOP before them."""
    words = ["objdump", "-d", "--no-show-raw-insn", str(path)]
    listing = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    call = re.compile(r"(?:([0-9a-f]+):\s+nop\n\s*)?([0-9a-f]+):\s+(?:addr..\s)?call\s.*<mcount>\n")
    return sorted(int(nop or start, 16) for nop, start in call.findall(listing))


# gold has no static PIE; i386's by lld 14 do not start, with or without a table; and objdump has no
# name for what those by mold call.
@pytest.mark.parametrize(("how", "linker", "machine"), [
    *product(["static"], LINKERS, ["-m64", "-m32"]),
    *product(["static-pie"], ["bfd"], ["-m64", "-m32"]),
    *product(["static-pie"], ["lld", "mold"], ["-m64"]),
])  # fmt: skip
def test_static_programs(tmp_path: Path, how: str, linker: str, machine: str) -> None:
    built = static_program(tmp_path, how, linker, machine)
    old, said = built.image.read_bytes(), complaints(built.image)
    sites = calls_by_objdump(built.image)
    assert len(sites) == len(images.WORK_FUNCTIONS)
    for alloc in (False, True):
        built.image.write_bytes(old)
        assert not post_link(built.image, alloc=alloc).failed
        assert table(built.image) == sites
        assert changed(built.image, old) <= (MAY_CHANGE if alloc else {"ELF header"})
        assert complaints(built.image) <= said
        assert images.calls(built) == images.CALLS
        patch("nop", built.image)
        assert images.calls(built) == 0


# --- what programs are made of --------------------------------------------------------------------

THROWS = """
#include <cstdio>
#include <stdexcept>
extern "C" __attribute__((naked, no_instrument_function)) void __fentry__() { asm("ret"); }
struct Noise { ~Noise() { std::puts("unwound"); } };
thread_local int count = 7;
__attribute__((noinline)) void fail(int n) {
    Noise noise;
    if (n) fail(n - 1); else throw std::runtime_error("far down");
}
int main() {
    try { fail(2); } catch (const std::exception &error) { std::puts(error.what()); }
    std::printf("%d\\n", count);
}
"""
FLAGS = ("-pg", "-mfentry", "-g", "-O1")
THROWN = "unwound\nunwound\nunwound\nfar down\n7\n"


def throwing(folder: Path, linker: str, *flags: str) -> Path:
    source = folder / "throws.cc"
    source.write_text(THROWS)
    path = folder / "throws"
    tool(["g++", *FLAGS, f"-fuse-ld={linker}", *flags, "-o", path, source])
    return path


def output(path: Path) -> str:
    return subprocess.run([path], check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("linker", LINKERS)
@pytest.mark.parametrize(
    "flags",
    [("-pie", "-Wl,-z,relro,-z,now"), ("-no-pie", "-Wl,-z,norelro"), ("-static",)],
    ids=["relro-now", "no-relro", "static"],
)
def test_exceptions_thread_locals_and_read_only_relocations_work_as_ever(
    tmp_path: Path, linker: str, flags: Sequence[str]
) -> None:
    path = throwing(tmp_path, linker, *flags)
    assert output(path) == THROWN
    assert not post_link(path, alloc=True).failed
    assert output(path) == THROWN


@pytest.mark.parametrize("linker", LINKERS)
def test_versioned_symbols_stay_versioned(tmp_path: Path, linker: str) -> None:
    (tmp_path / "versions").write_text("V1 { global: work; local: *; };\n")
    work = images.compile_object(tmp_path, "work", images.WORK, "gcc", "-O0", "-pg", "-fPIC")
    library, program = tmp_path / "libwork.so", tmp_path / "program"
    script = f"-Wl,--version-script={tmp_path / 'versions'}"
    images.tool("gcc", "-shared", f"-fuse-ld={linker}", script, "-o", library, work)
    main = images.compile_object(tmp_path, "main", images.MAIN, "gcc", "-fPIE")
    images.tool("gcc", "-o", program, main, library)
    assert not post_link(library, alloc=True).failed
    done = subprocess.run([program], check=True, input="3", capture_output=True, text=True)
    assert done.stdout == "work 6\n"
    listing = ["readelf", "-W", "--dyn-syms", str(library)]
    symbols = subprocess.run(listing, check=True, capture_output=True, text=True).stdout
    assert "work@@V1" in symbols


@pytest.mark.parametrize("linker", LINKERS)
@pytest.mark.parametrize("alloc", [False, True], ids=["for-tools", "alloc"])
def test_the_debugger_has_its_lines(tmp_path: Path, linker: str, alloc: bool) -> None:
    path = throwing(tmp_path, linker)
    assert not post_link(path, alloc=alloc).failed
    script = ("break fail if n == 0", "run", "bt")
    words = ["gdb", "-batch", "-nx", *(word for one in script for word in ("-ex", one)), str(path)]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    line = THROWS.splitlines().index("__attribute__((noinline)) void fail(int n) {") + 1
    frames = re.findall(
        r"^#\d .*(fail|main) \(.*\) at .*throws.cc:(\d+)$", done.stdout, re.MULTILINE
    )
    assert [name for name, _ in frames] == ["fail", "fail", "fail", "main"], done.stdout
    assert [int(number) - line for _, number in frames] == [0, 2, 2, 5]


def test_packed_relocations(tmp_path: Path) -> None:
    """By bfd: what others pack glibc does not load, for they do not say so in a version."""
    program = Program(tmp_path, "g++", "pie", LATE)
    path = program.link("bfd", program.compile(), "-Wl,-z,pack-relative-relocs")
    assert not post_link(path, alloc=True).failed
    image = Image(path)
    assert [image.base + entry for entry in program.run(path).entries] == calls(path)


def test_without_another_relocation_packed_ones_grow(tmp_path: Path) -> None:
    """A library that imports nothing has DT_RELR alone."""
    source = tmp_path / "data.c"
    source.write_text("static int one; int *pointer = &one; void mcount(void) { }\n")
    work = images.compile_object(tmp_path, "work", images.WORK, "gcc", "-O0", "-pg", "-fPIC")
    path = tmp_path / "library.so"
    (tmp_path / "local").write_text("{ local: *; };\n")
    how = ["-fuse-ld=lld", "-Wl,--pack-dyn-relocs=relr", f"-Wl,--version-script={tmp_path}/local"]
    images.tool("gcc", "-shared", "-nostdlib", "-fPIC", *how, "-o", path, work, source)
    before = dynamic_tags(path)
    assert "DT_RELR" in before
    assert "DT_RELA" not in before
    sites = calls(path)
    assert not post_link(path, alloc=True).failed
    assert dynamic_tags(path)["DT_RELRSZ"] > before["DT_RELRSZ"]
    # The loader relocates it: nothing but its words tells where.
    program = tmp_path / "load"
    (tmp_path / "load.c").write_text(
        "#include <dlfcn.h>\n#include <link.h>\n#include <stdio.h>\n#include <stdlib.h>\n"
        "int main(int count, char **words) {\n"
        "  struct link_map *map = dlopen(words[1], RTLD_NOW);\n"
        "  if (!map) return 1;\n"
        "  for (int i = 3; i < count; i++) {\n"
        "    long at = strtol(words[2], 0, 0) + 8 * (i - 3);\n"
        '    printf("%#lx\\n", *(unsigned long *)(map->l_addr + at) - map->l_addr);\n'
        "  }\n}\n"
    )
    images.tool("gcc", "-o", program, tmp_path / "load.c")
    _, vaddr, _ = images.section(path, "__mcount_loc")
    words = [str(program), str(path), hex(vaddr), *map(hex, sites)]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    assert done.stdout.split() == [hex(site) for site in sites]


def test_relocations_packed_for_android_are_refused(tmp_path: Path) -> None:
    program = Program(tmp_path, "g++", "pie", LATE)
    path = program.link("lld", program.compile(), "-Wl,--pack-dyn-relocs=android")
    old = path.read_bytes()
    result = post_link(path, alloc=True)
    assert result.err == [
        f"{path}: relocations packed for Android (DT_ANDROID_RELA) are not supported",
        f"{path}: failed",
    ]
    assert path.read_bytes() == old


def test_x32(tmp_path: Path) -> None:
    """Nothing here can run it: the judge reads what a loader would."""
    work = images.compile_object(
        tmp_path, "work", images.WORK, "gcc", "-O0", "-pg", "-mx32", "-fPIC"
    )
    path = tmp_path / "libwork.so"
    images.tool("gcc", "-mx32", "-shared", "-nostdlib", "-o", path, work)
    old, said = path.read_bytes(), complaints(path)
    assert not post_link(path, alloc=True).failed
    assert Image(path).table == calls(path)
    assert len(calls(path)) == len(images.WORK_FUNCTIONS)
    assert changed(path, old) <= MAY_CHANGE
    assert complaints(path) <= said


# --- and then strip -------------------------------------------------------------------------------

STRIPS = {"strip": ["strip"], "eu-strip": ["eu-strip"], "llvm-strip": ["llvm-strip"]}


def stripped(path: Path, strip: str) -> Path:
    out = path.with_name("stripped")
    shutil.copy(path, out)
    subprocess.run([*STRIPS[strip], str(out)], check=True, capture_output=True)
    return out


def has_table(path: Path) -> bool:
    words = ["readelf", "-SW", str(path)]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    return "__mcount_loc" in done.stdout


@pytest.mark.parametrize("strip", STRIPS)
@pytest.mark.parametrize("linker", LINKERS)
@pytest.mark.parametrize("kind", ["exe", "pie"])
def test_a_table_for_tools_is_kept_by_gnu_strip_and_dropped_by_others(
    tmp_path: Path, kind: str, linker: str, strip: str
) -> None:
    program = Program(tmp_path, "g++", kind, LATE)
    path = program.link(linker, program.compile())
    assert not post_link(path).failed
    out = stripped(path, strip)
    assert has_table(out) == (strip == "strip")
    if has_table(out):
        assert table(out) == table(path)
    program.run(out)


@pytest.mark.parametrize("strip", STRIPS)
@pytest.mark.parametrize("linker", LINKERS)
@pytest.mark.parametrize("kind", ["exe", "pie"])
def test_a_loaded_table_survives_every_strip_that_leaves_moved_headers_alone(
    tmp_path: Path, kind: str, linker: str, strip: str
) -> None:
    program = Program(tmp_path, "g++", kind, LATE)
    path = program.link(linker, program.compile())
    result = post_link(path, alloc=True)
    moved = any("its program headers had to move: strip it before" in line for line in result.err)
    assert moved == (linker != "bfd")
    if not moved or strip != "strip":
        out = stripped(path, strip)
        assert program.run(out).entries == program.run(path).entries != []


@pytest.mark.parametrize("strip", STRIPS)
@pytest.mark.parametrize("linker", LINKERS)
def test_strip_first_and_all_is_well(tmp_path: Path, linker: str, strip: str) -> None:
    # That a PIE of mold's refers to the table, nothing but its symbols tells.
    program = Program(tmp_path, "g++", "shared" if linker == "mold" else "pie", LATE)
    path = program.link(linker, program.compile())
    sites = calls(path)
    out = stripped(path, strip)
    assert not post_link(out, sites, alloc=True).failed
    base = Image(path).base
    assert [base + entry for entry in program.run(out).entries] == sites


@pytest.mark.parametrize("linker", ["gold", "lld", "mold"])
def test_references_that_the_linker_made_zero_are_told(tmp_path: Path, linker: str) -> None:
    late = Path(__file__).parents[1] / "fixtures" / "late_table.c"
    program = tmp_path / "program"
    work = images.compile_object(tmp_path, "work", images.WORK, "gcc", "-O0", "-pg", "-fno-pic")
    main = images.compile_object(tmp_path, "main", images.MAIN, "gcc", "-fno-pic")
    images.tool("gcc", "-fno-pic", "-c", late, "-o", tmp_path / "late.o")
    images.tool(
        "gcc", "-no-pie", f"-fuse-ld={linker}", "-o", program, work, main, tmp_path / "late.o"
    )
    result = post_link(program, alloc=True)
    assert not result.failed
    assert result.err[-1] == (
        f"{program}: warning: the linker has made {START} and {STOP} 0 in its code: the program "
        "does not see the table"
    )
    assert command.run("patcher", "status", "-q", program).status == 0
