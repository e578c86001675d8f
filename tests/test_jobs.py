"""Work in several processes: every answer once, in order, and what dies is told."""

import os
import posix
import signal
import time
from collections.abc import Callable
from errno import EAGAIN
from pathlib import Path

import pytest

from recordmcount import commit, jobs

PROCESSES = pytest.mark.parametrize("processes", [1, 2, 3, 40])


@PROCESSES
@pytest.mark.parametrize("count", [0, 1, 2, 39, 40, 1000])
def test_answers_come_in_the_order_of_the_items(count: int, processes: int) -> None:
    assert list(jobs.run(count, processes, lambda number: number * 3)) == [
        number * 3 for number in range(count)
    ]


@PROCESSES
def test_every_item_is_done_once(processes: int, tmp_path: Path) -> None:
    """Many short items: processes ask for the next one at the same moment, again and again."""
    log = os.open(tmp_path / "log", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    count = 20_000
    answers = jobs.run(count, processes, lambda number: os.write(log, number.to_bytes(4, "little")))
    assert list(answers) == [4] * count
    done = os.pread(log, 8 * count, 0)
    os.close(log)
    numbers = sorted(int.from_bytes(done[at : at + 4], "little") for at in range(0, len(done), 4))
    assert numbers == list(range(count))


def test_a_free_process_takes_what_a_busy_one_would_have_had(tmp_path: Path) -> None:
    """The first item waits for all others, so that one process has to do all of those."""
    done = tmp_path / "done"

    def work(number: int) -> int:
        if number:
            with done.open("a") as stream:
                stream.write(".")
        else:
            while not done.exists() or len(done.read_text()) < 49:
                time.sleep(0.001)
        return os.getpid()

    first, *others = jobs.run(50, 2, work)
    assert set(others) == {others[0]}
    assert others[0] != first


def test_answers_may_be_larger_than_a_pipe() -> None:
    answers = list(jobs.run(20, 2, lambda number: "x" * (1 << 20) + str(number)))
    assert [answer[1 << 20 :] for answer in answers] == [str(number) for number in range(20)]


def kill(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave(_: int) -> None:
    os._exit(7)


@pytest.mark.parametrize("end", [kill, leave])
def test_only_the_item_of_a_process_that_died_has_no_answer(end: Callable[[int], None]) -> None:
    def work(number: int) -> int:
        if number == 3:
            end(number)
        return number

    assert list(jobs.run(20, 2, work)) == [None if n == 3 else n for n in range(20)]


def test_items_that_no_process_was_left_for_have_no_answer() -> None:
    def work(number: int) -> int:
        if number in (3, 4):
            kill(number)
        return number

    answers = list(jobs.run(20, 2, work))
    assert answers[:3] == [0, 1, 2]
    assert answers[3:5] == [None, None]
    assert answers[-1] is None


def test_a_half_written_answer_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """As by a process that was killed, or had no memory left, in the middle of writing."""
    whole = commit.write_all

    def half(fd: int, data: bytes) -> None:
        if b"last words" in data:
            whole(fd, data[:-3])
            kill(0)
        whole(fd, data)

    monkeypatch.setattr(jobs, "write_all", half)
    answers = list(jobs.run(4, 2, lambda number: "last words" if number == 1 else "first"))
    assert answers == ["first", None, "first", "first"]


def test_where_no_more_processes_can_be_had_the_first_ones_do_it_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fork = posix.fork
    started: list[int] = []

    def limited() -> int:
        if len(started) == 2:
            raise BlockingIOError(EAGAIN, "Resource temporarily unavailable")
        process = fork()
        started.append(process)
        return process

    monkeypatch.setattr(posix, "fork", limited)
    assert list(jobs.run(30, 8, lambda number: number)) == list(range(30))


def test_no_process_and_no_file_descriptor_is_left() -> None:
    before = os.listdir("/proc/self/fd")
    assert len(list(jobs.run(50, 4, lambda number: number))) == 50
    assert os.listdir("/proc/self/fd") == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_the_available_processors_are_those_of_the_process() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert jobs.available() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert jobs.available() == len(allowed)
