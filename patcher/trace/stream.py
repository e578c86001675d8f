"""What stands in the rings as events, in the order in which they were.

An event may be committed a moment after its time was noted. So what is younger than the moment at
which a round of reading began is held back until the next: everything older is there by then, and
what one thread did on two processors comes in order.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from operator import itemgetter
from types import MappingProxyType
from typing import NamedTuple, Protocol

from .clock import Clock
from .events import Event
from .layout import EVENT, EVENT_SIZE
from .rings import Rings

MOST = 1 << 14  # events of a processor that a round reads: some tens of milliseconds of Python


class HasAddress(Protocol):
    """Something at a run-time address: a site, or a record of ftrace."""

    @property
    def address(self) -> int:
        """The run-time address."""


# Time stamp, processor, TID, return address, caller, low half of the stack's address.
Row = tuple[int, int, int, int, int, int]


class Round(NamedTuple):
    """What a round of reading gave: events, and how many were lost, by processor.

    `time` is when it began, in nanoseconds of CLOCK_MONOTONIC. Unless `is_all`, there was more.
    """

    time: int
    events: list[Event]
    lost: dict[int, int]
    is_all: bool = True


class Stream:
    """Events of the `rings`, of the sites that are behind their return addresses.

    `threads` translates TIDs as the process knows them; of others than the `wanted` nothing is
    told, if there are such.
    """

    def __init__(
        self,
        rings: Rings,
        clock: Clock,
        sites: Mapping[int, HasAddress],
        threads: Mapping[int, int] = MappingProxyType({}),
        wanted: Sequence[int] = (),
    ) -> None:
        self._rings = rings
        self._clock = clock
        self._sites = sites
        self._threads = threads
        self._wanted = {*wanted}
        self._held: list[Row] = []

    def read(self, *, is_last: bool = False) -> Round:
        """Read what is new, MOST of each processor; the last time what was held back as well.

        Where more is there, what is younger than that of another processor is held back, too.
        """
        began = self._clock.anchor()
        rows, horizon, is_all = self._held, began.counter, True
        for cpu in range(self._rings.shape.cpus):
            content = self._rings.read(cpu, MOST)
            rows += [
                (time, cpu, tid, site, caller, stack)
                for time, site, caller, tid, stack in EVENT.iter_unpack(content)
            ]
            if len(content) == MOST * EVENT_SIZE:
                horizon = min(horizon, rows[-1][0])
                is_all = False
        rows.sort(key=itemgetter(0))
        upto = len(rows) if is_last else bisect_left(rows, horizon, key=itemgetter(0))
        self._held = rows[upto:]
        lost = {
            cpu: count
            for cpu in range(self._rings.shape.cpus)
            if (count := self._rings.lost(cpu, is_last=is_last and is_all))
        }
        return Round(began.time, self._events(rows[:upto]), lost, is_all)

    def _events(self, rows: Sequence[Row]) -> list[Event]:
        """Make events of rows; those of sites that are not ours any more are left out."""
        times = self._clock.times([row[0] for row in rows])
        sites, threads, wanted = self._sites, self._threads, self._wanted
        return [
            Event(time, cpu, threads.get(tid, tid), site.address, caller, stack)
            for time, (_, cpu, tid, end, caller, stack) in zip(times, rows, strict=True)
            if (site := sites.get(end)) is not None
            and (not wanted or threads.get(tid, tid) in wanted)
        ]
