"""Do one thing for many items in several processes, and give the answers in the items' order.

Plain forks: `multiprocessing` takes longer to import than most batches take to run. Whichever
process is free takes the next item: the processes share one open file of item numbers, and with
it its offset, so that each number is read exactly once. Answers go into a file in memory for each
process, which never fills up as a pipe would, and survive the process.
"""

import marshal
import posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any


def run(count: int, jobs: int, work: "Callable[[int], Any]") -> "Iterator[Any]":
    """Yield work(0), work(1), ... work(count - 1) in this order, computed in `jobs` processes.

    Answers must be values that `marshal` knows (and never None). An item whose process died
    before it answered, and one no process was left for, yields None.
    """
    jobs = min(jobs, count)
    if jobs <= 1:
        yield from map(work, range(count))
        return
    numbers = posix.memfd_create("numbers", posix.MFD_CLOEXEC)
    _write_all(numbers, b"".join(number.to_bytes(4, "little") for number in range(count)))
    posix.lseek(numbers, 0, 0)
    workers = [_start(numbers, work) for _ in range(jobs)]
    answers: list[Any] = [None] * count
    for process, memory in workers:
        posix.waitpid(process, 0)
        for number, answer in _answers(memory):
            answers[number] = answer
        posix.close(memory)
    posix.close(numbers)
    yield from answers


def available() -> int:
    """How many processors this process may use."""
    return len(posix.sched_getaffinity(0))


def _start(numbers: int, work: "Callable[[int], Any]") -> tuple[int, int]:
    """Fork a worker; (process ID, file in memory for its answers)."""
    memory = posix.memfd_create("answers", posix.MFD_CLOEXEC)
    parent = posix.getpid()
    process = posix.fork()
    if process:
        return process, memory
    status = 1
    try:
        # A worker whose parent was killed stops at the next item.
        while posix.getppid() == parent and (number := posix.read(numbers, 4)):
            item = int.from_bytes(number, "little")
            answer = marshal.dumps((item, work(item)))
            _write_all(memory, len(answer).to_bytes(4, "little") + answer)
        status = 0
    finally:
        posix._exit(status)


def _answers(memory: int) -> "Iterator[tuple[int, Any]]":
    posix.lseek(memory, 0, 0)
    while length := posix.read(memory, 4):
        answer = posix.read(memory, int.from_bytes(length, "little"))
        yield marshal.loads(answer)  # noqa: S302 - our own child wrote it


def _write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[posix.write(fd, rest) :]
