"""Perfetto's own format: packets of protocol buffers, with names that are given once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from patcher.trace.graph import Ended, Graph
from patcher.trace.kept import Kept

from .protobuf import nested, number, text, varint
from .told import EVENTS, lost_events, missing, tid_of, track_name, unicode

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from patcher.trace.events import Event, Names

    from .writer import Writer

# Fields, by message, as Perfetto's definitions number them.
TRACE_PACKET = 1
(PACKET_CLOCKS, PACKET_TIME, PACKET_SEQUENCE, PACKET_EVENT, PACKET_INTERNED, PACKET_FLAGS,
 PACKET_CLOCK, PACKET_DEFAULTS, PACKET_TRACK) = 6, 8, 10, 11, 12, 13, 58, 59, 60  # fmt: skip
CLOCKS_CLOCK, CLOCKS_PRIMARY = 1, 2
CLOCK_ID, CLOCK_TIME, CLOCK_INCREMENTAL = 1, 2, 3
DEFAULTS_CLOCK = 58
INTERNED_EVENT, INTERNED_ARGUMENT, INTERNED_STRING = 2, 3, 29
ENTRY_NUMBER, ENTRY_TEXT = 1, 2
EVENT_ARGUMENT, EVENT_TYPE, EVENT_NAME, EVENT_TRACK, EVENT_TEXT = 4, 9, 10, 11, 23
ARGUMENT_NAME, ARGUMENT_STRING = 1, 17
TRACK_ID, TRACK_NAME, TRACK_PROCESS, TRACK_THREAD, TRACK_PARENT = 1, 2, 3, 4, 5
PROCESS_PID, PROCESS_NAME = 1, 6
THREAD_PID, THREAD_TID, THREAD_NAME = 1, 2, 5

BEGIN, END, INSTANT = 1, 2, 3  # types of events
STATE_CLEARED, NEEDS_STATE = 1, 2  # flags of packets
MONOTONIC = 3
INCREMENTAL = 64  # a clock of the sequence's own: each time is told as what has passed since
SEQUENCE = number(PACKET_SEQUENCE, 1)
LOST = -1  # the track of lost events, beside those of threads
VARINTS = [varint(each) for each in range(1 << 14)]  # no time that is usual, or length, is longer


def writer(names: Names, *, graph: bool) -> Writer:
    """Make what writes Perfetto's format."""
    return Perfetto(names, graph=graph)


def _packet(*fields: bytes) -> bytes:
    return nested(TRACE_PACKET, *fields)


class _Interned:
    """Names that are given once, each kind by numbers of its own."""

    def __init__(self, add: Callable[[bytes], None]) -> None:
        self._add = add
        self.events = self._kind(INTERNED_EVENT)
        self.arguments = self._kind(INTERNED_ARGUMENT)
        self.strings = self._kind(INTERNED_STRING)

    def _kind(self, kind: int) -> Kept[str, int]:
        known: Kept[str, int] = Kept(lambda name: self._number(kind, len(known) + 1, name))
        return known

    def _number(self, kind: int, new: int, name: str) -> int:
        entry = nested(kind, number(ENTRY_NUMBER, new), text(ENTRY_TEXT, name))
        flags = number(PACKET_FLAGS, NEEDS_STATE)
        self._add(_packet(SEQUENCE, flags, nested(PACKET_INTERNED, entry)))
        return new


class Perfetto:
    """One sequence of packets: slices for calls, or an instant for each entry."""

    def __init__(self, names: Names, *, graph: bool) -> None:
        self._names = names
        self._graph = Graph(names) if graph else None
        self._parts: list[bytes] = []
        self._interned = _Interned(self._parts.append)
        self._time: int | None = None  # that of the sequence's clock
        self._count = 0  # of tracks
        self._processes = Kept(self._process)
        self._tracks = Kept(self._track)
        self._begins: Kept[tuple[int, int, int], bytes] = Kept(
            lambda key: self._entry(BEGIN, *key), EVENTS
        )
        self._instants: Kept[tuple[int, int, int], bytes] = Kept(
            lambda key: self._entry(INSTANT, *key), EVENTS
        )
        self._ends: Kept[tuple[int, Ended, bool], bytes] = Kept(lambda key: self._end(*key), EVENTS)
        self._unbegun: Kept[tuple[int, int], bytes] = Kept(
            lambda key: self._without_entry(*key), EVENTS
        )

    def begin(self) -> bytes:
        """Begin the sequence: nothing is known yet, and its clock is the default."""
        defaults = nested(PACKET_DEFAULTS, number(DEFAULTS_CLOCK, INCREMENTAL))
        return _packet(SEQUENCE, number(PACKET_FLAGS, STATE_CLEARED), defaults)

    def events(self, batch: Sequence[Event]) -> bytes:
        """Tell of calls, or entries."""
        at = self._at
        if not self._graph:
            instants = self._instants
            for time, _, tid, site, caller, _ in batch:
                at(time, instants[tid, site, caller])
            return self._written()
        begins, ends, unbegun = self._begins, self._ends, self._unbegun
        for entry, end, _, track, ended, doubtful in self._graph.events(batch):
            if end is None and entry:
                at(entry.time, begins[track, entry.site, entry.caller])
            elif end:
                at(end.time, ends[track, ended, doubtful] if entry else unbegun[track, end.site])
        return self._written()

    def lost(self, cpu: int, count: int, time: int) -> bytes:
        """Tell of lost events by an instant on a track for these."""
        if self._graph:
            self._graph.lost()
        track = number(EVENT_TRACK, self._tracks[LOST])
        name = text(EVENT_TEXT, lost_events(cpu, count))
        self._at(time, _event(INSTANT, track, name))
        return self._written()

    def end(self) -> bytes:
        """Give nothing: a trace is its packets. What goes on has no end."""
        return b""

    # --- packets ----------------------------------------------------------------------------------

    def _at(self, time: int, event: bytes) -> None:
        """Tell of an event."""
        passed = time - (self._start(time) if self._time is None else self._time)
        if passed < 0:  # that clock never goes back; another thread's event came late
            clock = number(PACKET_TIME, time) + number(PACKET_CLOCK, MONOTONIC)
            self._parts.append(_packet(clock, event))
            return
        self._time = time
        stamp = VARINTS[passed] if passed < len(VARINTS) else varint(passed)
        length = VARINTS[1 + len(stamp) + len(event)]
        self._parts.append(b"\x0a%b\x40%b%b" % (length, stamp, event))

    def _start(self, time: int) -> int:
        """Set the sequence's clock."""
        clocks = [number(CLOCK_ID, MONOTONIC) + number(CLOCK_TIME, time)]
        clocks.append(
            number(CLOCK_ID, INCREMENTAL) + number(CLOCK_TIME, time) + number(CLOCK_INCREMENTAL, 1)
        )
        told = [nested(CLOCKS_CLOCK, clock) for clock in clocks]
        primary = number(CLOCKS_PRIMARY, MONOTONIC)
        self._parts.append(_packet(SEQUENCE, nested(PACKET_CLOCKS, *told, primary)))
        return time

    def _track(self, track: int) -> int:
        """Tell of a track, and number it."""
        if track == LOST:
            return self._descriptor(text(TRACK_NAME, "lost events"))
        tid = tid_of(track)
        if track != tid:
            name = text(TRACK_NAME, track_name(self._names, track))
            return self._descriptor(number(TRACK_PARENT, self._tracks[tid]), name)
        pid = self._names.process(tid)
        thread = [number(THREAD_PID, pid), number(THREAD_TID, tid)]
        thread.append(text(THREAD_NAME, track_name(self._names, tid)))
        parent = number(TRACK_PARENT, self._processes[pid])
        return self._descriptor(parent, nested(TRACK_THREAD, *thread))

    def _process(self, pid: int) -> int:
        name = text(PROCESS_NAME, unicode(self._names.thread(pid)))
        return self._descriptor(nested(TRACK_PROCESS, number(PROCESS_PID, pid), name))

    def _descriptor(self, *fields: bytes) -> int:
        self._count += 1
        track = nested(PACKET_TRACK, number(TRACK_ID, self._count), *fields)
        self._parts.append(_packet(SEQUENCE, track))
        return self._count

    def _written(self) -> bytes:
        written = b"".join(self._parts)
        self._parts.clear()
        return written

    # --- events -----------------------------------------------------------------------------------

    def _entry(self, kind: int, track: int, site: int, caller: int) -> bytes:
        by = self._argument("caller", unicode(self._names.caller(caller)))
        return self._called(kind, track, site, by)

    def _called(self, kind: int, track: int, site: int, *arguments: bytes) -> bytes:
        name = self._interned.events[unicode(self._names.function(site))]
        where = number(EVENT_TRACK, self._tracks[track])
        return _event(kind, where, number(EVENT_NAME, name), *arguments)

    def _without_entry(self, track: int, site: int) -> bytes:
        told = missing(Ended.UNBEGUN, doubtful=False).items()
        return self._called(INSTANT, track, site, *(self._argument(*each) for each in told))

    def _end(self, track: int, ended: Ended, doubtful: bool) -> bytes:
        told = missing(ended, doubtful=doubtful).items()
        where = number(EVENT_TRACK, self._tracks[track])
        return _event(END, where, *(self._argument(*each) for each in told))

    def _argument(self, name: str, value: str) -> bytes:
        named = number(ARGUMENT_NAME, self._interned.arguments[name])
        return nested(EVENT_ARGUMENT, named, number(ARGUMENT_STRING, self._interned.strings[value]))


def _event(kind: int, *fields: bytes) -> bytes:
    """Give all of an event's packet but its time."""
    event = nested(PACKET_EVENT, number(EVENT_TYPE, kind), *fields)
    return SEQUENCE + number(PACKET_FLAGS, NEEDS_STATE) + event
