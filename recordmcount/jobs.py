"""Do one thing for many items in several processes, and give the answers in the items' order.

Plain forks: `multiprocessing` takes longer to import than most batches take to run. Whichever
process is free takes the next items: tickets lie in a pipe, and each can be read only once.
Answers go into a file in memory for each process, which never fills up as a pipe would, and
which survives the process.
"""

import marshal
import posix

from .commit import write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, NoReturn

TICKET = 4  # bytes
MOST_TICKETS = 1024  # a page of tickets, which is the least that any pipe holds


def run(count: int, jobs: int, work: "Callable[[int], Any]") -> "Iterator[Any]":
    """Yield work(0), work(1), ... work(count - 1) in this order, computed in `jobs` processes.

    Answers must be values that `marshal` knows (and never None). An item whose process died
    before it answered, and one no process was left for, yields None.
    """
    workers = _start(count, min(jobs, count), work) if jobs > 1 and count > 1 else []
    if not workers:
        yield from map(work, range(count))
        return
    answers: list[Any] = [None] * count
    for process, memory in workers:
        posix.waitpid(process, 0)
        for number, answer in _answers(memory):
            answers[number] = answer
        posix.close(memory)
    yield from answers


def available() -> int:
    """Tell how many processors this process may use."""
    return len(posix.sched_getaffinity(0))


def _start(count: int, jobs: int, work: "Callable[[int], Any]") -> list[tuple[int, int]]:
    """Fork workers; (process ID, file in memory for its answers) of each that could be had."""
    step = -(-count // MOST_TICKETS)
    parent = posix.getpid()
    workers: list[tuple[int, int]] = []
    try:
        tickets = _pipe_of(range(0, count, step))
    except OSError:
        return []
    for _ in range(jobs):
        memory = -1
        try:
            memory = posix.memfd_create("answers", posix.MFD_CLOEXEC)
            process = posix.fork()
        except OSError:  # no more are to be had: those there are do it all
            if memory >= 0:
                posix.close(memory)
            break
        if not process:
            _work(_taken(tickets, range(count), step, parent), memory, work)
        workers.append((process, memory))
    posix.close(tickets)
    return workers


def _pipe_of(numbers: range) -> int:
    """Return a pipe that holds these numbers and then ends."""
    readable, writable = posix.pipe()
    posix.write(writable, b"".join(number.to_bytes(TICKET, "little") for number in numbers))
    posix.close(writable)
    return readable


def _taken(tickets: int, items: range, step: int, parent: int) -> "Iterator[int]":
    """Return the items of one ticket after the other, for as long as the parent lives."""
    while ticket := posix.read(tickets, TICKET):
        first = int.from_bytes(ticket, "little")
        for item in items[first : first + step]:
            if posix.getppid() != parent:
                return
            yield item


def _work(items: "Iterator[int]", memory: int, work: "Callable[[int], Any]") -> "NoReturn":
    status = 1
    try:
        for item in items:
            answer = marshal.dumps((item, work(item)))
            write_all(memory, len(answer).to_bytes(4, "little") + answer)
        status = 0
    finally:
        posix._exit(status)


def _answers(memory: int) -> "Iterator[tuple[int, Any]]":
    posix.lseek(memory, 0, 0)
    while length := posix.read(memory, 4):
        size = int.from_bytes(length, "little")
        answer = posix.read(memory, size)
        if len(length) < 4 or len(answer) < size:  # the worker died while it wrote this
            return
        yield marshal.loads(answer)  # noqa: S302 - our own child wrote it
