"""Calls out of events: each return is that of its call, whatever way others are left."""

import random
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patcher.trace.events import Event
from patcher.trace.graph import Ended, Graph, Span
from tests.support.traced_calls import CallMachine, Program, batches, merged

pytestmark = pytest.mark.process

OPEN, RETURNED, ABANDONED, UNBEGUN = Ended
PROGRAM = Program("main", "read", "parse", "write", "handler", "worker")


def machine(tid: int = 4711, top: int = 0x7FFE_4000) -> CallMachine:
    return CallMachine(PROGRAM, tid, top)


def spans(events: Iterable[Event]) -> list[Span]:
    return Graph(PROGRAM).events(events)


def told(events: Iterable[Event]) -> list[str]:
    """What is told of the calls, in words: function, depth, how it ended; `+` where it begins."""
    words = []
    for span in spans(events):
        event = span.entry or span.end
        assert event
        kind = "+" if span.ended is OPEN else span.ended
        words.append(f"{PROGRAM.function(event.site)} {span.depth} {kind}")
    return words


# --- what programs do -----------------------------------------------------------------------------


def test_a_return_ends_the_call_that_stands_where_it_does() -> None:
    thread = machine()
    main = thread.call("main")
    read = thread.call("read")
    read_end, main_end = thread.ret(), thread.ret()
    assert spans(thread.events) == [
        (main, None, 0, 4711, OPEN, False),
        (read, None, 1, 4711, OPEN, False),
        (read, read_end, 1, 4711, RETURNED, False),
        (main, main_end, 0, 4711, RETURNED, False),
    ]


def test_a_recursion_is_as_deep_as_it_is() -> None:
    thread = machine()
    for _ in range(3):
        thread.call("parse")
    for _ in range(3):
        thread.ret()
    assert told(thread.events) == [
        "parse 0 +", "parse 1 +", "parse 2 +",
        "parse 2 returned", "parse 1 returned", "parse 0 returned",
    ]  # fmt: skip


def test_a_tail_call_stands_where_its_caller_stood() -> None:
    thread = machine()
    thread.call("main")
    thread.call("read")
    thread.tail_call("parse")
    thread.tail_call("read")
    thread.ret()
    thread.ret()
    assert told(thread.events) == [
        "main 0 +", "read 1 +", "read 1 returned", "parse 1 +", "parse 1 returned", "read 1 +",
        "read 1 returned", "main 0 returned",
    ]  # fmt: skip


def test_a_tail_call_of_what_has_no_return_site_ends_it() -> None:
    thread = machine()
    thread.call("read")
    thread.unwind()
    thread.call("parse")
    thread.ret()
    assert told(thread.events) == [
        "read 0 +", "read 0 abandoned", "parse 0 +", "parse 0 returned"
    ]  # fmt: skip


@pytest.mark.parametrize("then", ["the catcher returns", "the catcher calls"])
def test_what_an_exception_leaves_is_over_with_the_next_event(then: str) -> None:
    thread = machine()
    thread.call("main")
    thread.call("read")
    thread.call("parse")
    thread.unwind(2)
    last = thread.ret() if then == "the catcher returns" else thread.call("write")
    over = spans(thread.events)[3:5]
    assert [(PROGRAM.function(span.entry.site), span.depth) for span in over if span.entry] == [
        ("parse", 2), ("read", 1)
    ]  # fmt: skip
    assert {(span.end, span.ended) for span in over} == {(last, ABANDONED)}


def test_what_began_before_the_trace_is_told_to_have_no_entry() -> None:
    thread = machine()
    for function in ("main", "read", "parse"):
        thread.call(function)
    thread.ret()
    thread.ret()
    thread.call("write")
    thread.ret()
    thread.ret()
    seen = thread.events[3:]
    assert told(seen) == [
        "parse 0 unbegun", "read 0 unbegun", "write 0 +", "write 0 returned", "main 0 unbegun"
    ]  # fmt: skip
    assert spans(seen)[0] == (None, seen[0], 0, 4711, UNBEGUN, False)


def test_a_stack_may_stand_where_the_low_half_of_addresses_wraps_around() -> None:
    thread = machine(top=0x1_0000_0060)
    for function in ("main", "read", "parse", "read", "parse"):
        thread.call(function)
    assert [event.stack < 0x8000_0000 for event in thread.events] == 2 * [True] + 3 * [False]
    thread.unwind(3)
    thread.call("write")
    thread.ret()
    thread.ret()
    thread.ret()
    assert told(thread.events)[5:] == [
        "parse 4 abandoned", "read 3 abandoned", "parse 2 abandoned", "write 2 +",
        "write 2 returned", "read 1 returned", "main 0 returned",
    ]  # fmt: skip


def test_an_entry_may_stand_inside_of_its_frame_if_nothing_is_known_of_that() -> None:
    thread = machine()
    top = thread.call("main").stack
    read, parse = PROGRAM.site("read"), PROGRAM.site("parse")
    thread.write(read, 0, top - 0x60)
    thread.write(read, 0, top - 0x160)
    thread.write(parse, 0x1234, top - 0x1A0)
    thread.write(read + 0x10, 0x1234, top - 0x140)
    thread.write(read + 0x10, 0x1234, top - 0x40)
    thread.write(parse, 0, top - 0x60)
    thread.write(read + 0x10, 0x1234, top - 0x40)
    thread.ret()
    assert told(thread.events) == [
        "main 0 +", "read 1 +", "read 2 +", "parse 3 +", "parse 3 abandoned", "read 2 returned",
        "read 1 returned", "parse 1 +", "parse 1 abandoned", "read 1 unbegun", "main 0 returned",
    ]  # fmt: skip


# --- several stacks -------------------------------------------------------------------------------


def test_a_coroutine_leaves_calls_open_and_comes_back_to_them() -> None:
    thread = machine()
    thread.call("main")
    tracks = [4711, 4711 + (1 << 22)]
    for number, top in enumerate((0x5500_0000, 0x5501_0000), 1):  # 64 KiB each
        thread.new_stack(top)
        thread.call("worker")
        thread.call("read")
        tracks.append(4711 + (number << 22))
    for _ in range(3):
        for number in (1, 0, 2):
            thread.to_stack(number)
            thread.call("parse")
            thread.ret()
    for number in (1, 2, 0):
        thread.to_stack(number)
        while thread.open:
            thread.ret()
    seen = spans(thread.events)
    assert {span.ended for span in seen} == {OPEN, RETURNED}
    for call in thread.calls:
        (span,) = [each for each in seen if each.entry is call.entry and each.end]
        assert span == (
            call.entry, call.end, call.depth, 4711 + (call.stack << 22), RETURNED, False
        )  # fmt: skip


def test_a_signal_handler_on_its_own_stack_ends_nothing_of_what_it_interrupts() -> None:
    thread = machine()
    thread.call("main")
    thread.call("read")
    thread.new_stack(0xC0DE_0000)
    thread.call("handler")
    thread.call("write")
    thread.unwind(2)  # siglongjmp, to main
    thread.to_stack(0)
    thread.unwind()
    thread.call("parse")
    thread.ret()
    thread.ret()
    thread.to_stack(1)
    thread.call("handler")
    thread.ret()
    assert told(thread.events)[4:] == [
        "read 1 abandoned", "parse 1 +", "parse 1 returned", "main 0 returned",
        "write 1 abandoned", "handler 0 abandoned", "handler 0 +", "handler 0 returned",
    ]  # fmt: skip


def test_a_frame_may_be_large_if_its_function_makes_the_call() -> None:
    thread = machine()
    thread.call("main", frame=0x40)
    thread.call("read", frame=0x40_0000)
    thread.call("parse")
    thread.call("write")
    thread.unwind(2)
    thread.call("write")
    for _ in range(3):
        thread.ret()
    assert told(thread.events)[3:] == [
        "write 3 +", "write 3 abandoned", "parse 2 abandoned", "write 2 +", "write 2 returned",
        "read 1 returned", "main 0 returned",
    ]  # fmt: skip


def test_functions_that_are_not_traced_may_be_between_those_that_are() -> None:
    thread = machine()
    top = thread.call("main").stack
    for _ in range(2):
        for depth in (20_000, 40_000):
            thread.write(PROGRAM.site("parse"), 0x1234, top - depth)
    thread.ret()
    assert told(thread.events) == [
        "main 0 +", "parse 1 +", "parse 2 +", "parse 2 abandoned", "parse 1 abandoned",
        "parse 1 +", "parse 2 +", "parse 2 abandoned", "parse 1 abandoned", "main 0 returned",
    ]  # fmt: skip


@pytest.mark.parametrize("base", [0x3000_0000, 0x0000_0400])
@pytest.mark.parametrize("side", [-1, 1])
def test_a_coroutine_may_come_back_at_either_side_of_what_it_left_open(
    base: int, side: int
) -> None:
    thread = machine()
    read = PROGRAM.site("read")
    thread.call("main")
    for other in (0x2000_0000, 0x4000_0000, 0x7800_0000, 0xB000_0000):
        thread.write(PROGRAM.site("worker"), 0x1234, other)
    thread.write(read, 0x1234, base)
    left = thread.write(read, 0x1234, (base - 0x800) % 2**32)
    thread.call("parse")
    back = thread.write(PROGRAM.site("write"), 0x1234, (base - 0x400 + side * 0x500) % 2**32)
    seen = spans(thread.events)
    begun = {span.entry: span for span in seen if not span.end}
    assert begun[back].track == begun[left].track
    assert begun[back].depth == (0 if side > 0 else 2)
    over = [span.entry for span in seen if span.end]
    assert over == ([left, thread.events[-4]] if side > 0 else [])


def test_a_stack_that_all_calls_returned_from_is_forgotten() -> None:
    thread = machine()
    thread.call("main")
    for top in range(0x1000_0000, 0x2000_0000, 0x100_0000):
        thread.new_stack(top)
        thread.call("worker")
        thread.ret()
        thread.to_stack(0)
        thread.call("read")
        thread.ret()
    assert {span.track >> 22 for span in spans(thread.events)} == {0, 1}


def test_a_thousand_coroutines_in_any_order() -> None:
    thread = machine()
    chance = random.Random(3)
    for place in chance.sample(range(1000), 1000):
        thread.new_stack(0xFE00_0000 + place * 0x1_0000)  # around the wrap of the low half
        thread.call("worker")
        thread.call("read")
    for number in chance.choices(range(1, 1001), k=1000):
        thread.to_stack(number)
        thread.call("parse")
        thread.ret()
    for number in chance.sample(range(1, 1001), 1000):
        thread.to_stack(number)
        thread.ret()
        thread.ret()
    over = [span for span in spans(thread.events) if span.end]
    assert {span[:3] for span in over} == {
        (call.entry, call.end, call.depth) for call in thread.calls
    }
    assert {span.ended for span in over} == {RETURNED}


# --- threads, and what may be wrong ---------------------------------------------------------------


def test_threads_have_nothing_to_do_with_each_other() -> None:
    one, two = machine(4711), machine(4712)  # at the same places
    one.call("main")
    two.call("read")
    two.time += 50
    one.ret()
    two.ret()
    ends = {(span.track, span.ended) for span in spans(merged(one, two)) if span.end}
    assert ends == {(4711, RETURNED), (4712, RETURNED)}


def test_a_thread_with_the_tid_of_one_that_has_ended_ends_its_calls() -> None:
    old, new = machine(), machine()
    old.call("worker")
    old.call("read")  # and there it called pthread_exit
    new.time = old.time
    new.call("worker")
    new.ret()
    assert told(old.events + new.events)[2:] == [
        "read 1 abandoned", "worker 0 abandoned", "worker 0 +", "worker 0 returned"
    ]  # fmt: skip


def test_a_call_during_which_events_were_lost_is_doubtful_and_those_after_it_are_not() -> None:
    thread = machine()
    graph = Graph(PROGRAM)
    thread.call("main")
    thread.call("read")
    graph.events(thread.events)
    graph.lost()
    seen = len(thread.events)
    thread.ret()
    thread.call("parse")
    thread.ret()
    thread.call("write")
    thread.unwind()
    thread.ret()
    over = [span for span in graph.events(thread.events[seen:]) if span.end]
    words = [(PROGRAM.function(s.entry.site), s.ended, s.doubtful) for s in over if s.entry]
    assert words == [
        ("read", RETURNED, True), ("parse", RETURNED, False), ("write", ABANDONED, False),
        ("main", RETURNED, True),
    ]  # fmt: skip


def test_of_what_is_open_it_is_told_whether_events_were_lost() -> None:
    thread = machine()
    graph = Graph(PROGRAM)
    main = thread.call("main")
    thread.new_stack(0x1000_0000)
    worker = thread.call("worker")
    graph.events(thread.events)
    graph.lost()
    read = thread.call("read")
    graph.events([read])
    assert graph.end() == [
        (main, None, 0, 4711, OPEN, True),
        (worker, None, 0, 4711 + (1 << 22), OPEN, True),
        (read, None, 1, 4711 + (1 << 22), OPEN, False),
    ]


def test_a_return_of_another_call_at_the_same_place_is_not_that_of_this_one() -> None:
    thread = machine()
    thread.call("main")
    read = thread.call("read")
    end = thread.write(PROGRAM.site("parse") + 0x10, PROGRAM.site("main") + 0x40, read.stack)
    assert spans(thread.events)[2:] == [
        (read, end, 1, 4711, ABANDONED, False),
        (None, end, 1, 4711, UNBEGUN, False),
    ]


def test_a_return_address_that_a_uprobe_has_changed_is_that_of_the_function() -> None:
    thread = machine()
    read = thread.call("read")
    end = thread.write(PROGRAM.site("read") + 0x10, 0x7FFF_FFFF_F000, read.stack)
    assert spans(thread.events)[1:] == [(read, end, 0, 4711, RETURNED, False)]


def test_entries_alone_tell_how_deep_a_call_is() -> None:
    thread = machine()
    for _ in range(2):
        thread.call("main")
        thread.call("read")
        thread.call("parse")
        thread.ret()
        thread.call("parse")
        thread.ret()
        thread.ret()
        thread.call("write")
        thread.ret()
        thread.ret()
    entries = [event for event in thread.events if not PROGRAM.is_return(event.site)]
    begun = [word for word in told(entries) if word.endswith("+")]
    assert begun == 2 * ["main 0 +", "read 1 +", "parse 2 +", "parse 2 +", "write 1 +"]


# --- whatever happens -----------------------------------------------------------------------------

FUNCTIONS = st.sampled_from(PROGRAM.functions)
FRAMES = st.integers(1, 200).map(lambda words: words * 8)
STEPS = st.one_of(
    st.tuples(st.just("call"), FUNCTIONS, FRAMES),
    st.tuples(st.just("call"), FUNCTIONS, FRAMES),
    st.tuples(st.just("ret")),
    st.tuples(st.just("ret")),
    st.tuples(st.just("tail_call"), FUNCTIONS, FRAMES),
    st.tuples(st.just("unwind"), st.integers(1, 4)),
    st.tuples(st.just("switch"), st.integers(0, 3)),
)
DEEPEST = 15  # calls, so that a stack has at most 24 KB


def happened(steps: Iterable[tuple[object, ...]], thread: CallMachine, far: int) -> None:
    """Let a thread do what it can of these; it has a stack more, `far` bytes on, when it asks."""
    for what, *how in steps:
        if what == "switch":
            (number,) = how
            assert isinstance(number, int)
            if number < thread.stacks:
                thread.to_stack(number)
            else:
                thread.new_stack(0x6000_0000 + thread.stacks * far)
        elif what == "call" and len(thread.open) < DEEPEST:
            thread.call(*how)  # type: ignore[arg-type]
        elif what == "unwind" and thread.open:
            (calls,) = how
            assert isinstance(calls, int)
            thread.unwind(min(calls, len(thread.open)))
        elif what in {"ret", "tail_call"} and thread.open:
            getattr(thread, str(what))(*how)


def expected(thread: CallMachine) -> dict[Event, tuple[Event | None, Ended]]:
    """Of each entry: the event with which it is over, and how; by what the machine did.

    One that was left without a return is over with the first event later on its stack that is not
    below it: the return of a call it was inside of, or the entry of one that stands there now.
    """
    stacks: dict[Event, int] = {}
    for call in thread.calls:
        stacks[call.entry] = call.stack
        if call.end:
            stacks[call.end] = call.stack
    over: dict[Event, tuple[Event | None, Ended]] = {}
    for call in thread.calls:
        over[call.entry] = (call.end, RETURNED) if call.end else (None, OPEN)
        if call.end or call in still_open(thread):
            continue
        for event in thread.events:
            later = event.time > call.entry.time and stacks[event] == call.stack
            if later and (event.stack - call.entry.stack) % 2**32 < 2**31:
                over[call.entry] = event, ABANDONED
                break
    return over


def still_open(thread: CallMachine) -> list[object]:
    at = thread.open
    open_calls: list[object] = [*at]
    for number in range(thread.stacks):
        thread.to_stack(number)
        open_calls += thread.open
    return open_calls


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.lists(STEPS, max_size=60), min_size=1, max_size=3),
    st.sampled_from([0x7FFE_4000, 0x1_0000_0300]),
    st.sampled_from([0x1_0000, 0x10_0000, 0x1000_0000]),
    st.integers(1, 20),
)
def test_whatever_happens_calls_are_those_that_were_made(
    steps: list[list[tuple[object, ...]]], top: int, far: int, size: int
) -> None:
    threads = [machine(4711 + number, top) for number in range(len(steps))]
    for number, (each, thread) in enumerate(zip(steps, threads, strict=True)):
        thread.time += number * 7
        happened(each, thread, far)
    graph = Graph(PROGRAM)
    seen = [span for batch in batches(merged(*threads), size) for span in graph.events(batch)]
    left = {span.entry for span in graph.end()}
    begun = {span.entry: span for span in seen if span.ended is OPEN}
    over = {span.entry: span for span in seen if span.ended is not OPEN}
    assert None not in over
    assert len(begun) + len(over) == len(seen)
    for thread in threads:
        depths = {call.entry: call.depth for call in thread.calls}
        for entry, (end, ended) in expected(thread).items():
            assert begun[entry].depth == depths[entry]
            if ended is OPEN:
                assert entry in left
                assert entry not in over
            else:
                assert over[entry] == begun[entry]._replace(end=end, ended=ended)
