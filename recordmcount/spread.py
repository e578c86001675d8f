"""Do one thing for many files at once, in several processes or on a cluster, and answer in order.

Both are an executor, as concurrent.futures has it, so there is one way to spread work: a window of
items is under way, and moves on when the first of them is answered. So the answers come while the
work lasts, and memory holds those of a window, however many files there are.

A file over which a process dies is read again in a process of its own: it may have been another
that took all the memory. If that dies too, the file is answered for by an Error.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from typing import Any, NamedTuple, Protocol, TypeVar

from .errors import Error, UnreachableError
from .jobs import Lost, Processes, available

Answer = TypeVar("Answer")
# One or several paths, of which one answer is given; or what is wrong, to be told in its turn.
Item = str | tuple[str, ...] | Error

# So many files of so many bytes in all are read before other processes would have started.
FEW, SMALL = 16, 1 << 22
# Items that are under way for each process: where one takes long, the others go on.
WINDOW = 16
# Items that a process has in advance, so that it does not wait for the next one.
AHEAD = 1


class How(NamedTuple):
    """In how many processes work is done, 0 for one a processor, or at which Dask scheduler."""

    jobs: int = 0
    scheduler: str | None = None


class Promise(Protocol):
    """What an executor gives: concurrent.futures.Future."""

    def result(self) -> Any:
        """Wait for the answer. Raises Lost where a process died over it, and Error."""


class Executor(Protocol):
    """Whoever does things elsewhere: concurrent.futures.Executor."""

    def submit(self, work: Callable[[Any], Any], item: Any, /) -> Promise:
        """Have work(item) done."""

    def shutdown(self, wait: bool = True) -> None:
        """Have no more done."""


def spread(
    work: Callable[[Any], Answer],
    items: Iterable[Item],
    how: How,
    failed: Callable[[Error], Answer],
) -> Iterator[Answer]:
    """Yield work(item) of each item, in the order of the items, or failed(what is wrong).

    `work` must be picklable, and items and answers values that `marshal` knows. Raises
    UnreachableError where a scheduler is asked for that cannot be reached.
    """
    if how.scheduler is not None:
        from .cluster import Cluster

        cluster = Cluster(how.scheduler)
        yield from _spread(work, items, cluster, cluster.threads, failed)
        return
    jobs = how.jobs or available()
    ahead = list(islice(items := iter(items), 2 if how.jobs else FEW))
    items = chain(ahead, items)
    if jobs > 1 and (len(ahead) > 1 if how.jobs else _are_many(ahead)):
        yield from _spread(work, items, Processes(jobs, AHEAD), jobs, failed)
        return
    for item in items:
        yield failed(item) if isinstance(item, Error) else work(item)


def _are_many(items: list[Item]) -> bool:
    """Tell whether it takes longer to read the first items than to start processes."""
    if len(items) < 2:
        return False
    return len(items) == FEW or sum(map(_size, items)) > SMALL


def _size(item: Item) -> int:
    """Tell how many bytes an item's files have, as far as they can be looked at."""
    if isinstance(item, Error):
        return 0
    total = 0
    for path in (item,) if isinstance(item, str) else item:
        try:
            total += os.stat(path).st_size
        except OSError:  # whoever reads it will say so
            continue
    return total


def _spread(
    work: Callable[[Any], Answer],
    items: Iterable[Item],
    executor: Executor,
    width: int,
    failed: Callable[[Error], Answer],
) -> Iterator[Answer]:
    """Keep a window of items under way that `executor` does, `width` of them at once."""
    waiting: deque[tuple[Item, Promise | None]] = deque()

    def first() -> Answer:
        item, promise = waiting.popleft()
        if isinstance(item, Error) or promise is None:
            return failed(item)  # type: ignore[arg-type]  # only an Error has no promise
        try:
            return _answer(work, item, promise)
        except UnreachableError:  # no file is to blame
            raise
        except Error as error:
            return failed(error)

    is_done = False
    try:
        for item in items:
            is_error = isinstance(item, Error)
            waiting.append((item, None if is_error else executor.submit(work, item)))
            if len(waiting) >= WINDOW * width:
                yield first()
        while waiting:
            yield first()
        is_done = True
    finally:
        executor.shutdown(wait=is_done)


def _answer(work: Callable[[Any], Answer], item: str | tuple[str, ...], promise: Promise) -> Answer:
    """Wait for an answer; where a process died over it, ask again. Raises Error."""
    try:
        return promise.result()  # type: ignore[no-any-return]  # it is what `work` gives
    except Lost:
        alone = Processes(1)
        try:
            return alone.submit(work, item).result()  # type: ignore[no-any-return]
        except Lost as lost:
            path = item if isinstance(item, str) else item[-1]
            raise Error(path, f"the process that read it {_end(lost.status)}") from None
        finally:
            alone.shutdown()


def _end(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"was killed by signal {-code}" if code < 0 else f"ended with exit status {code}"
