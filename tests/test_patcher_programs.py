"""Whole programs, every linked file of them: off, a part on, on again; and a spoilt site in each.

tests/test_patcher.py has a row for each way in which compilers and linkers spell a site. Here are
programs that consist of more: several linked files, some of them opened and closed while the
program runs; C++ with its inline functions; all of libc in the same file.
"""

import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from elftools.elf.elffile import ELFFile

from patcher import cli
from patcher.disassembly import disassemble
from recordmcount import x86
from tests.support import command, images
from tests.support.command import ROOT

pytestmark = pytest.mark.matrix

DEMO, CALCULATOR = ROOT / "fixtures" / "demo", ROOT / "fixtures" / "project"


class Program(NamedTuple):
    """`images` are the linked files with a table; `words` run the program, which counts calls."""

    images: Sequence[Path]
    words: Sequence[str | Path]


class Run(NamedTuple):
    """What a program printed, and how often __fentry__ or mcount was called."""

    text: str
    calls: int


class Way(NamedTuple):
    """How to compile and link; `link` says, with -pie or the like, what the program is."""

    link: str
    compiler: str = "gcc"
    linker: str = "bfd"
    machine: str = "-m64"

    @property
    def pic(self) -> bool:
        return "pie" in self.link and not self.link.startswith("-no-pie")

    def __str__(self) -> str:
        return f"{self.compiler}{self.machine}-{self.linker}{self.link.replace(' ', '')}"


class Builder:
    """Compiles each source once for all tests, and links anywhere."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._objects: dict[tuple[str, ...], Path] = {}

    def recorded(self, source: Path, way: Way, pic: str) -> Path:
        """The instrumented object with its table."""
        # gcc -m32 has __fentry__ for position-dependent code only.
        flags = ["-O2", "-pg", way.machine, pic]
        if way.machine == "-m64" or pic == "-fno-pic":
            flags.append("-mfentry")
        path, is_new = self._compiled(source, way.compiler, *flags)
        if is_new:
            options = () if pic == "-fno-pic" else ("--pic",)
            assert command.run("recordmcount", *options, path) == (0, "", "")
        return path

    def counter(self, machine: str) -> Path:
        source = self._folder / "counter.c"
        source.write_text(images.COUNTER)
        return self._compiled(source, "gcc", "-O2", "-fPIC", machine)[0]

    def link(self, way: Way, out: Path, *inputs: str | Path) -> Path:
        """Link a program or shared object."""
        images.tool("gcc", f"-fuse-ld={way.linker}", way.machine, "-o", out, *inputs)
        return out

    def _compiled(self, source: Path, compiler: str, *flags: str) -> tuple[Path, bool]:
        if source.suffix == ".cc":
            compiler = {"gcc": "g++", "clang": "clang++"}[compiler]
        key = (str(source), compiler, *flags)
        if key in self._objects:
            return self._objects[key], False
        path = self._folder / f"{len(self._objects)}-{source.stem}.o"
        images.tool(compiler, *flags, "-c", source, "-o", path)
        self._objects[key] = path
        return path, True


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    return Builder(tmp_path_factory.mktemp("objects"))


# --- the programs ---------------------------------------------------------------------------------


def words(builder: Builder, folder: Path, way: Way) -> Program:
    """The demo: one linked file that has the counter as well."""
    pic = "-fpie" if way.pic else "-fno-pic"
    sources = [DEMO / "words.c", DEMO / "dictionary.c"]
    objects = [builder.recorded(source, way, pic) for source in sources]
    counter = builder.counter(way.machine)
    image = builder.link(way, folder / "words", *objects, counter, *way.link.split())
    return Program([image], [image, DEMO / "dictionary.c"])


def calculator(builder: Builder, folder: Path, way: Way) -> Program:
    """A C++ program and a shared library of its own; the counter is another."""
    own_folder = f"-Wl,-rpath,{folder}"
    counter = builder.link(way, folder / "libcounter.so", builder.counter(way.machine), "-shared")
    stack = builder.recorded(CALCULATOR / "stack.c", way, "-fPIC")
    library = builder.link(way, folder / "libstack.so", stack, counter, own_folder, "-shared")
    pic = "-fpie" if way.pic else "-fno-pic"
    sources = [CALCULATOR / "main.cc", CALCULATOR / "operators.cc"]
    objects = [builder.recorded(source, way, pic) for source in sources]
    inputs: list[str | Path] = [*objects, library, counter, "-lstdc++", own_folder]
    program = builder.link(way, folder / "calc", *inputs, *way.link.split())
    return Program([program, library], [program, "2", "3", "+", "4", "x"])


HOST = """
#include <dlfcn.h>
#include <stdio.h>
static long change(const char *path, long value)
{
	void *library = dlopen(path, RTLD_NOW);
	long (*by_library)(long) = (long (*)(long))dlsym(library, "change");
	value = by_library(value);
	dlclose(library);
	return value;
}
int main(int argc, char **argv)
{
	long value = 3;
	for (int i = 1; i < argc; i++)
		value = change(argv[i], value);
	printf("%ld\\n", value);
}
"""
DOUBLE = "static long twice(long x) { return x + x; } long change(long x) { return twice(x); }"
ADD = "long more = 1; long change(long x) { return x + more; }"


def plugins(builder: Builder, folder: Path, way: Way) -> Program:
    """A program that opens two shared objects by dlopen, one of them again when it was closed."""
    counter = builder.link(way, folder / "libcounter.so", builder.counter(way.machine), "-shared")
    libraries = []
    for name, text in (("double", DOUBLE), ("add", ADD)):
        (folder / f"{name}.c").write_text(text)
        recorded = builder.recorded(folder / f"{name}.c", way, "-fPIC")
        libraries.append(builder.link(way, folder / f"{name}.so", recorded, "-shared"))
    (folder / "host.c").write_text(HOST)
    host_object = builder.recorded(folder / "host.c", way, "-fpie" if way.pic else "-fno-pic")
    inputs: list[str | Path] = [host_object, counter, f"-Wl,-rpath,{folder}"]
    host = builder.link(way, folder / "host", *inputs, *way.link.split())
    double, add = libraries
    return Program([host, double, add], [host, double, add, double])


Build = Callable[[Builder, Path, Way], Program]
LINKERS = ("bfd", "gold", "lld", "mold")
PROGRAMS: list[tuple[Build, Way]] = [
    *((words, Way("-pie", "gcc", linker)) for linker in LINKERS),
    *((words, Way("-pie", "clang", linker)) for linker in LINKERS),
    *((words, Way("-no-pie", "gcc", linker)) for linker in ("bfd", "lld")),
    *((words, Way("-static -no-pie", "gcc", linker)) for linker in ("bfd", "mold")),
    *((words, Way("-static-pie", "gcc", linker)) for linker in ("bfd", "mold")),
    (words, Way("-static -no-pie", "clang")),
    *((words, Way("-pie", "gcc", linker, "-m32")) for linker in LINKERS),
    *((words, Way("-no-pie", "gcc", linker, "-m32")) for linker in ("bfd", "lld")),
    *((words, Way("-static -no-pie", "gcc", linker, "-m32")) for linker in ("bfd", "mold")),
    (words, Way("-pie", "clang", "bfd", "-m32")),
    *((words, Way("-no-pie -Wl,-z,retpolineplt", "gcc", "lld", m)) for m in ("-m64", "-m32")),
    *((calculator, Way("-pie", "gcc", linker)) for linker in LINKERS),
    (calculator, Way("-no-pie", "clang", "lld")),
    (calculator, Way("-pie", "gcc", "bfd", "-m32")),
    *((plugins, Way("-pie", "gcc", linker)) for linker in ("bfd", "mold")),
    (plugins, Way("-pie", "clang", "lld")),
    (plugins, Way("-no-pie", "gcc", "bfd", "-m32")),
]


@pytest.fixture(params=PROGRAMS, ids=lambda row: f"{row[0].__name__}-{row[1]}")
def program(request: pytest.FixtureRequest, builder: Builder, tmp_path: Path) -> Program:
    build, way = request.param
    program: Program = build(builder, tmp_path, way)
    return program


def run(program: Program) -> Run:
    """Run the program, which must succeed."""
    done = subprocess.run(program.words, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done
    *lines, last = done.stdout.splitlines()
    word, calls = last.split()
    assert word == "calls"
    return Run("\n".join(lines), int(calls))


class Patcher:
    """The command in this process; that it starts as one of its own is shown elsewhere."""

    def __init__(self, output: pytest.CaptureFixture[str]) -> None:
        self._output = output

    def __call__(self, *words: str | Path) -> str:
        """What the command printed; it must succeed."""
        done = self.run(*words)
        assert (done.status, done.stderr) == (0, "")
        return done.stdout

    def run(self, *words: str | Path) -> command.Finished:
        status = cli.main([str(word) for word in words])
        return command.Finished(status, *self._output.readouterr())


@pytest.fixture
def patcher(capfd: pytest.CaptureFixture[str]) -> Patcher:
    return Patcher(capfd)


# --- what they show -------------------------------------------------------------------------------


def test_a_program_works_with_its_sites_off_or_on_and_comes_back_bit_for_bit(
    program: Program, patcher: Patcher
) -> None:
    original = [image.read_bytes() for image in program.images]
    as_built = run(program)
    assert as_built.calls > 0
    patcher("nop", *program.images)
    assert run(program) == Run(as_built.text, 0)
    for image, before in zip(program.images, original, strict=True):
        patcher("call", image)
        some = run(program)
        assert some.text == as_built.text
        assert 0 < some.calls <= as_built.calls
        assert image.read_bytes() == before
    assert run(program) == as_built


SPOILT = bytes.fromhex("0f0b") + 11 * b"\x90"  # as by hand: ud2, and a nop for each byte left


class Spoilt(NamedTuple):
    """A site that SPOILT was written over: its link-time virtual address, and what it called."""

    image: Path
    place: str
    address: int
    call: bytes


def spoil(image: Path, plan: Sequence[str]) -> Spoilt:
    """Spoil the site in the middle of a file, given the lines of `patcher nop --dry-run`."""
    match = re.fullmatch(r".*: (\S+) \((0x\w+)\): ([\w ]+) -> [\w ]+", plan[len(plan) // 2])
    assert match is not None
    site = Spoilt(image, match[1], int(match[2], 16), bytes.fromhex(match[3]))
    images.write(image, offset_of(site), SPOILT[: len(site.call)])
    return site


def offset_of(site: Spoilt) -> int:
    with site.image.open("rb") as stream:
        (offset,) = ELFFile(stream).address_offsets(site.address, len(site.call))
    return int(offset)


def decoded(code: bytes, site: Spoilt) -> str:
    with site.image.open("rb") as stream:
        machine = {"EM_386": x86.EM_386, "EM_X86_64": x86.EM_X86_64}[ELFFile(stream)["e_machine"]]
    return f"{code.hex(' ')} ({disassemble(code, site.address, machine)})"


def assert_told(site: Spoilt, what: str) -> None:
    """The report of the site: what stands there, in as many bytes as a call could have there."""
    found = re.fullmatch(r"(.*); expected (.*)", what)
    assert found is not None
    expected = found[2].split(" or ")
    assert decoded(site.call, site) in expected
    assert len(expected) <= 5  # two functions or stubs, a stub or slot of each
    length = max(len(bytes.fromhex(call.partition(" (")[0])) for call in expected)
    stands = site.image.read_bytes()[offset_of(site) :][:length]
    assert found[1] == (
        f"{site.image}: {site.place} ({site.address:#x}): foreign: "
        f"neither a call nor a NOP in the place of one: {decoded(stands, site)}"
    )


def test_a_spoilt_site_in_each_file_is_reported_exactly_and_nothing_is_written(
    program: Program, patcher: Patcher
) -> None:
    original = [image.read_bytes() for image in program.images]
    plans = [patcher("nop", "--dry-run", image).splitlines() for image in program.images]
    for state, verb in (("call", "nop"), ("nop", "call")):
        patcher(state, *program.images)
        whole = [image.read_bytes() for image in program.images]
        spoilt = [spoil(image, plan) for image, plan in zip(program.images, plans, strict=True)]
        before = [image.read_bytes() for image in program.images]
        done = patcher.run(verb, *program.images)
        assert (done.status, done.stdout) == (1, "")
        for site, line in zip(spoilt, done.stderr.splitlines(), strict=True):
            assert line.endswith("; nothing was written")
            assert_told(site, line.removesuffix("; nothing was written"))
        assert [image.read_bytes() for image in program.images] == before
        for image, content in zip(program.images, whole, strict=True):
            image.write_bytes(content)
    patcher("call", *program.images)
    assert [image.read_bytes() for image in program.images] == original


def test_status_lists_the_spoilt_site_of_each_file(program: Program, patcher: Patcher) -> None:
    plans = [patcher("nop", "--dry-run", image).splitlines() for image in program.images]
    spoilt = [spoil(image, plan) for image, plan in zip(program.images, plans, strict=True)]
    done = patcher.run("status", *program.images)
    assert (done.status, done.stderr) == (1, "")
    lines = done.stdout.splitlines()
    for site, plan in zip(spoilt, plans, strict=True):
        number = f"{len(plan)} site{'s' * (len(plan) > 1)}"
        assert f"{site.image}: {number}: {len(plan) - 1} call, 0 nop, 1 foreign" in lines
    foreign = [line for line in lines if ": foreign: " in line]
    for site, line in zip(spoilt, foreign, strict=True):
        assert_told(site, line)
