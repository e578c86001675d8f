"""Chrome's trace events: JSON that chrome://tracing, Perfetto and Speedscope read."""

from __future__ import annotations

from json import JSONEncoder
from typing import TYPE_CHECKING

from patcher.trace.graph import Graph
from patcher.trace.kept import Kept

from .told import EVENTS, lost_events, missing, tid_of, track_name, unicode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from patcher.trace.events import Event, Names
    from patcher.trace.graph import Ended

    from .writer import Writer

dumps = JSONEncoder(separators=(",", ":")).encode
INSTANT = '"i","s":"t"'


def writer(names: Names, *, graph: bool) -> Writer:
    """Make what writes Chrome's trace events."""
    return Chrome(names, graph=graph)


class Chrome:
    """An array of events: a B and an E for each call, or an instant for each entry.

    A B stands in the file when the call begins, so that nothing is missing that goes on until the
    end, and what began at one time is nested rightly. Who made the array allows its end to be
    missing.
    """

    def __init__(self, names: Names, *, graph: bool) -> None:
        self._names = names
        self._graph = Graph(names) if graph else None
        self._parts: list[str] = []
        self._is_first = True
        self._processes = Kept(self._process)
        self._tracks = Kept(self._track)
        # What stands in an event before its time, and behind it.
        self._begins: Kept[tuple[int, int, int], str] = Kept(
            lambda key: self._called('"B"', *key), EVENTS
        )
        self._instants: Kept[tuple[int, int, int], str] = Kept(
            lambda key: self._called(INSTANT, *key), EVENTS
        )
        self._unbegun: Kept[tuple[int, int], str] = Kept(
            lambda key: self._named(INSTANT, *key), EVENTS
        )
        self._ends: Kept[int, str] = Kept(
            lambda track: f',\n{{"ph":"E",{self._tracks[track]},"ts":', EVENTS
        )
        self._tails = Kept(_tail)

    def begin(self) -> bytes:
        """Begin the array."""
        return b"["

    def events(self, batch: Sequence[Event]) -> bytes:
        """Tell of calls, or entries."""
        add = self._parts.append
        if not self._graph:
            instants = self._instants
            for time, _, tid, site, caller, _ in batch:
                add(f"{instants[tid, site, caller]}{_microseconds(time)}}}")
            return self._written()
        begins, ends, tails = self._begins, self._ends, self._tails
        for entry, end, _, track, ended, doubtful in self._graph.events(batch):
            if end is None and entry:
                head = begins[track, entry.site, entry.caller]
                add(f"{head}{_microseconds(entry.time)}}}")
            elif end:
                head = ends[track] if entry else self._unbegun[track, end.site]
                add(f"{head}{_microseconds(end.time)}{tails[ended, doubtful]}")
        return self._written()

    def lost(self, cpu: int, count: int, time: int) -> bytes:
        """Tell of lost events by an instant of all processes."""
        if self._graph:
            self._graph.lost()
        name = dumps(lost_events(cpu, count))
        self._parts.append(
            f',\n{{"ph":"i","s":"g","pid":0,"tid":0,"name":{name},"ts":{_microseconds(time)}}}'
        )
        return self._written()

    def end(self) -> bytes:
        """End the array. What goes on has no E."""
        return b"\n]\n"

    def _named(self, phase: str, track: int, site: int, args: str = "") -> str:
        where, name = self._tracks[track], dumps(unicode(self._names.function(site)))
        return f',\n{{"ph":{phase},{where},"name":{name}{args},"ts":'

    def _called(self, phase: str, track: int, site: int, caller: int) -> str:
        args = dumps({"caller": unicode(self._names.caller(caller))})
        return self._named(phase, track, site, f',"args":{args}')

    def _track(self, track: int) -> str:
        """Tell of a track, and give where its events say that they are."""
        pid = self._names.process(tid_of(track))
        where = f'{self._processes[pid]},"tid":{track}'
        self._metadata("thread_name", where, track_name(self._names, track))
        return where

    def _process(self, pid: int) -> str:
        where = f'"pid":{pid}'
        self._metadata("process_name", f'{where},"tid":{pid}', unicode(self._names.thread(pid)))
        return where

    def _metadata(self, what: str, where: str, name: str) -> None:
        args = dumps({"name": name})
        self._parts.append(f',\n{{"ph":"M","name":"{what}",{where},"args":{args}}}')

    def _written(self) -> bytes:
        text = "".join(self._parts)
        self._parts.clear()
        if self._is_first and text:
            self._is_first = False
            text = text[1:]  # its comma
        return text.encode()


def _tail(over: tuple[Ended, bool]) -> str:
    ended, doubtful = over
    args = missing(ended, doubtful=doubtful)
    return f',"args":{dumps(args)}}}' if args else "}"


def _microseconds(time: int) -> str:
    digits = f"{time:04}"
    return f"{digits[:-3]}.{digits[-3:]}"
