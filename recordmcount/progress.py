"""How far long work is, on a terminal: a line on stderr, once the work has lasted a while.

`tqdm` draws it, and is imported only then.
"""

from __future__ import annotations

import posix
import sys
from time import monotonic

from .packages import load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any, TypeVar

    Item = TypeVar("Item")

PATIENCE = 1.0  # seconds without a word


class Progress:
    """So much of `count` files is done; nothing is drawn before PATIENCE is over.

    `count` is None where it is not known.
    """

    def __init__(self, count: int | None) -> None:
        self._count = count
        self._start = monotonic()
        self._bar: Any = None

    def at(self, done: int) -> None:
        """Tell that so many are done."""
        if self._bar is None and monotonic() - self._start > PATIENCE:
            self._bar = _bar(self._count)
        if self._bar:
            self._bar.update(done - self._bar.n)

    def clear(self) -> None:
        """Make room on the terminal for lines of ours."""
        if self._bar:
            self._bar.clear()

    def end(self) -> None:
        """Leave nothing on the terminal."""
        if self._bar:
            self._bar.close()


def start(count: int | None, *, quiet: bool) -> Progress | None:
    """Begin to count; None where nobody would see it, or it is not wanted.

    `count` is None where it is not known how many files there are.
    """
    is_long = count is None or count > 1
    return Progress(count) if is_long and not quiet and posix.isatty(2) else None


def over(items: Iterable[Item], progress: Progress | None) -> Iterator[Item]:
    """Give the items, and tell of each that is done with; meanwhile the terminal is free."""
    if progress is None:
        yield from items
        return
    for number, item in enumerate(items, 1):
        progress.clear()
        yield item
        progress.at(number)
    progress.end()


def _bar(count: int | None) -> Any:
    """Make what is drawn; False where there is no `tqdm`, and then nothing is."""
    try:
        tqdm = load("tqdm").tqdm
    except ImportError:
        return False
    tqdm.monitor_interval = 0  # no thread: we fork
    return tqdm(total=count, unit=" files", file=sys.stderr, leave=False, dynamic_ncols=True)
