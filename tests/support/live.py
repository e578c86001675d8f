"""Build programs with sites, run them, and switch them while they run.

A program answers each line on its standard input: it does the work of `work` in each of its
modules, and says how many calls of __fentry__ that took.
"""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from patcher.process import loaded_file
from patcher.process.target import Target
from tests.support import command, images
from tests.support.processes import PRELUDE

COUNTER = """
static volatile unsigned long calls __attribute__((used));
#ifdef __i386__
#define COUNT "push %eax; call 1f; 1: pop %eax; lock incl calls - 1b(%eax); pop %eax; ret"
#else
#define COUNT "lock incq calls(%rip); ret"
#endif
__attribute__((naked, no_instrument_function)) void __fentry__(void) { __asm__(COUNT); }
"""
WORK = """
__attribute__((noinline)) static int twice(int x) { __asm__ volatile(""); return x + x; }
__attribute__((noinline)) static int more(int x) { return twice(x) + 1; }
int work(int x) { return more(x) + twice(x); }
"""
# Kinds of programs: (flags of the compiler, flags of the linker).
KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "PIE": ((), ()),
    "executable": (("-fno-pie",), ("-no-pie",)),
    "static": (("-fno-pie",), ("-static",)),
    "static PIE": (("-fPIE",), ("-static-pie",)),
    "large code model": (("-mcmodel=large", "-fno-pie"), ("-no-pie",)),
    "i386": (("-m32", "-fno-pie"), ("-no-pie",)),
}
CALLS = 4  # of `work`: work, more, twice, twice
ANSWER = """
#define QUIET __attribute__((no_instrument_function))
int work(int);
QUIET static int answer(void) {
    char line[64];
    int size = read(0, line, sizeof line);
    if (size < 0 && errno == EINTR) return 1;
    if (size <= 0) return 0;
    unsigned long before = calls;
    int result = work(3);
    printf("%d %lu\\n", result, calls - before);
    fflush(stdout);
    return 1;
}
"""
MAIN = "QUIET int main(void) { ready(); while (answer()) {} return 0; }"


def without_instrumentation(source: str) -> str:
    """The prelude's own functions are not to be counted."""
    return source.replace("static void", "__attribute__((no_instrument_function)) static void")


def build(
    folder: Path,
    main: str = MAIN,
    *,
    flags: Sequence[str] = (),
    link: Sequence[str | Path] = (),
    work: str = WORK,
    name: str = "target",
) -> Path:
    """Compile a program with its own counter and WORK, record it, and link it."""
    source = without_instrumentation(PRELUDE) + COUNTER + ANSWER + work + main
    compiled = compile_and_record(folder, name, source, "-pthread", *flags)
    machine = [flag for flag in flags if flag.startswith("-m3")]
    program = folder / name
    images.tool("gcc", *machine, "-pthread", "-rdynamic", compiled, "-o", program, *link)
    return program


def library(folder: Path, name: str, source: str, *flags: str) -> Path:
    """Compile a library of `source`, recorded, whose calls go to the program's __fentry__."""
    compiled = compile_and_record(folder, name, source, "-fPIC", *flags)
    path = folder / f"{name}.so"
    machine = [flag for flag in flags if flag.startswith("-m3")]
    images.tool("gcc", *machine, "-shared", compiled, "-o", path)
    return path


def compile_and_record(folder: Path, name: str, source: str, *flags: str) -> Path:
    compiled = images.compile_object(folder, name, source, "gcc", "-O1", "-pg", "-mfentry", *flags)
    done = command.call("recordmcount", *(["--pic"] if "-fPIC" in flags else []), compiled)
    assert done == (0, "", ""), done
    return compiled


def ask(process: subprocess.Popen[str]) -> tuple[int, int]:
    """What `work` gives in the process now, and how many calls of __fentry__ it took."""
    assert process.stdin
    assert process.stdout
    process.stdin.write("\n")
    process.stdin.flush()
    result, calls = process.stdout.readline().split()
    return int(result), int(calls)


def patch(verb: str, pid: int, *options: str) -> str:
    """Run `patcher VERB --pid PID`, which must succeed; what it printed."""
    done = command.run("patcher", verb, "--pid", str(pid), *options)
    assert (done.status, done.stderr) == (0, ""), done
    return done.stdout


def refused(verb: str, pid: int, *options: str) -> str:
    """Run `patcher VERB --pid PID`, which must fail; its one line."""
    done = command.run("patcher", verb, "--pid", str(pid), *options)
    assert (done.status, done.stdout) == (1, ""), done
    (line,) = done.stderr.splitlines()
    return line


def count(pid: int, *options: str) -> str:
    """The count of `patcher status` for all modules of a process."""
    done = command.call("patcher", "status", "-q", "--pid", str(pid), *options)
    first, *_ = done.stdout.splitlines() or [done.stderr]
    return first.partition("): ")[2]


def forbid_map_files(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the kernel refuse /proc/PID/map_files, as it does to whoever is not root."""
    real = target.proc.open

    def opened(name: str, flags: int = os.O_RDONLY) -> int:
        if name == "forbidden":
            raise PermissionError
        return real(name, flags)

    monkeypatch.setattr(loaded_file, "_map_file", lambda _: "forbidden")
    monkeypatch.setattr(target.proc, "open", opened)
