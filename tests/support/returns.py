"""Build programs of which functions call `__return__` where they end, and count these calls.

A program answers each line on its standard input: it does the work of `work`, and says what that
gives, how many calls of __fentry__ and how many of __return__ it took.
"""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests.support import images, live
from tests.support.oracle import Site, expected_sites
from tests.support.processes import PRELUDE

NAME = "__return__"
FLAGS = ("-O2", "-pg", "-mfentry", "-minstrument-return=call")
# Six functions, two of them left by a tail call (with -O2), one by either of two ways.
WORK = """
__attribute__((noinline)) static int twice(int x) { __asm__ volatile(""); return x + x; }
__attribute__((noinline)) static int more(int x) { return twice(x) + 1; }
__attribute__((noinline)) static int other(int x) { return twice(x + 1); }
__attribute__((noinline)) int either(int x) { if (x & 1) return more(x) * 2; return other(x); }
__attribute__((noinline)) double real(double x) { return x * 2; }
int work(int x) { return either(x) + either(x + 1) + (int)real(x); }
"""
RESULT = 2 * 7 + 10 + 6  # of work(3)
CALLS = 8  # of work(3): work, either, more, twice, either, other, twice, real; each returns once
COUNTER = """
#define QUIET __attribute__((no_instrument_function))
static volatile unsigned long entries __attribute__((used)), returns __attribute__((used));
#ifdef __i386__
#define COUNT(what) \\
    "push %eax; call 1f; 1: pop %eax; lock incl " #what " - 1b(%eax); pop %eax; ret"
#else
#define COUNT(what) "lock incq " #what "(%rip); ret"
#endif
__attribute__((naked)) QUIET void __fentry__(void) { __asm__(COUNT(entries)); }
__attribute__((naked)) QUIET void __return__(void) { __asm__(COUNT(returns)); }
"""
ANSWER = """
int work(int);
QUIET static int answer(void) {
    char line[64];
    int size = read(0, line, sizeof line);
    if (size < 0 && errno == EINTR) return 1;
    if (size <= 0) return 0;
    unsigned long entered = entries, returned = returns;
    int result = work(3);
    printf("%d %lu %lu\\n", result, entries - entered, returns - returned);
    fflush(stdout);
    return 1;
}
"""
# How to compile, and to link what is run: `shared` has WORK in a library.
KINDS: dict[str, tuple[str, ...]] = {
    "exe": ("-fno-pic",),
    "pie": ("-fpie",),
    "static": ("-fno-pic",),
    "static-pie": ("-fpie",),
    "shared": ("-fPIC",),
    "i386": ("-m32", "-fno-pic"),
}
LINK: dict[str, tuple[str, ...]] = {
    "exe": ("-no-pie",),
    "pie": ("-pie",),
    "static": ("-static",),
    "static-pie": ("-static-pie",),
    "shared": ("-shared",),
    "i386": ("-m32", "-no-pie"),
}


class Program(NamedTuple):
    """`image` has the sites; `path` is run."""

    image: Path
    path: Path


def compile_work(folder: Path, *flags: str, work: str = WORK, name: str = "work") -> Path:
    """Compile the functions with sites, by gcc: no other compiler has calls of __return__."""
    return images.compile_object(folder, name, work, "gcc", *FLAGS, *flags)


def link(
    folder: Path, objects: Sequence[Path], kind: str, linker: str = "bfd", *flags: str
) -> Program:
    """Link recorded objects with a main that counts."""
    how = (f"-fuse-ld={linker}", *LINK[kind], *flags)
    source = live.without_instrumentation(PRELUDE) + COUNTER + ANSWER + live.MAIN
    plain = ("-fPIE",) if kind == "shared" else KINDS[kind]
    main = images.compile_object(folder, "main", source, "gcc", "-O1", *plain)
    if kind != "shared":
        images.tool("gcc", *how, *objects, main, "-o", folder / "program")
        return Program(folder / "program", folder / "program")
    library = folder / "libwork.so"
    images.tool("gcc", *how, *objects, "-o", library)
    images.tool("gcc", "-rdynamic", main, library, f"-Wl,-rpath,{folder}", "-o", folder / "program")
    return Program(library, folder / "program")


def run(program: Program) -> tuple[int, int, int]:
    """What `work` gives in a run of the program; how often functions were entered, and left."""
    done = subprocess.run([program.path], input="\n", check=True, capture_output=True, text=True)
    first, second = done.stdout.splitlines()
    assert first == "ready"
    return answer_of(second)


def ask(process: subprocess.Popen[str]) -> tuple[int, int, int]:
    """The same of a process that runs."""
    assert process.stdin
    assert process.stdout
    process.stdin.write("\n")
    process.stdin.flush()
    return answer_of(process.stdout.readline())


def answer_of(line: str) -> tuple[int, int, int]:
    result, entries, returns = map(int, line.split())
    return result, entries, returns


def calls_of_return(path: Path) -> set[Site]:
    """The calls of __return__ in an object, by disassembly."""
    return expected_sites(path, [NAME])
