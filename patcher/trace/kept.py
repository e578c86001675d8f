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
    takes twice as long as a subscript.
    """

    __slots__ = ("_make",)

    def __init__(self, make: Callable[[K], V]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, key: K) -> V:
        value = self[key] = self._make(key)
        return value
