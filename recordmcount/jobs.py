"""Do one thing for many items in several processes, and give the answers in the items' order.

Plain forks: `multiprocessing` takes longer to import than most batches take to run. Whichever
process is free takes the next items: tickets lie in a pipe, and each can be read only once.
Answers come back through another pipe, which no limit on the size of files counts, in pieces so
small that the kernel never mixes those of two processes. That pipe ends with the last process,
however that ends. What then has no answer is done here, where its errors can be seen.
"""

import marshal
import posix

from .commit import close, write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, NoReturn

TICKET = 4  # bytes
MOST_TICKETS = 1024  # a page of tickets, which is the least that any pipe holds
# A piece of an answer: the item's number, whether it is the last piece, and the size of the rest.
ITEM, LAST, SIZE = slice(0, 4), 4, slice(5, 7)
PIECE_HEADER = 7  # bytes
PIECE = 4096  # bytes, PIPE_BUF: what is written to a pipe in one piece
# Where fewer descriptors are left than this, an item could fail for want of ours.
SPARE = 12


def run(
    count: int,
    jobs: int,
    work: "Callable[[int], Any]",
    again: "Callable[[int], Any] | None" = None,
    watch: "Callable[[int], object] | None" = None,
) -> "Iterator[Any]":
    """Yield work(0), work(1), ... work(count - 1) in this order, computed in `jobs` processes.

    Answers must be values that `marshal` knows. An item that no process answers for is done in
    this one: by again(item), if there is one, where a process had begun it, for then it may have
    done so, or part of it, before it died. `watch` is told how many are done, ever and again.
    """
    workers, answers = _start(count, min(jobs, count), work) if jobs > 1 and count > 1 else ([], -1)
    if not workers:
        yield from map(work, range(count))
        return
    found, begun = _collect(answers, watch)
    close(answers)
    for process in workers:
        posix.waitpid(process, 0)
    for item in range(count):
        if item in found:
            yield found.pop(item)
        else:
            yield (again if again and item in begun else work)(item)


def available() -> int:
    """Tell how many processors this process may use."""
    return len(posix.sched_getaffinity(0))


def _start(count: int, jobs: int, work: "Callable[[int], Any]") -> tuple[list[int], int]:
    """Fork workers: (process IDs of those that could be had, the pipe their answers come from)."""
    step = -(-count // MOST_TICKETS)
    parent = posix.getpid()
    workers: list[int] = []
    pipes = _pipes(range(0, count, step))
    if not pipes:
        return workers, -1
    tickets, readable, writable = pipes
    for _ in range(jobs):
        try:
            process = posix.fork()
        except OSError:  # no more are to be had: those there are do it all
            break
        if not process:
            close(readable)  # so that whoever writes notices when the parent is gone
            _work(_taken(tickets, range(count), step, parent), writable, work)
        workers.append(process)
    close(tickets)
    close(writable)
    if not workers:
        close(readable)
    return workers, readable


def _pipes(numbers: range) -> tuple[int, int, int] | None:
    """Return (a pipe that holds these numbers and then ends, both ends of one for answers).

    None where descriptors are scarce, so that they are left to the work.
    """
    made: list[int] = []
    spare: list[int] = []
    try:
        made += posix.pipe()
        made += posix.pipe()
        posix.write(made[1], b"".join(number.to_bytes(TICKET, "little") for number in numbers))
        while len(spare) < SPARE:
            spare.append(posix.dup(made[0]))
    except OSError:
        for fd in made + spare:
            close(fd)
        return None
    for fd in (made[1], *spare):
        close(fd)
    return made[0], made[2], made[3]


def _taken(tickets: int, items: range, step: int, parent: int) -> "Iterator[int]":
    """Return the items of one ticket after the other, for as long as the parent lives."""
    while ticket := posix.read(tickets, TICKET):
        first = int.from_bytes(ticket, "little")
        for item in items[first : first + step]:
            if posix.getppid() != parent:
                return
            yield item


def _work(items: "Iterator[int]", answers: int, work: "Callable[[int], Any]") -> "NoReturn":
    status = 1
    try:
        for item in items:
            _send(answers, item, b"", last=False)  # it is begun
            content = marshal.dumps(work(item))
            step = PIECE - PIECE_HEADER
            for at in range(0, len(content), step):
                rest = content[at : at + step]
                _send(answers, item, rest, last=at + step >= len(content))
        status = 0
    finally:
        posix._exit(status)


def _send(answers: int, item: int, content: bytes, *, last: bool) -> None:
    """Write one piece of an answer, in one write."""
    header = item.to_bytes(4, "little") + bytes([last]) + len(content).to_bytes(2, "little")
    write_all(answers, header + content)


def _collect(
    answers: int, watch: "Callable[[int], object] | None"
) -> "tuple[dict[int, Any], dict[int, bytearray]]":
    """Read until no process is left that could write: (answers, what came of others), by item."""
    found: dict[int, Any] = {}
    begun: dict[int, bytearray] = {}
    rest = bytearray()
    while more := posix.read(answers, 16 * PIECE):
        rest += more
        at = 0
        while len(rest) >= at + PIECE_HEADER:
            header = rest[at : at + PIECE_HEADER]
            end = at + PIECE_HEADER + int.from_bytes(header[SIZE], "little")
            if end > len(rest):
                break
            item = int.from_bytes(header[ITEM], "little")
            answer = begun.setdefault(item, bytearray())
            answer += rest[at + PIECE_HEADER : end]
            if header[LAST]:
                found[item] = marshal.loads(begun.pop(item))  # noqa: S302 - our own child wrote it
            at = end
        del rest[:at]
        if watch:
            watch(len(found))
    return found, begun
