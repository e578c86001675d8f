"""The processor's time stamp counter in nanoseconds of CLOCK_MONOTONIC.

Traced code notes the counter, for nothing else is as fast. Python cannot read it: a function of
four instructions does, in a page of ours that is first written and then made executable. Both
clocks are read together, as an anchor, now and then; between two anchors time runs evenly.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from _operator import le
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from patcher.errors import AccessError
from recordmcount.x86_code import READ_COUNTER

NAME = "the time stamp counter"
CALIBRATION = 0.01  # seconds, between the first two anchors
TRIES = 16  # for an anchor: the one that took least is it
MOST = 4096  # anchors that are kept
STEADY = {"constant_tsc", "nonstop_tsc"}  # of a counter that runs evenly, whatever a processor does
CLOCKS = "/sys/devices/system/clocksource/clocksource0/available_clocksource"


class Anchor(NamedTuple):
    """The counter, and the nanoseconds of CLOCK_MONOTONIC at that moment."""

    counter: int
    time: int


class Timeline:
    """Anchors, and the straight lines between them, of which the outer two go on for ever."""

    def __init__(self, first: Anchor, second: Anchor) -> None:
        self._anchors = [first, second]

    @property
    def last(self) -> Anchor:
        """The latest anchor."""
        return self._anchors[-1]

    def add(self, anchor: Anchor) -> None:
        """Add one that is later; one that is not is left out."""
        if anchor.counter > self.last.counter and anchor.time >= self.last.time:
            self._anchors.append(anchor)
            if len(self._anchors) > MOST:
                del self._anchors[: MOST // 2]

    def times(self, counters: Sequence[int]) -> list[int]:
        """Return the time of each, in whole nanoseconds; what is greater has no lesser time."""
        if all(map(le, counters, counters[1:])):
            return self._ascending(counters)
        order = sorted(range(len(counters)), key=counters.__getitem__)
        found = [0] * len(counters)
        for place, told in zip(order, self._ascending(sorted(counters)), strict=True):
            found[place] = told
        return found

    def _ascending(self, counters: Sequence[int]) -> list[int]:
        """Return the time of each, line by line."""
        found: list[int] = []
        while len(found) < len(counters):
            number = self._line(counters[len(found)])
            end = len(counters)
            if number + 2 < len(self._anchors):
                end = bisect_left(counters, self._anchors[number + 1].counter, len(found))
            found += self._on_line(number, counters[len(found) : end])
        return found

    def _line(self, counter: int) -> int:
        """Return the number of the anchor where the line begins on which a counter is."""
        number = bisect_right(self._anchors, counter, key=lambda anchor: anchor.counter) - 1
        return min(max(number, 0), len(self._anchors) - 2)

    def _on_line(self, number: int, counters: Iterable[int]) -> list[int]:
        first, second = self._anchors[number : number + 2]
        nanoseconds, ticks = second.time - first.time, second.counter - first.counter
        start, begin = first
        return [begin + (counter - start) * nanoseconds // ticks for counter in counters]


class Clock:
    """Tells the time of counters. Raises AccessError where the counter cannot be read."""

    def __init__(self) -> None:
        self._counter = Counter()
        first = self._pair()
        time.sleep(CALIBRATION)
        second = self._pair()
        if second.counter <= first.counter:
            raise AccessError(NAME, "does not count")
        self._timeline = Timeline(first, second)

    @property
    def warning(self) -> str:
        """Why its times may be wrong on this machine, in a sentence; empty if they are not."""
        clocks = Path(CLOCKS)
        known = clocks.read_text().split() if clocks.exists() else None
        return why_unsteady(Path("/proc/cpuinfo").read_text(), known)

    def anchor(self) -> Anchor:
        """Read both clocks, and go by that from now on."""
        self._timeline.add(self._pair())
        return self._timeline.last

    def times(self, counters: Iterable[int]) -> list[int]:
        """Return the time of each counter, in whole nanoseconds.

        What is greater has no lesser time, in one batch and from batch to batch: where there are
        counters behind the last anchor, a new one is taken first.
        """
        values = list(counters)
        if values and max(values) > self._timeline.last.counter:
            self.anchor()
        return self._timeline.times(values)

    def _pair(self) -> Anchor:
        found = []
        for _ in range(TRIES):
            before = self._counter.read()
            now = time.monotonic_ns()
            taken = self._counter.read() - before
            found.append((taken, before, now))
        taken, before, now = min(found)
        return Anchor(before + taken // 2, now)


class Counter:
    """Reads the counter, by code in a page that is never writable and executable at once."""

    def __init__(self) -> None:
        protection = mmap.PROT_READ | mmap.PROT_WRITE
        page = mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, protection)
        page[: len(READ_COUNTER)] = READ_COUNTER
        self._held = ctypes.c_char.from_buffer(page)  # the page is there as long as this is
        address = ctypes.addressof(self._held)
        _make_executable(address, len(page))
        # One that keeps Python's lock: to let it go takes longer than the counter.
        self.read: Callable[[], int] = ctypes.PYFUNCTYPE(ctypes.c_uint64)(address)


def _make_executable(address: int, size: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    if libc.mprotect(address, size, mmap.PROT_READ | mmap.PROT_EXEC):
        reason = os.strerror(ctypes.get_errno())
        what = f"no page of patcher's may become executable here: {reason}"
        raise AccessError(NAME, what)


def why_unsteady(cpuinfo: str, clocks: Sequence[str] | None) -> str:
    """Say why the counter does not tell time; empty if it does.

    By /proc/cpuinfo, and by the names of the clock sources that the kernel has, if it tells them:
    a counter that it has found to be unstable is not among them.
    """
    rows = (row.partition(":") for row in cpuinfo.splitlines())
    flags = [value.split() for name, _, value in rows if name.strip() == "flags"]
    missing = sorted(each for each in STEADY if not flags or any(each not in its for its in flags))
    if missing:
        why = f"it may stop or change its speed (this processor has no {' and no '.join(missing)})"
    elif clocks is not None and "tsc" not in clocks:
        why = "the kernel has found it unstable"
    else:
        return ""
    return f"times may be wrong, for they are those of {NAME}: {why}"
