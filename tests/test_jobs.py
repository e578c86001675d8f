"""Work in several processes: every answer once, in order, whatever dies."""

import os
import posix
import resource
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


def break_off(_: int) -> None:
    raise MemoryError


@pytest.mark.parametrize("end", [kill, leave, break_off])
@pytest.mark.parametrize("dying", [{3}, {3, 4}, {0, 1, 2}, set(range(20))], ids=str)
def test_what_a_process_that_died_had_is_done_here(
    end: Callable[[int], None], dying: set[int]
) -> None:
    parent = os.getpid()

    def work(number: int) -> tuple[int, bool]:
        if number in dying and os.getpid() != parent:
            end(number)
        return number, os.getpid() == parent

    answers = list(jobs.run(20, 2, work))
    assert [number for number, _ in answers] == list(range(20))
    assert all(here for number, here in answers if number in dying)


def test_what_had_been_begun_is_done_again_in_its_own_way() -> None:
    parent = os.getpid()

    def work(number: int) -> str:
        if number == 5 and os.getpid() != parent:
            kill(number)
        return "done"

    answers = list(jobs.run(20, 2, work, lambda number: f"{number} again"))
    assert answers == ["5 again" if number == 5 else "done" for number in range(20)]


@pytest.mark.parametrize("dying", [{0}, {777}, {300, 301, 1500}, {1999}], ids=str)
def test_of_many_items_those_are_done_again_that_were_given_together(
    dying: set[int], tmp_path: Path
) -> None:
    """A process that dies may have done any of them: none is done twice without that being said."""
    log, parent = os.open(tmp_path / "log", os.O_RDWR | os.O_CREAT | os.O_APPEND), os.getpid()

    def work(number: int) -> str:
        if number in dying and os.getpid() != parent:
            kill(number)
        os.write(log, number.to_bytes(4, "little"))
        return "done"

    answers = list(jobs.run(2000, 2, work, lambda number: f"{number} again"))
    done = os.pread(log, 1 << 20, 0)
    os.close(log)
    once = [int.from_bytes(done[at : at + 4], "little") for at in range(0, len(done), 4)]
    again = {number for number, answer in enumerate(answers) if answer == f"{number} again"}
    assert len({*once}) == len(once)
    assert dying <= again
    assert len(again) <= len(dying) * jobs.MOST_TOGETHER
    assert {*range(2000)} - again == {n for n, answer in enumerate(answers) if answer == "done"}
    assert {*range(2000)} - again <= {*once}


def test_another_process_takes_the_place_of_one_that_died() -> None:
    """Every second item ends its process, and yet nothing but those is done here."""
    parent = os.getpid()

    def work(number: int) -> tuple[int, bool]:
        if number % 2 and os.getpid() != parent:
            kill(number)
        return number, os.getpid() == parent

    answers = list(jobs.run(20, 2, work))
    assert answers == [(number, bool(number % 2)) for number in range(20)]


def test_an_answer_comes_while_later_ones_are_not_even_begun(tmp_path: Path) -> None:
    """The last item waits for what happens here when the first is answered."""
    seen = tmp_path / "seen"

    def work(number: int) -> int:
        while number == 19 and not seen.exists():
            time.sleep(0.001)
        return number

    answers = jobs.run(20, 2, work)
    assert next(answers) == 0
    seen.touch()
    assert list(answers) == list(range(1, 20))


def test_an_error_is_raised_where_it_can_be_seen() -> None:
    def work(number: int) -> int:
        if number == 7:
            raise ValueError("of the seventh")
        return number

    answers = jobs.run(20, 3, work)
    assert [next(answers) for _ in range(7)] == list(range(7))
    with pytest.raises(ValueError, match="of the seventh"):
        next(answers)


@PROCESSES
def test_answers_do_not_count_against_the_limit_on_the_size_of_files(processes: int) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        parent = os.getpid()
        answers = list(jobs.run(40, processes, lambda _: ("x" * 9999, os.getpid())))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [answer for answer, _ in answers] == ["x" * 9999] * 40
    assert (parent in {process for _, process in answers}) is (processes == 1)


def test_an_answer_that_breaks_off_is_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a process that is killed between two pieces of a long one."""
    whole, parent = commit.write_all, os.getpid()

    def cut_short(fd: int, data: bytes) -> None:
        if b"last words" in data and os.getpid() != parent:
            whole(fd, data[:5000])
            kill(0)
        whole(fd, data)

    monkeypatch.setattr(jobs, "write_all", cut_short)
    long = "x" * 10_000
    answers = list(jobs.run(40, 2, lambda number: long + "last words" * (number == 11)))
    assert answers == [long + "last words" * (number == 11) for number in range(40)]


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


@pytest.mark.parametrize("spare", [0, 1, 3, 4, 5, 12, 16, 30])
def test_where_descriptors_are_scarce_they_are_left_to_the_work(spare: int) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = {int(fd) for fd in os.listdir("/proc/self/fd")}
    limit = max(used) + 1 + spare
    free = sorted(set(range(limit)) - used)

    def work(_: int) -> int:
        opened = []
        try:
            while True:
                opened.append(os.open("/", os.O_RDONLY))
        except OSError:
            return len(opened)
        finally:
            for fd in opened:
                os.close(fd)

    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        answers = list(jobs.run(20, 2, work))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert min(answers) >= min(len(free), 8)


def test_no_process_and_no_file_descriptor_is_left() -> None:
    """But those that other tests have in this process."""
    children = Path("/proc/thread-self/children")
    before = os.listdir("/proc/self/fd"), children.read_text()
    during = list(jobs.run(50, 4, lambda number: (number, os.getpid())))
    assert len({process for _, process in during} - {os.getpid()}) > 1
    assert (os.listdir("/proc/self/fd"), children.read_text()) == before


def test_the_available_processors_are_those_of_the_process() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert jobs.available() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert jobs.available() == len(allowed)


# --- shares ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 40])
def test_the_first_share_is_done_here_and_each_other_one_elsewhere(count: int) -> None:
    first, *others = jobs.share(count, lambda number: (number, os.getpid()))
    assert first == (0, os.getpid())
    assert [number for number, _ in others] == [*range(1, count)]
    assert len({process for _, process in others} | {os.getpid()}) == count


def test_shares_are_done_at_the_same_time() -> None:
    read, write = os.pipe()

    def work(number: int) -> bytes:
        if number:
            return os.read(read, 1)  # waits for what is written here
        os.write(write, b"!")
        return b""

    assert jobs.share(2, work) == [b"", b"!"]
    os.close(read)
    os.close(write)


def test_the_share_of_a_process_that_dies_is_done_here() -> None:
    here = os.getpid()

    def work(number: int) -> int:
        if number == 1 and os.getpid() != here:
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    assert jobs.share(3, work) == [0, 1, 2]


def test_what_fails_in_a_share_fails_here_and_leaves_no_process(tmp_path: Path) -> None:
    there = tmp_path / "there"

    def work(number: int) -> int:
        if number:
            there.symlink_to(f"/proc/{os.getpid()}")
            time.sleep(0.05)
            return number
        while not there.is_symlink():
            time.sleep(0.001)
        raise ValueError(number)

    with pytest.raises(ValueError, match="0"):
        jobs.share(2, work)
    assert not there.exists()


def test_what_fails_in_the_share_of_a_process_fails_here() -> None:
    def work(number: int) -> int:
        if number == 2:
            raise ValueError(number)
        return number

    with pytest.raises(ValueError, match="2"):
        jobs.share(3, work)
