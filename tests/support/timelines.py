"""Traces read back: Chrome's by json, Perfetto's by its own definitions, Fuchsia's by its page.

Each gives the same: what happened on which track, and what the tracks are.
"""

import json
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace, TracePacket, TrackEvent


class Told(NamedTuple):
    """What happened: `B` a call begins, `E` it is over, `i` something at a time, in nanoseconds."""

    kind: str
    track: str
    name: str
    time: int
    args: dict[str, str]


class Timeline(NamedTuple):
    """A trace: what happened, and of each track its process, as `name (pid)`."""

    told: list[Told]
    tracks: dict[str, str]


def read(name: str, written: bytes) -> Timeline:
    """Read a trace in the format of a name."""
    return {"json": chrome, "perfetto": perfetto, "fxt": fxt}[name](written)


# --- Chrome ---------------------------------------------------------------------------------------


def chrome(written: bytes) -> Timeline:
    """https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU."""
    processes: dict[int, str] = {}
    threads: dict[tuple[int, int], str] = {}
    told, tracks = [], {}
    for event in json.loads(written.decode("ascii"), parse_float=str):
        where = event["pid"], event["tid"]
        if event["ph"] == "M" and event["name"] == "process_name":
            processes[event["pid"]] = f"{event['args']['name']} ({event['pid']})"
        elif event["ph"] == "M":
            assert event["name"] == "thread_name"
            threads[where] = event["args"]["name"]
            tracks[threads[where]] = processes[event["pid"]]
        else:
            track = "lost events" if event.get("s") == "g" else threads[where]
            assert ("s" in event) == (event["ph"] == "i")
            micro, nano = event["ts"].split(".")
            assert len(nano) == 3
            args = event.get("args", {})
            told.append(Told(event["ph"], track, event.get("name", ""), int(micro + nano), args))
    return Timeline(told, tracks)


# --- Perfetto -------------------------------------------------------------------------------------

KINDS = {TrackEvent.TYPE_SLICE_BEGIN: "B", TrackEvent.TYPE_SLICE_END: "E",
         TrackEvent.TYPE_INSTANT: "i"}  # fmt: skip


class _Sequence:
    """What packets of a sequence refer to."""

    def __init__(self) -> None:
        self.names: dict[str, dict[int, str]] = {}
        self.tracks: dict[int, str] = {}
        self.processes: dict[int, str] = {}
        self.clock = 0
        self.default_clock = 0
        self.is_cleared = False

    def intern(self, packet: TracePacket) -> None:
        for field, entries in packet.interned_data.ListFields():
            known = self.names.setdefault(field.name, {})
            for entry in entries:
                assert entry.iid
                assert entry.iid not in known
                value = entry.str.decode() if field.name.endswith("values") else entry.name
                known[entry.iid] = value

    def time(self, packet: TracePacket) -> int:
        clock = packet.timestamp_clock_id or self.default_clock
        if clock == 3:  # CLOCK_MONOTONIC
            return int(packet.timestamp)
        assert clock == 64
        self.clock += packet.timestamp
        return self.clock

    def snapshot(self, packet: TracePacket) -> None:
        assert packet.trusted_packet_sequence_id
        assert packet.clock_snapshot.primary_trace_clock == 3
        monotonic, own = packet.clock_snapshot.clocks
        assert (monotonic.clock_id, own.clock_id) == (3, 64)
        assert own.is_incremental
        assert own.timestamp == monotonic.timestamp
        self.clock = own.timestamp

    def describe(self, packet: TracePacket) -> None:
        track = packet.track_descriptor
        assert track.uuid not in {0, *self.tracks}
        if track.HasField("process"):
            name = f"{track.process.process_name} ({track.process.pid})"
            self.tracks[track.uuid] = self.processes[track.uuid] = name
        elif track.HasField("thread"):
            self.tracks[track.uuid] = track.thread.thread_name
            self.processes[track.uuid] = self.processes[track.parent_uuid]
            assert f"({track.thread.pid})" in self.processes[track.uuid]
        else:
            self.tracks[track.uuid] = track.name
            if track.parent_uuid:
                self.processes[track.uuid] = self.processes[track.parent_uuid]

    def told(self, packet: TracePacket) -> Told:
        event = packet.track_event
        assert packet.sequence_flags == TracePacket.SEQ_NEEDS_INCREMENTAL_STATE
        name = event.name
        if event.name_iid:
            name = self.names["event_names"][event.name_iid]
        args = {
            self.names["debug_annotation_names"][each.name_iid]:
                self.names["debug_annotation_string_values"][each.string_value_iid]
            for each in event.debug_annotations
        }  # fmt: skip
        return Told(KINDS[event.type], self.tracks[event.track_uuid], name, self.time(packet), args)


def perfetto(written: bytes) -> Timeline:
    """https://perfetto.dev/docs/reference/trace-packet-proto."""
    trace = Trace.FromString(written)
    size = trace.ByteSize()
    trace.DiscardUnknownFields()
    assert trace.ByteSize() == size, "fields that Perfetto does not know"
    sequence, told = _Sequence(), []
    for packet in trace.packet:
        assert packet.trusted_packet_sequence_id == 1
        if packet.sequence_flags & TracePacket.SEQ_INCREMENTAL_STATE_CLEARED:
            sequence.is_cleared = True
            sequence.default_clock = packet.trace_packet_defaults.timestamp_clock_id
        assert sequence.is_cleared
        sequence.intern(packet)
        if packet.HasField("clock_snapshot"):
            sequence.snapshot(packet)
        if packet.HasField("track_descriptor"):
            sequence.describe(packet)
        if packet.HasField("track_event"):
            told.append(sequence.told(packet))
    names = {sequence.tracks[track]: process for track, process in sequence.processes.items()}
    return Timeline(told, {name: of for name, of in names.items() if name != of})


# --- Fuchsia --------------------------------------------------------------------------------------


class _Words:
    """The words of a record that are not read yet."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def word(self) -> int:
        (value,) = struct.unpack_from("<Q", self.data)
        self.data = self.data[8:]
        return int(value)

    def stream(self, length: int) -> bytes:
        padded = -(-length // 8) * 8
        value, padding = self.data[:length], self.data[length:padded]
        assert len(value) == length
        assert padding == bytes(padded - length)
        self.data = self.data[padded:]
        return value


def bits(word: int, first: int, last: int) -> int:
    return word >> first & (1 << last - first + 1) - 1


class _Fxt:
    def __init__(self) -> None:
        self.strings: dict[int, str] = {0: ""}
        self.threads: dict[int, tuple[int, int]] = {}
        self.processes: dict[int, str] = {}
        self.objects: dict[int, str] = {}
        self.owners: dict[int, int] = {}
        self.told: list[Told] = []
        self.full = 0

    def string(self, reference: int, words: _Words) -> str:
        if reference >> 15:
            return words.stream(reference & 0x7FFF).decode()
        return self.strings[reference]

    def arguments(self, count: int, words: _Words) -> dict[str, Any]:
        read: dict[str, Any] = {}
        for _ in range(count):
            header = words.word()
            size = bits(header, 4, 15)
            inside = _Words(words.stream(size * 8 - 8))
            name = self.string(bits(header, 16, 31), inside)
            if bits(header, 0, 3) == 8:  # kernel object id
                assert bits(header, 32, 63) == 0
                read[name] = inside.word()
            else:
                assert bits(header, 0, 3) == 6  # string
                assert bits(header, 48, 63) == 0
                read[name] = self.string(bits(header, 32, 47), inside)
            assert not inside.data
        return read

    def record(self, header: int, words: _Words) -> None:
        kind = bits(header, 0, 3)
        if kind == 0:
            self.metadata(header, words)
        elif kind == 1:
            assert bits(header, 16, 63) == 0
            assert words.word() == 1_000_000_000
        elif kind == 2:
            assert bits(header, 16, 30)
            assert bits(header, 31, 31) == bits(header, 47, 63) == 0
            self.strings[bits(header, 16, 30)] = words.stream(bits(header, 32, 46)).decode()
        elif kind == 3:
            assert bits(header, 16, 23)
            self.threads[bits(header, 16, 23)] = words.word(), words.word()
        elif kind == 4:
            self.event(header, words)
        else:
            assert kind == 7
            self.kernel_object(header, words)

    def metadata(self, header: int, words: _Words) -> None:
        if bits(header, 16, 19) == 1:
            assert bits(header, 20, 51) == 1
            assert words.stream(bits(header, 52, 59)) == b"patcher"
        else:
            assert bits(header, 16, 19) == 3
            assert bits(header, 20, 51) == 1
            assert bits(header, 52, 63) == 0  # a buffer filled up
            self.full += 1

    def event(self, header: int, words: _Words) -> None:
        time = words.word()
        thread = bits(header, 24, 31)
        pid, tid = self.threads[thread] if thread else (words.word(), words.word())
        assert self.owners[tid] == pid
        category = self.string(bits(header, 32, 47), words)
        assert category == "function"
        name = self.string(bits(header, 48, 63), words)
        args = self.arguments(bits(header, 20, 23), words)
        kind = {0: "i", 2: "B", 3: "E"}[bits(header, 16, 19)]
        self.told.append(Told(kind, self.objects[tid], name, time, args))

    def kernel_object(self, header: int, words: _Words) -> None:
        assert bits(header, 44, 63) == 0
        koid = words.word()
        name = self.string(bits(header, 24, 39), words)
        args = self.arguments(bits(header, 40, 43), words)
        assert bits(header, 16, 23) in {1, 2}  # process, thread
        if bits(header, 16, 23) == 2:
            self.objects[koid] = name
            self.owners[koid] = args["process"]
            assert args["process"] in self.processes
        else:
            self.processes[koid] = name


def records(written: bytes) -> Iterator[tuple[int, _Words]]:
    at = 0
    while at < len(written):
        (header,) = struct.unpack_from("<Q", written, at)
        size = bits(header, 4, 15) * 8
        assert size
        yield header, _Words(written[at + 8 : at + size])
        at += size
    assert at == len(written)


def fxt(written: bytes) -> Timeline:
    """https://fuchsia.dev/fuchsia-src/reference/tracing/trace-format."""
    assert written[:8] == bytes.fromhex("1000044678541600")
    reader = _Fxt()
    for header, words in records(written[8:]):
        reader.record(header, words)
        assert not words.data
    lost = [each for each in reader.told if each.track == "lost events"]
    assert reader.full == len(lost)
    tracks = {reader.objects[tid]: f"{reader.processes[pid]} ({pid})"
              for tid, pid in reader.owners.items()}  # fmt: skip
    tracks.pop("lost events", None)
    return Timeline([*_without_names_of_ends(reader.told)], tracks)


def _without_names_of_ends(told: list[Told]) -> Iterator[Told]:
    """Leave out what an end is the end of, which must be what began last on the track."""
    open_: dict[str, list[str]] = {}
    for each in told:
        if each.kind == "B":
            open_.setdefault(each.track, []).append(each.name)
        elif each.kind == "E":
            assert open_[each.track].pop() == each.name
            each = each._replace(name="")
        yield each
