"""Traces in each format: what their readers read is what happened, and what is not known is said.

Text and folded stacks are compared as they are. The others are read by decoders that share no code
with the writers (tests/support/timelines.py), and must all tell the same.
"""

import random
from collections import Counter
from collections.abc import Sequence

import pytest

from patcher.trace.events import Event
from patcher.trace.formats.writer import FORMATS, writer
from patcher.trace.kept import Kept
from tests.support.timelines import Timeline, Told, read
from tests.support.traced_calls import CallMachine, Program, batches, merged

PROGRAM = Program("main", "read", "parse", "write")
TIMELINES = ("json", "perfetto", "fxt")
each_timeline = pytest.mark.parametrize("name", TIMELINES)
ANOTHER = "worker1, stack 2"


def story() -> list[Event]:
    """Two threads; an exception, a coroutine, and a return from before the trace."""
    one, two = CallMachine(PROGRAM, 4711), CallMachine(PROGRAM, 4712, top=0x7000_0000)
    one.call("main")
    one.call("read")
    one.call("parse")
    one.time += 12_345
    one.ret()
    one.unwind()
    one.call("write")
    one.time += 1_000_000
    one.ret()
    one.new_stack(0x1000_0000)
    one.call("parse")
    one.call("read")
    one.ret()
    one.to_stack(0)
    one.ret()
    one.write(PROGRAM.site("read") + 0x10, 0x9999, 0x7FFE_4100)
    two.time += 120
    two.call("read")
    two.call("parse")
    two.ret()
    return merged(one, two)


LOST_AFTER = 4  # events of that


def whole(name: str, events: Sequence[Event], *, graph: bool, program: Program = PROGRAM) -> bytes:
    """A file of events."""
    by = writer(name, program, graph=graph)
    return b"".join([by.begin(), by.events(events), by.end()])


def with_lost(name: str, events: Sequence[Event], *, graph: bool) -> bytes:
    """A file of events; after some of them others of CPU 1 are lost."""
    by = writer(name, PROGRAM, graph=graph)
    before, after = events[:LOST_AFTER], events[LOST_AFTER:]
    parts = [by.begin(), by.events(before), by.lost(1, 23, before[-1].time)]
    return b"".join([*parts, by.events(after), by.end()])


def entries(events: Sequence[Event]) -> list[Event]:
    return [event for event in events if not PROGRAM.is_return(event.site)]


# --- text -----------------------------------------------------------------------------------------


def test_text_is_as_the_function_tracer_of_the_kernel_writes_it() -> None:
    text = with_lost("text", entries(story()), graph=False).decode()
    assert (
        text
        == """\
# tracer: function
#
#           TASK-PID     CPU#     TIMESTAMP  FUNCTION
#              | |         |         |         |
         worker1-4711    [001]      0.001000: main <-0x9999
         worker1-4711    [001]      0.001000: read <-main
         worker2-4712    [000]      0.001000: read <-0x9999
         worker1-4711    [001]      0.001000: parse <-read
CPU:1 [LOST 23 EVENTS]
         worker2-4712    [000]      0.001000: parse <-read
         worker1-4711    [001]      0.001012: write <-main
         worker1-4711    [001]      0.002013: parse <-0x9999
         worker1-4711    [001]      0.002013: read <-parse
"""
    )


def test_text_of_calls_is_as_function_graph_writes_it() -> None:
    text = with_lost("text", story(), graph=True).decode()
    assert (
        text
        == """\
# tracer: function_graph
#
# CPU          TASK/PID             DURATION                  FUNCTION CALLS
# |              |  |                |   |                     |   |   |   |
  1)          worker1-4711    |               |  main() {
  1)          worker1-4711    |               |    read() {
  0)          worker2-4712    |               |  read() {
  1)          worker1-4711    |               |      parse() {
CPU:1 [LOST 23 EVENTS]
  0)          worker2-4712    |   0.100 us    |    parse();
  1)          worker1-4711    | + 12.445 us   |      } /* parse: events were lost meanwhile */
  1)          worker1-4711    |               |    } /* read: no return was seen, \
events were lost meanwhile */
  1)          worker1-4711    | # 1000.100 us |    write();
  1)          worker1-4711    |               |  parse() { /* on another stack */
  1)          worker1-4711    |   0.100 us    |    read();
  1)          worker1-4711    | # 1013.245 us |  } /* main: events were lost meanwhile */
  1)          worker1-4711    |               |  } /* read: no entry was seen */
"""
    )


@pytest.mark.parametrize(("nanoseconds", "shown"), [
    (100, "  0.100 us    "),
    (10_000, "  10.000 us   "),
    (10_001, "+ 10.001 us   "),
    (120_324, "! 120.324 us  "),
    (1_234_567, "# 1234.567 us "),
    (12_345_678, "* 12345.67 us "),
    (123_456_789, "@ 123456.7 us "),
    (3_594_274_600, "$ 3594274 us  "),
    (50_412_985_000, "$ 50412985 us "),
    (150_412_985_000, "$ 150412985 us "),
])  # fmt: skip
def test_durations_are_spelled_as_the_kernel_does(nanoseconds: int, shown: str) -> None:
    thread = CallMachine(PROGRAM)
    thread.call("main")
    thread.time += nanoseconds - 100
    thread.ret()
    text = writer("text", PROGRAM, graph=True).events(thread.events).decode()
    assert text == f"  1)          worker1-4711    | {shown}|  main();\n"


def test_a_call_that_goes_on_is_written_before_it_ends() -> None:
    thread = CallMachine(PROGRAM)
    by = writer("text", PROGRAM, graph=True)
    thread.call("main")
    assert by.events(thread.events).decode().endswith("|               |  main() {\n")
    assert by.events([thread.ret()]).decode().endswith("|   0.100 us    |  }\n")


def test_a_call_of_what_has_no_return_site_is_one_line() -> None:
    thread = CallMachine(PROGRAM)
    thread.call("main")
    for _ in range(2):
        thread.call("write")
        thread.unwind()
    thread.ret()
    text = writer("text", PROGRAM, graph=True).events(thread.events).decode()
    assert [line.partition("|")[2] for line in text.splitlines()] == [
        "               |  main() {",
        "               |    write(); /* no return was seen */",
        "               |    write(); /* no return was seen */",
        "   0.300 us    |  }",
    ]


# --- folded ---------------------------------------------------------------------------------------


def test_folded_stacks_count_nanoseconds_that_were_measured() -> None:
    # main;read has no return: it was going on when parse returned, and of later nothing is known.
    text = with_lost("folded", story(), graph=True).decode()
    assert (
        text
        == """\
main 600
main;read 100
main;read;parse 12445
main;write 1000100
parse 100
parse;read 100
read 100
read;parse 100
"""
    )


def test_folded_stacks_of_entries_count_calls() -> None:
    text = with_lost("folded", 3 * entries(story()), graph=False).decode()
    assert (
        text
        == """\
main 3
main;read 3
main;read;parse 3
main;write 3
parse 3
parse;read 3
read 3
read;parse 3
"""
    )


def test_folded_nanoseconds_of_all_functions_are_those_of_the_outermost_calls() -> None:
    thread, took = well_nested(random.Random(1)), 0
    for call in thread.calls:
        assert call.end
        took += (call.end.time - call.entry.time) * (call.depth == 0)
    lines = whole("folded", thread.events, graph=True).decode().splitlines()
    assert sum(int(line.rpartition(" ")[2]) for line in lines) == took
    by_depth = Counter(line.count(";") for line in lines)
    assert by_depth.keys() == {call.depth for call in thread.calls}


def test_an_endless_recursion_fills_no_disk() -> None:
    thread = CallMachine(PROGRAM, top=0x7FFE_4000)
    for _ in range(5000):
        thread.call("parse", frame=0x10)
    for _ in range(5000):
        thread.ret()
    text = writer("folded", PROGRAM, graph=True)
    text.events(thread.events)
    lines = text.end().decode().splitlines()
    assert len(lines) == 1001
    assert lines[-1] == f"{'parse;' * 1000}[deeper] {100 * (2 * 4000 - 1)}"
    assert sum(int(line.rpartition(" ")[2]) for line in lines) == 100 * (2 * 5000 - 1)


# --- timelines ------------------------------------------------------------------------------------

LOST = {"lost": "events were lost meanwhile"}
START = 1_000_000
CALLS = [
    Told("B", "worker1", "main", START + 100, {"caller": "0x9999"}),
    Told("B", "worker1", "read", START + 200, {"caller": "main"}),
    Told("B", "worker2", "read", START + 220, {"caller": "0x9999"}),
    Told("B", "worker1", "parse", START + 300, {"caller": "read"}),
    Told("i", "lost events", "23 events lost on CPU 1", START + 300, {}),
    Told("B", "worker2", "parse", START + 320, {"caller": "read"}),
    Told("E", "worker2", "", START + 420, {}),
    Told("E", "worker1", "", START + 12_745, LOST),
    Told("E", "worker1", "", START + 12_845, {"end": "no return was seen"} | LOST),
    Told("B", "worker1", "write", START + 12_845, {"caller": "main"}),
    Told("E", "worker1", "", START + 1_012_945, {}),
    Told("B", ANOTHER, "parse", START + 1_013_045, {"caller": "0x9999"}),
    Told("B", ANOTHER, "read", START + 1_013_145, {"caller": "parse"}),
    Told("E", ANOTHER, "", START + 1_013_245, {}),
    Told("E", "worker1", "", START + 1_013_345, LOST),
    Told("i", "worker1", "read", START + 1_013_445, {"begin": "no entry was seen"}),
]
TRACKS = dict.fromkeys(("worker1", "worker2", ANOTHER), "worker0 (4710)")


@each_timeline
def test_calls_are_slices_and_what_is_not_known_of_them_is_told(name: str) -> None:
    assert read(name, with_lost(name, story(), graph=True)) == Timeline(CALLS, TRACKS)


@each_timeline
def test_entries_alone_are_instants_for_nothing_was_measured(name: str) -> None:
    told = [
        each._replace(kind="i", track="worker1" if each.track == ANOTHER else each.track)
        for each in CALLS
        if each.kind == "B" or each.track == "lost events"
    ]
    tracks = {track: TRACKS[track] for track in ("worker1", "worker2")}
    assert read(name, with_lost(name, entries(story()), graph=False)) == Timeline(told, tracks)


def well_nested(chance: random.Random, calls: int = 500) -> CallMachine:
    """A thread that calls and returns, and has returned from all in the end."""
    thread = CallMachine(PROGRAM)
    while len(thread.calls) < calls or thread.open:
        thread.time += chance.choice((0, 10, 1000, 100_000, 10_000_000))
        if len(thread.calls) < calls and len(thread.open) < 10 and chance.random() < 0.5:
            thread.call(chance.choice(PROGRAM.functions))
        elif thread.open:
            thread.ret()
    return thread


@each_timeline
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_every_slice_is_a_call_that_was_made_however_events_come(name: str, size: int) -> None:
    thread = well_nested(random.Random(size))
    by = writer(name, PROGRAM, graph=True)
    parts = [by.begin(), *map(by.events, batches(thread.events, size)), by.end()]
    slices, opened = [], []
    for kind, track, function, time, args in read(name, b"".join(parts)).told:
        assert track == "worker1"
        if kind == "B":
            opened.append((function, time))
        else:
            assert (kind, args) == ("E", {})
            slices.append((*opened.pop(), time))
    made = [(call.function, call.entry.time, call.end.time) for call in thread.calls if call.end]
    assert sorted(slices) == sorted(made)


@each_timeline
def test_what_goes_on_has_no_end(name: str) -> None:
    thread = CallMachine(PROGRAM)
    thread.call("main")
    told = read(name, whole(name, thread.events, graph=True)).told
    assert [each.kind for each in told] == ["B"]


@each_timeline
def test_a_thread_may_be_told_of_late(name: str) -> None:
    one, two = CallMachine(PROGRAM, 4711), CallMachine(PROGRAM, 4712)
    one.time += 1_000_000
    for thread in (one, two):
        thread.call("main")
        thread.ret()
    told = read(name, whole(name, one.events + two.events, graph=True)).told
    assert [each.time for each in told] == [event.time for event in one.events + two.events]


MANY = Program(*(f"function{number}" for number in range(33_000)), "größe" * 20_000)


@each_timeline
def test_there_may_be_more_threads_and_functions_than_a_format_has_numbers_for(name: str) -> None:
    events = [
        Event(number, 0, 10 * (number % 300 + 1) + number % 10, MANY.site(function), 1, 0)
        for number, function in enumerate(MANY.functions)
    ]
    told = read(name, whole(name, events, graph=False, program=MANY)).told
    assert [each.name for each in told[:-1]] == [*MANY.functions[:-1]]
    assert is_told(told[-1].name, MANY.functions[-1], name)
    assert [each.track for each in told] == [f"worker{number % 10}" for number in range(33_001)]


@each_timeline
def test_a_name_may_be_longer_than_a_record(name: str) -> None:
    long = MANY.functions[-1]
    thread = CallMachine(MANY)
    thread.call(long)
    thread.call(long)
    first, second = read(name, whole(name, thread.events, graph=False, program=MANY)).told
    assert second.args["caller"] == second.name == first.name
    assert is_told(first.name, long, name)


def is_told(read_back: str, name: str, form: str) -> bool:
    """Whether it is that name; a record of Fuchsia's has no room for its middle."""
    if form != "fxt":
        return read_back == name
    begin, end = read_back.split("...")
    return name.startswith(begin) and name.endswith(end) and len(begin) + len(end) > 2900


@each_timeline
def test_times_may_be_any(name: str) -> None:
    times = [0, 7, 999, 1000, 2**20, 2**53 - 1]
    events = [Event(time, 0, 4711, PROGRAM.site("main"), 0, 0) for time in times]
    told = read(name, whole(name, events, graph=False)).told
    assert [each.time for each in told] == times


# --- names ----------------------------------------------------------------------------------------

# A name; how lines for people, folded stacks and the others have it.
NAMES = [
    ('say("hi", \\', 'say("hi", \\', b'say("hi", \\', 'say("hi", \\'),
    ("std::map<a, b>::operator[]()", *("std::map<a, b>::operator[]()",) * 3),
    ("größer", "größer", "größer".encode(), "größer"),
    ("\x1b[31m\n\0", r"\x1b[31m\n\x00", rb"\x1b[31m\x0a\x00", "\x1b[31m\n\0"),
    ("a;b", "a;b", b"a:b", "a;b"),
    ("r\udcff", r"r\xff", b"r\xff", r"r\xff"),
]


@pytest.mark.parametrize(("function", "text", "folded", "unicode"), NAMES)
def test_whatever_a_function_is_called_it_is_read_back(
    function: str, text: str, folded: str | bytes, unicode: str
) -> None:
    program = Program("main", function)
    thread = CallMachine(program)
    thread.call(function)
    thread.call("main")
    for name in FORMATS:
        file = whole(name, thread.events, graph=False, program=program)
        if name == "text":
            called, calls = file.decode().splitlines()[-2:]
            assert called.endswith(f": {text} <-0x9999")
            assert calls.endswith(f": main <-{text}")
        elif name == "folded":
            encoded = folded if isinstance(folded, bytes) else folded.encode()
            assert file == encoded + b" 1\n" + encoded + b";main 1\n"
        else:
            first, second = read(name, file).told
            assert (first.name, second.args) == (unicode, {"caller": unicode})


def test_every_format_can_be_asked_for() -> None:
    assert list(FORMATS) == ["text", "json", "perfetto", "fxt", "folded"]
    for name in FORMATS:
        assert with_lost(name, story(), graph=True)


@each_timeline
@pytest.mark.parametrize("graph", [False, True])
def test_what_was_forgotten_is_written_as_before(
    name: str, graph: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = with_lost(name, story(), graph=graph)
    monkeypatch.setattr(f"{FORMATS[name]}.EVENTS", 1)
    assert with_lost(name, story(), graph=graph) == expected


def test_no_more_is_kept_than_there_is_room_for() -> None:
    made: list[int] = []

    def negated(key: int) -> int:
        made.append(key)
        return -key

    kept = Kept(negated, 2)
    assert [kept[key] for key in (1, 2, 1, 3, 1)] == [-1, -2, -1, -3, -1]
    assert made == [1, 2, 3, 1]
    assert len(kept) == 2
