"""Start small C programs that run until they are told to end, and look at them from outside.

    with started(build_program(tmp_path, SOURCE)) as process: ...

A program says `ready` once what it was made for is so, and ends when its standard input does.
"""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from patcher.process import waiting
from patcher.process.memory import ProcessMemory
from patcher.process.proc import Proc
from patcher.process.waiting import End, Stop
from tests.support import images

BOUND = 60  # seconds that anything may take before a test fails
PRELUDE = """
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
static void ready(void) { puts("ready"); fflush(stdout); }
__attribute__((unused)) static void until_told(void) {
    char byte;
    while (read(0, &byte, 1) < 0) {}
}
"""


def build_program(folder: Path, source: str, *flags: str, name: str = "target") -> Path:
    """Compile a program of PRELUDE and `source`."""
    path = folder / f"{name}.c"
    path.write_text(PRELUDE + source)
    images.tool("gcc", "-O1", "-pthread", path, "-o", folder / name, *flags)
    return folder / name


@contextmanager
def started(
    *words: str | Path, cwd: Path | None = None, **variables: str
) -> Iterator[subprocess.Popen[str]]:
    """Run a command from when it is ready until the `with` ends; then it is killed.

    `variables` are added to its environment.
    """
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=cwd,
        env={**os.environ, **variables},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def state(pid: int, tid: int | None = None) -> str:
    """The letter for what a process, or one of its threads, does."""
    with Proc(pid) as proc:
        return proc.stat(tid).state


@contextmanager
def memory_of(pid: int) -> Iterator[ProcessMemory]:
    """The memory of a process as patcher has it."""
    with Proc(pid) as proc:
        memory = ProcessMemory(proc, "target")
        try:
            yield memory
        finally:
            memory.close()


def finish(process: subprocess.Popen[str]) -> str:
    """Tell a program to end, which it must do well; what else it said."""
    said, _ = process.communicate(timeout=BOUND)
    assert process.returncode == 0, said
    return said


def until(is_so: Callable[[], bool]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + BOUND
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def wait_for(tid: int) -> Stop | End:
    """Wait for what a tracee reports, and take it."""
    while (report := waiting.look(tid)) is None:
        time.sleep(0)
    waiting.take(tid)
    return report
