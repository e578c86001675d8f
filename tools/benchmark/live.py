"""Patcher on programs that run: how long they stand still, and how much later they start."""

import mmap
import os
import signal
import statistics
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from patcher.ftrace.mappings import Range
from patcher.process import maps
from tools.benchmark.builds import pure
from tools.benchmark.measure import BenchmarkError, Command, Cost, Sample, race, sample
from tools.benchmark.setting import Setting

PATCHER = pure().command("patcher")
UFTRACE = ["timeout", "20", "uftrace", "record", "-P", ".", "-d"]
MORE = 5  # bare copies around each halt: what they take swings


class Measured(NamedTuple):
    """What ours costs, and what a peer; or why the peer could not be measured."""

    ours: Sample
    peer: Sample
    why_not: str = ""


class Calling:
    """The program `path` while it runs and calls its sites, during its `with`."""

    def __init__(self, path: Path) -> None:
        self._process = subprocess.Popen(
            [path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = self._process.pid
        self.longest_pause()
        content = Path(f"/proc/{self.pid}/maps").read_bytes()
        self.text: Range = next(
            each.range
            for each in maps.parse(content)
            if each.path == str(path.resolve()) and each.protection == "r-xp"
        )

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()

    def longest_pause(self) -> float:
        """Return for how many seconds it did nothing, at most, since this was asked."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def switch(self, verb: str) -> float:
        """Run `patcher VERB --pid`; return for how many seconds that halted the program."""
        self.longest_pause()
        words = [*PATCHER, verb, "-q", "--pid", str(self.pid)]
        done = subprocess.run(words, check=False, capture_output=True, text=True)
        if done.returncode:
            raise BenchmarkError(f"patcher {verb} failed: {done.stderr}")
        return self.longest_pause()

    def copy(self) -> float:
        """Stop it, read its text and write it as it is; return how long these two take.

        By /proc/PID/mem, to and from pages that are there already, and aligned.
        """
        size = self.text.end - self.text.start
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED)
        memory = os.open(f"/proc/{self.pid}/mem", os.O_RDWR)
        try:
            with mmap.mmap(-1, size, flags) as pages:
                start = time.perf_counter()
                read = os.preadv(memory, [pages], self.text.start)
                written = os.pwrite(memory, pages, self.text.start)
                taken = time.perf_counter() - start
        finally:
            os.close(memory)
            os.kill(self.pid, signal.SIGCONT)
        if (read, written) != (size, size):
            raise BenchmarkError(f"{read} bytes were read, and {written} written, of {size}")
        return taken


@contextmanager
def calling(program: Path) -> Iterator[Calling]:
    """Run the program."""
    running = Calling(program)
    try:
        yield running
    finally:
        running.close()


def halts(program: Path, rounds: int) -> tuple[Measured, Measured]:
    """Compare a halt with a bare copy: of pages that nobody has written yet, and of others.

    What is written for the first time the kernel copies first, for either.
    """
    first: list[tuple[float, float]] = []
    again: list[tuple[float, float]] = []
    for _ in range(rounds):
        with calling(program) as running:
            bare = running.copy()
        with calling(program) as running:
            first.append((running.switch("nop"), bare))
            for verb in ("call", "nop"):
                before = [running.copy() for _ in range(MORE)]
                halt = running.switch(verb)
                copies = [*before, *(running.copy() for _ in range(MORE))]
                again.append((halt, statistics.median(copies)))
    return _measured(first), _measured(again)


def _measured(pairs: Sequence[tuple[float, float]]) -> Measured:
    ours, peer = zip(*pairs, strict=True)
    return Measured(Sample(ours), Sample(peer))


def starts(program: Path, setting: Setting) -> Measured:
    """Measure what `patcher run` adds to the start of a program, and what uftrace does.

    Where uftrace cannot, the peer is the program alone.
    """
    words = [str(program), "end"]
    before: list[list[str]] = [
        [],
        [*PATCHER, "run", "--"],
        [*UFTRACE, str(setting.scratch / "uftrace")],
    ]
    alone, ours, uftrace = (Command([*tracer, *words], setting.copies()) for tracer in before)
    try:
        bare, run, traced = race([alone, ours, uftrace], setting.rounds())
    except BenchmarkError as error:
        bare, run = race([alone, ours], setting.rounds())
        return Measured(_added(run, bare), sample(bare, "wall"), str(error).strip())
    return Measured(_added(run, bare), _added(traced, bare))


def _added(costs: Sequence[Cost], bare: Sequence[Cost]) -> Sample:
    return Sample(one.wall - other.wall for one, other in zip(costs, bare, strict=True))
