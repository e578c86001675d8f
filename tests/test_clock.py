"""The time stamp counter as nanoseconds: in order, exact between anchors, or said to be wrong."""

import ctypes
import mmap
import time
from collections.abc import Sequence
from errno import EACCES
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patcher.errors import AccessError
from patcher.process import maps
from patcher.trace import clock
from patcher.trace.clock import Anchor, Clock, Counter, Timeline, why_unsteady

# --- lines between anchors ------------------------------------------------------------------------

STEPS = st.lists(
    st.tuples(st.integers(1, 1 << 40), st.integers(0, 1 << 40)), min_size=2, max_size=20
)


def timeline(steps: Sequence[tuple[int, int]]) -> tuple[Timeline, list[Anchor]]:
    """A timeline of anchors that are so many ticks and nanoseconds from each other."""
    anchors, counter, now = [], 0, 0
    for ticks, nanoseconds in steps:
        counter, now = counter + ticks, now + nanoseconds
        anchors.append(Anchor(counter, now))
    line = Timeline(*anchors[:2])
    for anchor in anchors[2:]:
        line.add(anchor)
    return line, anchors


@given(steps=STEPS)
def test_an_anchor_has_its_own_time(steps: list[tuple[int, int]]) -> None:
    line, anchors = timeline(steps)
    assert line.times([each.counter for each in anchors]) == [each.time for each in anchors]
    assert [line.times([each.counter])[0] for each in anchors] == [each.time for each in anchors]
    assert line.last == anchors[-1]


@given(steps=STEPS, data=st.data())
def test_time_runs_evenly_between_anchors_and_beyond(
    steps: list[tuple[int, int]], data: st.DataObject
) -> None:
    line, anchors = timeline(steps)
    counters = data.draw(st.lists(st.integers(0, 2 * anchors[-1].counter), min_size=1))
    for counter, told in zip(counters, line.times(counters), strict=True):
        behind = [pair for pair in pairwise(anchors) if counter >= pair[0].counter]
        first, second = behind[-1] if behind else anchors[:2]
        rate = Fraction(second.time - first.time, second.counter - first.counter)
        exact = first.time + (counter - first.counter) * rate
        assert 0 <= exact - told < 1


@given(steps=STEPS, data=st.data())
def test_what_is_later_has_no_earlier_time(
    steps: list[tuple[int, int]], data: st.DataObject
) -> None:
    line, anchors = timeline(steps)
    counters = data.draw(st.lists(st.integers(0, 2 * anchors[-1].counter)))
    told = dict(zip(counters, line.times(counters), strict=True))
    times = [told[counter] for counter in sorted(told)]
    assert times == sorted(times)
    assert line.times(sorted(told)) == times


@given(steps=STEPS, data=st.data())
def test_a_later_anchor_changes_no_time_before_the_last_one(
    steps: list[tuple[int, int]], data: st.DataObject
) -> None:
    line, anchors = timeline(steps)
    counters = data.draw(st.lists(st.integers(0, anchors[-1].counter), min_size=1))
    before = line.times(counters)
    line.add(Anchor(anchors[-1].counter + 1, anchors[-1].time + 1_000_000))
    assert line.times(counters) == before
    assert line.times([anchors[-1].counter + 1]) == [anchors[-1].time + 1_000_000]


@pytest.mark.parametrize("anchor", [Anchor(20, 300), Anchor(19, 300), Anchor(30, 199)])
def test_an_anchor_that_is_no_later_is_left_out(anchor: Anchor) -> None:
    line = Timeline(Anchor(10, 100), Anchor(20, 200))
    line.add(anchor)
    assert line.last == Anchor(20, 200)
    assert line.times([10, 15, 25]) == [100, 150, 250]


def test_the_oldest_of_very_many_anchors_are_forgotten() -> None:
    line, anchors = timeline([(10, 100)] * (2 * clock.MOST))
    assert line.times([0, anchors[-1].counter]) == [0, anchors[-1].time]
    uneven, last = timeline([(10, 1), *[(10, 100)] * clock.MOST])
    assert uneven.times([10]) == [last[1].time - 100 * 1]
    assert line.times([]) == []


# --- this machine ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def here() -> Clock:
    return Clock()


def test_the_counter_counts() -> None:
    counter = Counter()
    read = [counter.read() for _ in range(1000)]
    assert read == sorted(read)
    assert read[0] < read[-1]


def test_its_page_is_never_writable_and_executable(monkeypatch: pytest.MonkeyPatch) -> None:
    real, seen = mmap.mmap, []

    def watched(*arguments: int) -> mmap.mmap:
        seen.append(arguments[3])
        return real(*arguments)

    monkeypatch.setattr(mmap, "mmap", watched)
    counter = Counter()
    assert seen == [mmap.PROT_READ | mmap.PROT_WRITE]
    address = ctypes.cast(counter.read, ctypes.c_void_p).value  # type: ignore[arg-type]
    assert address
    mapped = maps.parse(Path("/proc/self/maps").read_bytes())
    assert [each.protection for each in mapped if each.range.holds(address)] == ["r-xp"]


def test_times_are_between_those_that_python_reads_before_and_after(here: Clock) -> None:
    """Nothing is timed: the clock of each is read before and after the other."""
    counter = Counter()
    rounds = []
    for _ in range(100):
        first = here.anchor()
        before = time.monotonic_ns()
        rounds.append((before, counter.read(), time.monotonic_ns(), first))
    told = here.times([read for _, read, _, _ in rounds])
    assert told == sorted(told)
    for (_, read, _, anchor), at in zip(rounds, told, strict=True):
        assert (read > anchor.counter) == (at > anchor.time) or read == anchor.counter


def test_anchors_of_two_clocks_are_in_one_order() -> None:
    one, other = Clock(), Clock()
    anchors = [each.anchor() for _ in range(100) for each in (one, other)]
    assert [each.counter for each in anchors] == sorted({each.counter for each in anchors})
    assert [each.time for each in anchors] == sorted({each.time for each in anchors})


def test_from_batch_to_batch_time_does_not_run_backwards(here: Clock) -> None:
    counter = Counter()
    told: list[int] = []
    for _ in range(200):
        told += here.times(counter.read() for _ in range(5))
    assert told == sorted(told)
    assert here.times([]) == []
    assert here.times(iter(())) == []


def test_counters_that_nobody_can_have_read_have_times_all_the_same(here: Clock) -> None:
    low, high = here.times([0, (1 << 64) - 1])
    assert low < high


def test_where_no_page_may_become_executable_that_is_the_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Policy:
        """As of MemoryDenyWriteExecute=, or of SELinux without execmem."""

        class Mprotect:
            argtypes: tuple[type, ...] = ()

            def __call__(self, *_: int) -> int:
                ctypes.set_errno(EACCES)
                return -1

        mprotect = Mprotect()

    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: Policy)
    with pytest.raises(AccessError) as caught:
        Clock()
    assert str(caught.value) == (
        "the time stamp counter: no page of patcher's may become executable here: Permission denied"
    )


# --- machines -------------------------------------------------------------------------------------

GOOD = "processor\t: 0\nflags\t\t: fpu tsc constant_tsc nonstop_tsc\nbugs\t\t: x\n"
WRONG = "times may be wrong, for they are those of the time stamp counter: "


@pytest.mark.parametrize(("cpuinfo", "clocks", "why"), [
    (GOOD, ["tsc", "hpet"], ""),
    (GOOD, ["kvm-clock", "tsc"], ""),
    (GOOD, None, ""),
    (GOOD, ["hpet", "acpi_pm"], "the kernel has found it unstable"),
    (GOOD.replace("nonstop_tsc", ""), ["tsc"],
     "it may stop or change its speed (this processor has no nonstop_tsc)"),
    (GOOD + GOOD.replace("constant_tsc", ""), ["tsc"],
     "it may stop or change its speed (this processor has no constant_tsc)"),
    ("", ["tsc"],
     "it may stop or change its speed (this processor has no constant_tsc and no nonstop_tsc)"),
])  # fmt: skip
def test_a_counter_that_does_not_tell_time_is_said_to(
    cpuinfo: str, clocks: list[str] | None, why: str
) -> None:
    assert why_unsteady(cpuinfo, clocks) == (WRONG + why if why else "")


def test_of_this_machine_it_is_told_by_what_the_kernel_says(here: Clock) -> None:
    words = {*Path("/proc/cpuinfo").read_text().split()}
    if not {"constant_tsc", "nonstop_tsc"} <= words:
        assert here.warning.startswith(WRONG)
    elif "tsc" in Path(clock.CLOCKS).read_text().split():
        assert here.warning == ""
