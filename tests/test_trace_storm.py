"""What a trace tells is what was called: all of it, but for what it says was lost.

Eight threads call traced functions while signals interrupt each of them 5,000 times in a second,
while they are moved from processor to processor, and while threads are born and die. The program
counts its own calls.
"""

import mmap
import os
import random
import time
from collections import Counter
from pathlib import Path

import pytest

from patcher.process.target import Target
from patcher.trace.layout import EVENT_SIZE
from recordmcount.sites.state import State
from recordmcount.x86_code import RELATIVE_CALLS
from recordmcount.x86_passage import halfway
from tests.support import call_storm, storm
from tests.support.processes import finish, started
from tests.support.ring_checker import WRONG, Checker
from tests.support.traced import (
    Tracing,
    detach_when_let_go,
    kill_tracers,
    kill_while_it_traces,
    memory,
    tracing,
)

pytestmark = pytest.mark.process

# Whether threads have restartable sequences, as glibc's tunable has it.
each_way = pytest.mark.parametrize("sequences", ["1", "0"], ids=["restartable", "locked"])
TUNABLE = "glibc.pthread.rseq"
SMALL, LARGE = 1 << 16, 1 << 26  # bytes of a ring


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return call_storm.build(tmp_path_factory.mktemp("storm"))


@each_way
def test_every_call_is_an_event_or_counted_as_lost(sequences: str, program: Path) -> None:
    """At full speed: much more is called than anybody reads."""
    words = call_storm.words(program, rounds=200, burst=100)
    with started(*words, GLIBC_TUNABLES=f"{TUNABLE}={sequences}") as process:
        with tracing(process.pid, data=SMALL) as trace:
            calls = call_storm.go(process, trace)
            trace.stop()
            assert trace.lost
            call_storm.check(trace, calls)
        finish(process)


@each_way
def test_where_nothing_is_lost_every_thread_tells_its_calls_in_order(
    sequences: str, program: Path
) -> None:
    words = call_storm.words(program, rounds=50, burst=20, pause=2000)
    with started(*words, GLIBC_TUNABLES=f"{TUNABLE}={sequences}") as process:
        with tracing(process.pid, data=LARGE) as trace:
            calls = call_storm.go(process, trace)
            trace.stop()
            assert not trace.lost
            call_storm.check(trace, calls)
        finish(process)


def test_millions_of_events_are_read_while_they_are_written(program: Path, tmp_path: Path) -> None:
    words = call_storm.words(program, rounds=250, burst=100, pause=1000)
    with started(*words) as process:
        with tracing(process.pid, data=LARGE) as trace:
            checker = Checker(tmp_path, program, trace)
            calls = call_storm.go(process, checker)
            trace.end()
            result = checker.result()
        assert (result.calls, result.lost) == (calls, 0)
        assert result.wrong == dict.fromkeys(WRONG, 0)
        assert result.backwards == 0
        finish(process)


@each_way
def test_counters_tell_how_often_each_function_was_called(sequences: str, program: Path) -> None:
    words = call_storm.words(program, rounds=100, burst=1000)
    with started(*words, GLIBC_TUNABLES=f"{TUNABLE}={sequences}") as process:
        with tracing(process.pid, counts=True) as trace:
            calls = call_storm.go(process)
            counts = trace.counts()
            trace.end()
        cycles = 8 * 100 * 1000
        assert {name: counts[name] for name in call_storm.CYCLE} == dict.fromkeys(
            call_storm.CYCLE, cycles
        )
        assert sum(counts.values()) == sum(calls.values())
        assert counts["handled"] > 0
        assert counts["born"] % call_storm.BIRTH == 0
        finish(process)


@each_way
def test_a_flight_recorder_has_the_last_calls(sequences: str, program: Path) -> None:
    words = call_storm.words(program, rounds=200, burst=100)
    with started(*words, GLIBC_TUNABLES=f"{TUNABLE}={sequences}") as process:
        with tracing(process.pid, data=SMALL, overwrites=True) as trace:
            calls = call_storm.go(process)
            trace.stop()
            assert trace.lost
            call_storm.check(trace, calls)
            of_processor = Counter(event.cpu for event in trace.events)
            assert max(of_processor.values()) == SMALL // EVENT_SIZE - 1
        finish(process)


@each_way
def test_what_a_flight_recorder_has_when_it_is_stopped_is_whole(
    sequences: str, program: Path
) -> None:
    """Without sequences a thread that was held up may have written over a newer call since."""
    words = call_storm.words(program, threads=4, rounds=1_000_000, burst=100)
    with started(*words, GLIBC_TUNABLES=f"{TUNABLE}={sequences}") as process:
        call_storm.tell(process)
        for _ in range(2):
            with tracing(process.pid, data=SMALL, overwrites=True) as trace:
                time.sleep(0.02)
                trace.stop()
                assert len(trace.events) > SMALL // EVENT_SIZE // 2
                since = _complete_since(trace) if sequences == "1" else None
                call_storm.check_order(trace, since)


def _complete_since(trace: Tracing) -> int:
    """The time from which on no ring has lost anything."""
    first: dict[int, int] = {}
    for event in trace.events:
        first.setdefault(event.cpu, event.time)
    return max(first.values())


# --- a tracer that is killed ----------------------------------------------------------------------


def test_whenever_its_tracer_is_killed_a_process_runs_on_and_can_be_brought_back(
    tmp_path: Path,
) -> None:
    """Its threads call, fork, vfork and send signals meanwhile, and miss nothing."""
    built = storm.build(tmp_path, 100, threads=4, pause=1000)
    with started(built.program) as process:
        left = [each.sites for each in kill_tracers(process.pid, 25, random.Random(12))]
        # One that is killed between two modules has left some.
        assert all(0 <= sites <= built.sites for sites in left)
        finish(process)


@pytest.mark.parametrize("state", [State.CALL, State.NOP])
def test_a_site_in_two_pages_that_was_left_half_written_is_brought_back(
    state: State, tmp_path: Path
) -> None:
    built = storm.build(tmp_path, 100, threads=4, pause=1000)
    with started(built.program) as process:
        storm.toggle(process.pid, state)
        before = memory(process.pid).text
        sites = _in_two_pages(process.pid)
        assert sites
        for at, code in sites:
            split = -at % mmap.PAGESIZE
            # The operand does not matter for how many there are.
            for number in range(len(halfway(code, RELATIVE_CALLS[len(code)] + b"\x7f" * 4, split))):
                kill_while_it_traces(process.pid)
                with Path(f"/proc/{process.pid}/mem").open("r+b", buffering=0) as text:
                    traced = os.pread(text.fileno(), len(code), at)
                    os.pwrite(text.fileno(), halfway(code, traced, split)[number], at)
                assert detach_when_let_go(process.pid).sites == built.sites
                assert memory(process.pid).text == before
        storm.toggle(process.pid, State.CALL)
        finish(process)


def _in_two_pages(pid: int) -> list[tuple[int, bytes]]:
    """The sites of a process that lie in two pages: (run-time address, what stands there)."""
    with Target(pid, 10) as target:
        return [
            (at, code)
            for module in target.settled_modules()
            for at, code in zip(module.addresses, module.codes, strict=True)
            if 0 < -at % mmap.PAGESIZE < len(code)
        ]
