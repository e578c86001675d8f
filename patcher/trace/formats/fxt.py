"""Fuchsia's trace format: records of words of 8 bytes, with strings and threads by numbers."""

from __future__ import annotations

from struct import pack
from typing import TYPE_CHECKING

from patcher.trace.graph import Ended, Graph
from patcher.trace.kept import Kept

from .told import EVENTS, lost_events, missing, tid_of, track_name, unicode

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from patcher.trace.events import Event, Names

    from .writer import Writer

METADATA, INITIALIZATION, STRING, THREAD, EVENT, KERNEL_OBJECT = 0, 1, 2, 3, 4, 7  # records
MAGIC = 0x0016_5478_4604_0010  # one word that is a whole record
PROVIDER_INFO, PROVIDER_EVENT = 1, 3
PROVIDER = 1
INSTANT, BEGIN, END = 0, 2, 3  # types of events
STRING_ARGUMENT, OBJECT_ARGUMENT = 6, 8
PROCESS_OBJECT, THREAD_OBJECT = 1, 2
STRINGS, THREADS = 1 << 15, 1 << 8  # from this number on they are told inside of records
INLINE = 1 << 15
SECOND = 1_000_000_000  # ticks, which are nanoseconds
LOST = -1  # the track of lost events, beside those of threads
NOBODY = (1 << 31) - 1  # whose object number no process or thread has
LONGEST = 4096  # bytes of a string


def writer(names: Names, *, graph: bool) -> Writer:
    """Make what writes Fuchsia's trace format."""
    return Fxt(names, graph=graph)


def _word(value: int) -> bytes:
    return value.to_bytes(8, "little")


def _stream(value: bytes) -> bytes:
    return value + bytes(-len(value) % 8)


def _record(kind: int, fields: int, *parts: bytes, size: int = 0) -> bytes:
    """Make a record, `size` words of which are put in later."""
    body = b"".join(parts)
    return _word(kind | len(body) // 8 + 1 + size << 4 | fields << 16) + body


class Fxt:
    """Records: slices for calls, or an instant for each entry."""

    def __init__(self, names: Names, *, graph: bool) -> None:
        self._names = names
        self._graph = Graph(names) if graph else None
        self._parts: list[bytes] = []
        self._strings = Kept(self._string)
        self._processes = Kept(self._process)
        self._tracks = Kept(self._track)
        self._entries: Kept[tuple[int, int, int], tuple[bytes, bytes]] = Kept(
            lambda key: self._entry(*key), EVENTS
        )
        self._ends: Kept[tuple[int, int, Ended, bool], tuple[bytes, bytes]] = Kept(
            lambda key: self._end(*key), EVENTS
        )

    def begin(self) -> bytes:
        """Tell the format, who writes it, and how long a tick is."""
        name = b"patcher"
        info = PROVIDER_INFO | PROVIDER << 4 | len(name) << 36
        return (
            _word(MAGIC)
            + _record(METADATA, info, _stream(name))
            + _record(INITIALIZATION, 0, _word(SECOND))
        )

    def events(self, batch: Sequence[Event]) -> bytes:
        """Tell of calls, or entries."""
        add, entries, ends = self._parts.append, self._entries, self._ends
        if not self._graph:
            for time, _, tid, site, caller, _ in batch:
                before, behind = entries[tid, site, caller]
                add(b"%b%b%b" % (before, pack("<Q", time), behind))
            return self._written()
        for entry, end, _, track, ended, doubtful in self._graph.events(batch):
            if end is None and entry:
                time = entry.time
                before, behind = entries[track, entry.site, entry.caller]
            elif end:
                time = end.time
                before, behind = ends[track, (entry or end).site, ended, doubtful]
            else:
                continue
            add(b"%b%b%b" % (before, pack("<Q", time), behind))
        return self._written()

    def lost(self, cpu: int, count: int, time: int) -> bytes:
        """Tell that a buffer was full, and by an instant on a track for these what was lost."""
        if self._graph:
            self._graph.lost()
        before, behind = self._event(INSTANT, LOST, lost_events(cpu, count), {})
        self._parts.append(_record(METADATA, PROVIDER_EVENT | PROVIDER << 4))
        self._parts.append(before + _word(time) + behind)
        return self._written()

    def end(self) -> bytes:
        """Give nothing: a trace is its records. What goes on has no end."""
        return b""

    def _written(self) -> bytes:
        written = b"".join(self._parts)
        self._parts.clear()
        return written

    # --- events: what stands before their time, and behind it -------------------------------------

    def _entry(self, track: int, site: int, caller: int) -> tuple[bytes, bytes]:
        by = {"caller": unicode(self._names.caller(caller))}
        return self._event(BEGIN if self._graph else INSTANT, track, self._function(site), by)

    def _end(self, track: int, site: int, ended: Ended, doubtful: bool) -> tuple[bytes, bytes]:
        kind = INSTANT if ended is Ended.UNBEGUN else END
        told = missing(ended, doubtful=doubtful)
        return self._event(kind, track, self._function(site), told)

    def _function(self, site: int) -> str:
        return unicode(self._names.function(site))

    def _event(
        self, kind: int, track: int, name: str, args: Mapping[str, str]
    ) -> tuple[bytes, bytes]:
        thread, where = self._tracks[track]
        category, no_stream = self._strings["function"]
        called, stream = self._strings[name]
        told = [self._argument(*each) for each in args.items()]
        fields = kind | len(told) << 4 | thread << 8 | category << 16 | called << 32
        record = _record(EVENT, fields, where, no_stream, stream, *told, size=1)
        return record[:8], record[8:]

    def _argument(self, name: str, value: str) -> bytes:
        named, name_stream = self._strings[name]
        told, value_stream = self._strings[value]
        return _record(STRING_ARGUMENT, named | told << 16, name_stream, value_stream)

    # --- what is told once ------------------------------------------------------------------------

    def _string(self, value: str) -> tuple[int, bytes]:
        """Give the number of a string; of one too many its length, and itself."""
        encoded, new = _cut(value.encode()), len(self._strings) + 1
        if not encoded:
            return 0, b""
        if new >= STRINGS:
            return INLINE | len(encoded), _stream(encoded)
        self._parts.append(_record(STRING, new | len(encoded) << 16, _stream(encoded)))
        return new, b""

    def _track(self, track: int) -> tuple[int, bytes]:
        """Give the number of a thread; of one too many 0, and its process and itself."""
        thread, name, process = NOBODY, "lost events", NOBODY
        if track != LOST:
            thread, name = track, track_name(self._names, track)
            process = self._names.process(tid_of(track))
        where = self._processes[process] + _word(thread)
        named, stream = self._strings["process"]
        owner = _record(OBJECT_ARGUMENT, named, stream, _word(process))
        self._object(THREAD_OBJECT, thread, name, owner)
        new = len(self._tracks) + 1
        if new >= THREADS:
            return 0, where
        self._parts.append(_record(THREAD, new, where))
        return new, b""

    def _process(self, pid: int) -> bytes:
        name = "lost events" if pid == NOBODY else unicode(self._names.thread(pid))
        self._object(PROCESS_OBJECT, pid, name)
        return _word(pid)

    def _object(self, kind: int, number: int, name: str, *args: bytes) -> None:
        named, stream = self._strings[name]
        fields = kind | named << 8 | len(args) << 24
        self._parts.append(_record(KERNEL_OBJECT, fields, _word(number), stream, *args))


def _cut(name: bytes) -> bytes:
    """Leave the middle of a name out if it is too long: there must be room for four in a record."""
    if len(name) <= LONGEST:
        return name
    halves = name[: LONGEST // 2], name[-LONGEST // 2 :]
    return "...".join(half.decode(errors="ignore") for half in halves).encode()
