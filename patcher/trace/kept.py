"""What is worked out once for each key, and found by a plain subscript afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

K = TypeVar("K")
V = TypeVar("V")


class Kept(dict[K, V]):
    """Values by keys, made by `make` when one is asked for the first time.

    There are millions of events, and few functions in them: a call of a function for each of them
    takes twice as long as a subscript. If there may be `most` of them, all are forgotten before
    there are more: a process may make threads without end.
    """

    __slots__ = ("_make", "_most")

    def __init__(self, make: Callable[[K], V], most: int = 0) -> None:
        super().__init__()
        self._make = make
        self._most = most

    def __missing__(self, key: K) -> V:
        if self._most and len(self) >= self._most:
            self.clear()
        value = self[key] = self._make(key)
        return value
