"""Trace processes by the library, and tell what they have in memory before and after.

with tracing(process.pid) as trace:
live.ask(process)
trace.stop()
assert trace.told() == [("work", "answer"), ...]
"""

import os
import random
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from patcher.errors import HaltError
from patcher.ftrace.mappings import Mapping
from patcher.process import regions
from patcher.process.target import Target
from patcher.trace.clock import Clock
from patcher.trace.counts import counted
from patcher.trace.detach import Left, detach
from patcher.trace.events import Event
from patcher.trace.traced import Asked, Traced
from tests.support.processes import memory_of

TIMEOUT = 30
DATA = 1 << 20  # bytes of a ring


class Tracing:
    """A trace of a process; `events` and `lost` are what has been read of it so far."""

    def __init__(self, traced: Traced, said: Sequence[str]) -> None:
        self.said = said
        self.session, self.names = traced.session, traced.names
        self._traced = traced
        self.events: list[Event] = []
        self.lost = 0
        self._is_all = False

    def read(self, *, is_last: bool = False) -> int:
        """Read what there is; how many events that were."""
        found = self._traced.stream().read(is_last=is_last)
        self.events += found.events
        self.lost += sum(found.lost.values())
        self._is_all = found.is_all
        return len(found.events)

    def end(self) -> str:
        """Bring the sites back; what is told of that."""
        return self._traced.end()

    def stop(self) -> str:
        """Bring the sites back, and read what is left."""
        told = self.end()
        self.read()
        while not self._is_all:
            self.read()
        self.read(is_last=True)
        return told

    def told(self) -> list[tuple[str, str]]:
        """(function, caller) of all events, while the `with` lasts."""
        return [(self.names.function(e.site), self.names.caller(e.caller)) for e in self.events]

    def counts(self) -> dict[str, int]:
        """How often each function was called, of a trace that counts."""
        return {name: count for (name, _), count in counted(self.session, self.names).items()}


@contextmanager
def tracing(
    pid: int,
    *functions: str,
    counts: bool = False,
    overwrites: bool = False,
    exits: bool = False,
    data: int = DATA,
) -> Iterator[Tracing]:
    """Trace a process from now on; when the `with` ends its sites are what they were."""
    said: list[str] = []
    asked = Asked((), functions, (), (), False, exits, (), TIMEOUT, data, counts, overwrites)
    with Traced(pid, asked, Clock(), said.append) as traced:
        try:
            traced.start()
            yield Tracing(traced, said)
        finally:
            traced.end()


class Memory(NamedTuple):
    """What a process has: regions, other mappings, text that is no region, and open files."""

    mappings: Sequence[str]
    regions: Sequence[tuple[int, int]]
    text: dict[int, bytes]
    descriptors: Sequence[str]


def memory(pid: int) -> Memory:
    """Look at a process from outside."""
    with memory_of(pid) as looked_at:
        found = regions.find(looked_at)
        mappings = looked_at.mappings()
        text = {
            each.range.start: looked_at.read(each.range.start, each.range.end - each.range.start)
            for each in mappings
            if each.protection == "r-xp" and each.path.startswith("/")
        }
        places = tuple(sorted((each.code.start, each.control) for each in found))
        rest = [_told(each) for each in mappings if not _is_of(each, places)]
    return Memory(rest, places, text, descriptors(pid))


def _told(mapping: Mapping) -> str:
    if mapping.path in ("[heap]", "[stack]") or not mapping.path:
        return f"{mapping.range.start:x} {mapping.protection} {mapping.path}"  # these may grow
    return f"{mapping.range} {mapping.protection} {mapping.path}"


def _is_of(mapping: Mapping, places: Sequence[tuple[int, int]]) -> bool:
    """Whether a mapping is a part of a region."""
    return any(mapping.range.start in place for place in places)


def descriptors(pid: int) -> list[str]:
    """What the descriptors of a process are of."""
    folder = Path(f"/proc/{pid}/fd")
    return sorted(f"{name}: {os.readlink(folder / name)}" for name in os.listdir(folder))


def trace_all_the_time(pid: int, *, counts: bool) -> int:
    """Have a process of its own trace `pid` again and again until it is killed; returns its PID."""
    tracer = os.fork()
    if tracer:
        return tracer
    try:
        while True:
            # What maps memory for one that was killed may be at work yet.
            with suppress(HaltError), tracing(pid, counts=counts) as trace:
                trace.read()
    finally:
        os._exit(1)


def kill_while_it_traces(pid: int) -> None:
    """Have a process of its own trace `pid`, and kill it when all sites are traced."""
    tracer = os.fork()
    if not tracer:
        with tracing(pid):
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitpid(tracer, 0)[1] == signal.SIGKILL


def detach_when_let_go(pid: int) -> Left:
    """Bring a process back whose tracer was killed, also if what maps memory for it carries on."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        try:
            with Target(pid, TIMEOUT) as target:
                return detach(target, TIMEOUT)
        except HaltError as error:
            if "is traced by" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def kill_tracers(pid: int, count: int, seeds: random.Random) -> Iterator[Left]:
    """Kill tracers of a process at random moments; what each has left, when all is back.

    Every third one counts. Fails if text, open files or rings are not as they were.
    """
    before, began = memory(pid), time.monotonic()
    with tracing(pid) as trace:
        trace.read()
    longest = 2 * (time.monotonic() - began)
    for number in range(count):
        tracer = trace_all_the_time(pid, counts=number % 3 == 0)
        time.sleep(seeds.uniform(0, longest))
        os.kill(tracer, signal.SIGKILL)
        assert os.waitpid(tracer, 0)[1] == signal.SIGKILL
        left = detach_when_let_go(pid)
        after = memory(pid)
        assert (after.text, after.descriptors) == (before.text, before.descriptors)
        assert not [each for each in after.mappings if regions.RINGS in each]
        yield left
