"""What it costs a program that one function is traced, by each way to trace: nanoseconds a call.

Every round measures each way once, in turns, so that other load meets all of them alike. A way that
this machine does not have is left out, and why is told.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from struct import pack
from typing import NamedTuple

from patcher.process import maps
from patcher.run.notification import PERF_EVENT_OPEN, PERF_FLAG_FD_CLOEXEC
from recordmcount import x86
from tests.support import images
from tools.benchmark.calls import Calls
from tools.benchmark.measure import BenchmarkError, Sample

PATIENCE = 10  # seconds, for a daemon to answer
Traced = AbstractContextManager[Calls]


class Way(NamedTuple):
    """A way to trace: runs the program, traced, during a `with`; what is timed then."""

    name: str
    start: Callable[[], Traced]
    calls: int
    threads: int = 1


class Costs(NamedTuple):
    """Nanoseconds for a call, by the name of the way; and why others could not be measured."""

    samples: dict[str, Sample]
    why_not: dict[str, str]


def measure(ways: Sequence[Way], rounds: int) -> Costs:
    """Measure all ways in so many rounds, every other one in reverse order."""
    found: dict[str, list[float]] = {way.name: [] for way in ways}
    why_not: dict[str, str] = {}
    for number in range(rounds):
        for way in ways if number % 2 else reversed(ways):
            if way.name in why_not:
                continue
            try:
                with way.start() as running:
                    found[way.name].append(running.measure(way.calls, way.threads))
            except (BenchmarkError, OSError) as error:
                why_not[way.name] = str(error)
    samples = {name: Sample(values) for name, values in found.items() if name not in why_not}
    return Costs(samples, why_not)


def peers(programs: dict[str, Path], scratch: Path) -> list[Way]:
    """The ways of others, on the programs of `calls.build`."""
    nop, plain = programs["nop"], programs["plain"]
    return [
        Way("NOP", partial(Calls, nop), 20_000_000),
        Way("bare return", partial(Calls, programs["call"]), 20_000_000),
        Way("uftrace", partial(uftrace, programs["fentry"], scratch / "uftrace"), 1_000_000),
        Way("LTTng", partial(lttng, programs["functions"], scratch), 300_000),
        Way("optimized uprobe", partial(uprobe, nop, is_optimized=True), 500_000),
        Way("trapping uprobe", partial(uprobe, plain, is_optimized=False), 20_000),
    ]


def ours(programs: dict[str, Path], scratch: Path) -> list[Way]:
    """Our ways, on the program whose sites are NOPs; one of them on all processors at once."""
    nop, output = programs["nop"], scratch / "traced"
    event = partial(patcher_trace, nop, output, "--flight-recorder")
    return [
        Way("event", event, 5_000_000),
        Way("contended event", event, 5_000_000, len(os.sched_getaffinity(0))),
        Way("count", partial(patcher_trace, nop, output, "--count"), 20_000_000),
    ]


# --- patcher --------------------------------------------------------------------------------------

PATCHER = [sys.executable, "-m", "patcher"]


@contextmanager
def patcher_trace(program: Path, output: Path, how: str) -> Iterator[Calls]:
    """With a trace that is begun when it runs. Nothing of it is read meanwhile, but at its end."""
    address = images.symbol(program, "traced")
    output.write_bytes(b"")
    with Calls(program) as running:
        words = [*PATCHER, "trace", "-q", "--pid", str(running.pid), "--functions", "traced"]
        tracer = subprocess.Popen([*words, how, "-o", output], stderr=subprocess.PIPE, text=True)
        try:
            deadline = time.monotonic() + PATIENCE
            while not _is_call(running.pid, address) and tracer.poll() is None:
                if time.monotonic() > deadline:
                    break
                time.sleep(0.01)
            else:
                yield running
        finally:
            tracer.send_signal(signal.SIGINT)
            _, said = tracer.communicate()
        if tracer.returncode or b"traced" not in output.read_bytes():
            raise BenchmarkError(f"patcher trace has told nothing: {said}")


def _is_call(pid: int, address: int) -> bool:
    """Tell whether a site is a call now, by its run-time address."""
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        memory.seek(address)
        return memory.read(1) == x86.CALL.prefix


# --- uftrace --------------------------------------------------------------------------------------


@contextmanager
def uftrace(program: Path, folder: Path) -> Iterator[Calls]:
    """Under uftrace, which records entries and returns in files."""
    try:
        with Calls(program, "uftrace", "record", "--no-event", "-d", str(folder)) as running:
            yield running
        if not any(each.stat().st_size for each in folder.glob("[0-9]*.dat")):
            raise BenchmarkError("uftrace has recorded nothing")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# --- uprobes --------------------------------------------------------------------------------------

ATTRIBUTES = 112  # bytes of a struct perf_event_attr, as of PERF_ATTR_SIZE_VER5
UPROBES = Path("/sys/bus/event_source/devices/uprobe/type")


@contextmanager
def uprobe(program: Path, *, is_optimized: bool) -> Iterator[Calls]:
    """With a uprobe at the first instruction of the function, which only counts.

    Since Linux 6.18 it is a call where a NOP of 5 bytes stands, else a breakpoint.
    """
    with Calls(program) as running:
        address = images.symbol(program, "traced")
        running.measure(1)  # before it answers, the kernel may not have mapped it yet
        content = Path(f"/proc/{running.pid}/maps").read_bytes()
        text = next(each for each in maps.parse(content) if each.range.holds(address))
        counter = _open_uprobe(running.pid, program, address - text.range.start + text.offset)
        try:
            running.measure(1000)  # the kernel optimizes it at one of the first calls
            if _is_call(running.pid, address) != is_optimized:
                raise BenchmarkError("this kernel does not optimize uprobes on NOPs")
            yield running
            if int.from_bytes(os.read(counter, 8), "little") < 1000:
                raise BenchmarkError("the uprobe has counted nothing")
        finally:
            os.close(counter)


def _open_uprobe(pid: int, program: Path, offset: int) -> int:
    """Open a counter of what passes file offset `offset` in one process. Raises OSError."""
    path = ctypes.create_string_buffer(os.fsencode(program.resolve()))
    size = ATTRIBUTES
    head = pack("<II5Q", int(UPROBES.read_text()), size, 0, 0, 0, 0, 0)
    attributes = (head + pack("<II2Q", 0, 0, ctypes.addressof(path), offset)).ljust(size, b"\0")
    libc = ctypes.CDLL(None, use_errno=True)
    arguments = (ctypes.c_long(each) for each in (pid, -1, -1, PERF_FLAG_FD_CLOEXEC))
    descriptor = int(libc.syscall(PERF_EVENT_OPEN, attributes, *arguments))
    if descriptor < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"perf_event_open: {os.strerror(number)}")
    return descriptor


# --- LTTng ----------------------------------------------------------------------------------------

SESSION = "recordmcount-bench"


@contextmanager
def lttng(program: Path, scratch: Path) -> Iterator[Calls]:
    """With LTTng's library for entries and returns, as a flight recorder."""
    kept = scratch / "snapshot"
    with _session(kept):
        with Calls(program, LD_PRELOAD="liblttng-ust-cyg-profile.so.1") as running:
            yield running
            _lttng("snapshot", "record", "--session", SESSION)
        if not any(each.stat().st_size for each in kept.rglob("*_*") if each.is_file()):
            raise BenchmarkError("LTTng has recorded nothing")
    shutil.rmtree(kept, ignore_errors=True)


@contextmanager
def _session(kept: Path) -> Iterator[None]:
    """Have all events recorded by a session of one's own."""
    with _daemon():
        _lttng("create", SESSION, "--snapshot", "--output", str(kept))
        try:
            _lttng("enable-event", "--session", SESSION, "--userspace", "lttng_ust_cyg_profile:*")
            _lttng("start", SESSION)
            yield
        finally:
            _lttng("destroy", SESSION)


@contextmanager
def _daemon() -> Iterator[None]:
    """Have LTTng's daemon: one of one's own if none runs."""
    if _answers():
        yield
        return
    silent = subprocess.DEVNULL
    daemon = subprocess.Popen(["lttng-sessiond", "--no-kernel"], stdout=silent, stderr=silent)
    try:
        deadline = time.monotonic() + PATIENCE
        while not _answers():
            if time.monotonic() > deadline:
                raise BenchmarkError("lttng-sessiond does not answer")
            time.sleep(0.1)
        yield
    finally:
        daemon.terminate()
        daemon.wait()


def _answers() -> bool:
    words = ["lttng", "--no-sessiond", "list"]
    return not subprocess.run(words, check=False, capture_output=True).returncode


def _lttng(*words: str) -> None:
    command = ["lttng", "--no-sessiond", "--quiet", *words]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise BenchmarkError(f"lttng {words[0]} failed: {done.stderr.strip()}")
