"""Chrome's trace events: JSON that chrome://tracing, Perfetto and Speedscope read."""

from __future__ import annotations

from json import JSONEncoder
from typing import TYPE_CHECKING

from patcher.trace.graph import Graph
from patcher.trace.kept import Kept

from .told import lost_events, missing, tid_of, track_name, unicode

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


class _Track:
    """What stands in events of a track before their time."""

    __slots__ = ("begin", "end", "instant", "unbegun")

    def __init__(self, names: Names, number: int) -> None:
        where = f'"pid":{names.process(tid_of(number))},"tid":{number}'

        def head(phase: str, site: int, args: str = "") -> str:
            name = dumps(unicode(names.function(site)))
            return f',\n{{"ph":{phase},{where},"name":{name}{args},"ts":'

        def by(phase: str, site: int, caller: int) -> str:
            args = dumps({"caller": unicode(names.caller(caller))})
            return head(phase, site, f',"args":{args}')

        self.begin: Kept[tuple[int, int], str] = Kept(lambda called: by('"B"', *called))
        self.instant: Kept[tuple[int, int], str] = Kept(lambda called: by(INSTANT, *called))
        self.unbegun: Kept[int, str] = Kept(lambda site: head(INSTANT, site))
        self.end = f',\n{{"ph":"E",{where},"ts":'


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
        self._named: set[int] = set()
        self._tracks = Kept(self._track)
        self._tails = Kept(_tail)

    def begin(self) -> bytes:
        """Begin the array."""
        return b"["

    def events(self, batch: Sequence[Event]) -> bytes:
        """Tell of calls, or entries."""
        add, tracks = self._parts.append, self._tracks
        if not self._graph:
            for time, _, tid, site, caller, _ in batch:
                head = tracks[tid].instant[site, caller]
                add(f"{head}{_microseconds(time)}}}")
            return self._written()
        tails = self._tails
        for entry, end, _, number, ended, doubtful in self._graph.events(batch):
            track = tracks[number]
            if end is None and entry:
                head = track.begin[entry.site, entry.caller]
                add(f"{head}{_microseconds(entry.time)}}}")
            elif end:
                head = track.end if entry else track.unbegun[end.site]
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

    def _track(self, number: int) -> _Track:
        names = self._names
        pid = names.process(tid_of(number))
        if pid not in self._named:
            self._named.add(pid)
            self._metadata("process_name", pid, pid, unicode(names.thread(pid)))
        self._metadata("thread_name", pid, number, track_name(names, number))
        return _Track(names, number)

    def _metadata(self, what: str, pid: int, tid: int, name: str) -> None:
        args = dumps({"name": name})
        self._parts.append(f',\n{{"ph":"M","name":"{what}","pid":{pid},"tid":{tid},"args":{args}}}')

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
