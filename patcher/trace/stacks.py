"""The stacks of a thread, told apart by the low halves of the addresses at which calls stand."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .events import Event

MASK = (1 << 32) - 1
HALF = 1 << 31
# How far apart calls may stand, and be taken for calls on one stack. Frames are larger than this
# very rarely, and stacks that programs make for coroutines are nearly always larger.
REACH = 1 << 15
NOWHERE = 1 << 34  # farther than REACH from every place
TIDS = 1 << 22  # there are no TIDs from here on (the kernel's PID_MAX_LIMIT)


def height(place: int, other: int) -> int:
    """Tell how far a place is above another; also where the low half wraps around in between."""
    return (place - other + HALF & MASK) - HALF


class Stack:
    """The open calls on one stack, from the outermost to the innermost.

    `places` are those of the calls behind one that is NOWHERE. Events were lost during the first
    `doubtful` calls.
    """

    __slots__ = ("calls", "doubtful", "places", "thread", "track")

    def __init__(self, thread: Thread, track: int) -> None:
        self.thread = thread
        self.track = track
        self.calls: list[Event] = []
        self.places = [NOWHERE]
        self.doubtful = 0

    def above(self, place: int) -> int:
        """Count the calls that stand above a place."""
        # From the outermost to the innermost they stand lower and lower.
        return bisect_left(self.places, True, 1, key=lambda each: height(each, place) <= 0) - 1

    def distance(self, place: int) -> int:
        """Tell how far the nearest call is from a place."""
        above = self.above(place)
        around = self.places[max(above, 1) : above + 2]
        return min(abs(height(each, place)) for each in around)


class Thread:
    """The stacks of a thread: it is on one, and `others` are those that it left calls open on.

    They are in the order of their places: a program may have thousands.
    """

    __slots__ = ("_numbers", "others", "tid")

    def __init__(self, tid: int) -> None:
        self.tid = tid
        self.others: list[Stack] = []
        self._numbers: set[int] = set()

    def another(self) -> Stack:
        """Make a stack, with the lowest number that is free."""
        number = next(each for each in range(len(self._numbers) + 1) if each not in self._numbers)
        self._numbers.add(number)
        return Stack(self, self.tid + number * TIDS)

    def nearest(self, current: Stack, place: int) -> Stack | None:
        """Find the stack on which a call is open at most REACH from a place."""
        near = [current] if current.calls else []
        if self.others:  # the next from either side, also where the low half wraps around
            at = bisect_left(self.others, place, key=_base)
            near += self.others[at % len(self.others)], self.others[at - 1]
        nearest = min(near, key=lambda each: each.distance(place), default=None)
        return nearest if nearest and nearest.distance(place) <= REACH else None

    def switch(self, current: Stack, to: Stack) -> Stack:
        """Leave a stack for another. One without open calls is forgotten."""
        if current.calls:
            self.others.insert(bisect_left(self.others, _base(current), key=_base), current)
        else:
            self._numbers.remove(current.track // TIDS)
        if to in self.others:
            self.others.remove(to)
        return to


def _base(stack: Stack) -> int:
    return stack.places[1]
