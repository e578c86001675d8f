"""Do one thing for many items in several processes, and give the answers in the items' order.

Plain forks: `multiprocessing` takes longer to import than most batches take to run. Each process
has two pipes, one for items and one for answers, and is given the next item when it has answered;
many short items are one together, since every change of processes takes as long as one of them.
An answer is in no limit on the size of files, and the end of its pipe is the end of its process,
however that ends: whose answer it still owes is known at once, and another takes its place.

`Processes` does what is needed of concurrent.futures.Executor, so that whoever spreads work over it
can spread it over a cluster as well; `run` is for a known number of items.
"""

import marshal
import posix
from _collections import deque  # type: ignore[import-not-found]  # of `collections`, written in C

from .commit import close, write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, NoReturn

SIZE = 8  # bytes of a number before what is sent: how many bytes that is. 0 of an answer: begun
PIECE = 1 << 16  # bytes that a pipe holds
# For each so many items to do, one more is done with the next one, up to so many.
MANY, MOST_TOGETHER = 64, 8
# Where fewer descriptors are left than this, an item could fail for want of ours.
SPARE = 12


class Lost(Exception):  # noqa: N818 - what happened, as KeyboardInterrupt
    """The process that was to answer is no more; `begun` tells whether it had begun the item.

    `status` is how it ended, as `waitpid` has it.
    """

    def __init__(self, begun: bool, status: int) -> None:
        super().__init__(begun, status)
        self.begun = begun
        self.status = status


class Future:
    """An answer to be, as concurrent.futures.Future has it; only who asks for it waits."""

    __slots__ = ("item", "_processes", "_answer", "_lost", "_is_done")

    def __init__(self, processes: "Processes", item: "Any") -> None:
        self.item = item
        self._processes = processes
        self._answer: Any = None
        self._lost: Lost | None = None
        self._is_done = False

    def done(self) -> bool:
        """Tell whether the answer is there, or lost."""
        return self._is_done

    def set(self, answer: "Any", lost: Lost | None = None) -> None:
        """Give the answer, or tell that there will be none."""
        self._answer, self._lost, self._is_done = answer, lost, True

    def result(self) -> "Any":
        """Wait for the answer; raises Lost."""
        while not self._is_done:
            self._processes.wait()
        if self._lost is not None:
            raise self._lost
        return self._answer


class Processes:
    """Up to `most` processes for one function, started when they are needed.

    Items and answers must be values that `marshal` knows. Where no process can be had, the items
    are done in this one. A process has as many items as `ahead` beyond the one it is at.
    """

    def __init__(self, most: int, ahead: int = 0) -> None:
        self._most = most
        self._asked_at_once = 1 + ahead
        self._work: Callable[[Any], Any] | None = None
        self._queue: deque[Future] = deque()
        self._workers: dict[int, _Worker] = {}  # by the descriptor that their answers come from
        self._poll: Any = None
        self.answered = 0

    def submit(self, work: "Callable[[Any], Any]", item: "Any") -> Future:
        """Have work(item) done: the same `work` each time, for processes are forked with it."""
        if self._work is None:
            from select import poll  # for whoever records one object there is nothing to wait for

            self._work, self._poll = work, poll()
        future = Future(self, item)
        self._queue.append(future)
        self._hand_out()
        return future

    def wait(self) -> None:
        """Wait until there is one answer more, or one is lost."""
        if not self._workers:
            future = self._queue.popleft()
            future.set(self._work(future.item))  # type: ignore[misc]  # somebody submitted it
            self.answered += 1
            return
        for descriptor, _ in self._poll.poll():
            worker = self._workers[descriptor]
            more = posix.read(descriptor, PIECE)
            if more:
                self.answered += worker.take(more)
            else:
                self._end(worker)
        self._hand_out()

    def shutdown(self, wait: bool = True) -> None:
        """Have no more items done, and if `wait` let the processes finish what they are at."""
        for worker in self._workers.values():
            close(worker.items)
            close(worker.answers)
        for worker in self._workers.values() if wait else ():
            posix.waitpid(worker.process, 0)
        self._workers.clear()
        self._queue.clear()

    def _hand_out(self) -> None:
        """Give items to who has none, to new processes, and then to who has few left."""
        for worker in self._workers.values():
            if self._queue and not worker.asked:
                self._give(worker)
        while self._queue and len(self._workers) < self._most:
            started = _start(self._work, [*self._workers.values()])
            if started is None:  # no more are to be had: those there are do it all
                self._most = len(self._workers)
                break
            self._workers[started.answers] = started
            self._poll.register(started.answers, 1)  # POLLIN; an end is always told
            self._give(started)
        for worker in self._workers.values():  # in advance, once nobody is idle
            if self._queue and 2 * len(worker.asked) < self._asked_at_once + 1:
                self._give(worker)

    def _give(self, worker: "_Worker") -> None:
        number = min(self._asked_at_once - len(worker.asked), len(self._queue))
        worker.give([self._queue.popleft() for _ in range(number)])

    def _end(self, worker: "_Worker") -> None:
        """Bury a process: what it was at is lost, what else it was given is for others."""
        del self._workers[worker.answers]
        self._poll.unregister(worker.answers)
        close(worker.items)
        close(worker.answers)
        _, status = posix.waitpid(worker.process, 0)
        if worker.has_begun:
            worker.asked.popleft().set(None, Lost(True, status))
        else:  # it did not come so far, nor would the next
            self._most = len(self._workers)
        self._queue.extendleft(reversed(worker.asked))


class _Worker:
    """A process: `items` is the descriptor it is given them by, `answers` the one it answers by.

    `asked` are the answers it owes; `has_begun` tells whether it has begun the first of these.
    """

    __slots__ = ("process", "items", "answers", "asked", "has_begun", "_rest")

    def __init__(self, process: int, items: int, answers: int) -> None:
        self.process = process
        self.items = items
        self.answers = answers
        self.asked: deque[Future] = deque()
        self.has_begun = False
        self._rest = bytearray()

    def give(self, futures: list[Future]) -> None:
        """Send items."""
        self.asked.extend(futures)
        try:
            write_all(self.items, b"".join([_sized(future.item) for future in futures]))
        except OSError:
            pass  # it is no more: that is seen where its answers end

    def take(self, more: bytes) -> int:
        """Take what came of answers; how many are complete."""
        rest, at, complete = self._rest, 0, 0
        rest += more
        while len(rest) >= at + SIZE:
            end = at + SIZE + int.from_bytes(rest[at : at + SIZE], "little")
            if end > len(rest):
                break
            self.has_begun = end == at + SIZE
            if not self.has_begun:
                with memoryview(rest) as view:
                    answer = marshal.loads(view[at + SIZE : end])  # noqa: S302 - our own child's
                self.asked.popleft().set(answer)
                complete += 1
            at = end
        del rest[:at]
        return complete


def run(
    count: int,
    jobs: int,
    work: "Callable[[int], Any]",
    again: "Callable[[int], Any] | None" = None,
    watch: "Callable[[int], object] | None" = None,
) -> "Iterator[Any]":
    """Yield work(0), work(1), ... work(count - 1) in this order, computed in `jobs` processes.

    Answers must be values that `marshal` knows. An item that no process answers for is done in
    this one, where its errors can be seen: by again(item), if there is one, for a process had begun
    it, and may have done so, or part of it, before it died. `watch` is told how many are done, ever
    and again.
    """
    if jobs < 2 or count < 2:
        yield from map(work, range(count))
        return
    groups = [*_groups(count, jobs)]

    def work_all(number: int) -> "list[Any]":
        return [work(item) for item in groups[number]]

    are_many = len(groups) < count
    processes = Processes(min(jobs, count), ahead=1 if are_many else 0)
    futures = deque([processes.submit(work_all, number) for number in range(len(groups))])
    try:
        while futures:
            while not futures[0].done():
                processes.wait()
                if watch and processes.answered:  # nearly always the first ones
                    watch(groups[processes.answered - 1].stop)
            future = futures.popleft()
            try:
                answers = future.result()
            except Lost:
                answers = map(again or work, groups[future.item])
            yield from answers
    finally:
        processes.shutdown()


def share(jobs: int, work: "Callable[[int], Any]") -> "list[Any]":
    """Return [work(0), work(1), ... work(jobs - 1)], of which this process does the first one.

    The others are done in processes meanwhile. That is for shares of one size: who has done its own
    does no other's. Answers are as in `run`.
    """
    processes = Processes(jobs - 1)
    try:
        futures = [processes.submit(work, number) for number in range(1, jobs)]
        answers = [work(0)]
        for number, future in enumerate(futures, 1):
            try:
                answers.append(future.result())
            except Lost:
                answers.append(work(number))
        return answers
    finally:
        processes.shutdown()


def _groups(count: int, jobs: int) -> "Iterator[range]":
    """Put items together, the last ones less so: all processes shall end at the same time."""
    most = min(1 + count // MANY, MOST_TOGETHER)
    at = 0
    while at < count:
        end = at + max(1, min(most, (count - at) // (4 * jobs)))
        yield range(at, end)
        at = end


def available() -> int:
    """Tell how many processors this process may use."""
    return len(posix.sched_getaffinity(0))


def _sized(value: "Any") -> bytes:
    content = marshal.dumps(value)
    return len(content).to_bytes(SIZE, "little") + content


def _start(work: "Callable[[Any], Any] | None", others: list[_Worker]) -> _Worker | None:
    """Fork a process for `work`; None where none is to be had."""
    pipes = _pipes()
    if pipes is None:
        return None
    (items, give), (take, answers) = pipes
    parent = posix.getpid()
    try:
        process = posix.fork()
    except OSError:
        for fd in (items, give, take, answers):
            close(fd)
        return None
    if not process:
        # What ends when the parent ends must not be held open by its children.
        for worker in others:
            close(worker.items)
            close(worker.answers)
        close(give)
        close(take)
        _serve(items, answers, work, parent)
    close(items)
    close(answers)
    return _Worker(process, give, take)


def _pipes() -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Open a pipe for items and one for answers.

    None where descriptors are scarce, so that they are left to the work.
    """
    made: list[int] = []
    try:
        made += posix.pipe()
        made += posix.pipe()
        while len(made) < 4 + SPARE:
            made.append(posix.dup(made[0]))
    except OSError:
        for fd in made:
            close(fd)
        return None
    for fd in made[4:]:
        close(fd)
    return (made[0], made[1]), (made[2], made[3])


def _serve(
    items: int, answers: int, work: "Callable[[Any], Any] | None", parent: int
) -> "NoReturn":
    """Do what items come, for as long as the parent lives."""
    status = 1
    try:
        rest = bytearray()
        while more := posix.read(items, PIECE):
            rest += more
            while len(rest) >= SIZE:
                end = SIZE + int.from_bytes(rest[:SIZE], "little")
                if end > len(rest) or posix.getppid() != parent:
                    break
                item = marshal.loads(rest[SIZE:end])  # noqa: S302 - our own parent's
                del rest[:end]
                write_all(answers, bytes(SIZE))  # it is begun
                write_all(answers, _sized(work(item)))  # type: ignore[misc]  # never None here
        status = 0
    finally:
        posix._exit(status)
