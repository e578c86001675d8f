"""Calls out of events: entries are paired with returns by where both stand on the stack."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from .events import Event
from .kept import Kept
from .stacks import HALF, MASK, REACH, Stack, Thread

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .events import Names


class Ended(StrEnum):
    """How a call ended, as far as events tell.

    A call is ABANDONED if no return of it was seen, and a later event shows that it is over: by an
    exception or longjmp, or because its function has no return site. UNBEGUN is a return without
    an entry: of a call that began before the trace did.
    """

    OPEN = "open"
    RETURNED = "returned"
    ABANDONED = "abandoned"
    UNBEGUN = "unbegun"


class Span(NamedTuple):
    """A call. Each is told of twice: OPEN when it begins, and otherwise when it is over.

    `entry` is None if it is UNBEGUN. `end` is its return; of one that was ABANDONED the event which
    shows that it is over by then. `depth` is how many calls it is inside of. `track` is the TID; of
    another stack in the same thread (a coroutine's, a signal handler's) TIDS more for each.
    `doubtful` is one during which events were lost: its return may be that of another call.
    """

    entry: Event | None
    end: Event | None
    depth: int
    track: int
    ended: Ended
    doubtful: bool


OPEN, RETURNED, ABANDONED, UNBEGUN = Ended
UNTOLD = 0  # the caller, where nothing is known of the frame
_made = tuple.__new__  # a NamedTuple's own way takes three times as long


class Graph:
    """The calls of each thread. Events come in batches, in order for each thread.

    Events have the low half of a stack's address, and do not tell which stack it is. So an event is
    of the stack that has an open call nearest to it, at most REACH away; or of a call whose
    function is directly called by that of the innermost one, however large its frame. Otherwise it
    is of another stack, and closes nothing on the first.

    Without return sites all calls are ABANDONED in time: `depth` is right, and ends tell nothing.
    """

    def __init__(self, names: Names) -> None:
        self._names = names
        self._returns = Kept(names.is_return)
        self._current: Kept[int, Stack] = Kept(lambda tid: Thread(tid).another())

    def events(self, batch: Iterable[Event]) -> list[Span]:
        """Tell, in the order of events, which calls begin and which are over."""
        spans: list[Span] = []
        add = spans.append
        current, returns = self._current, self._returns
        for event in batch:
            _, _, tid, site, caller, at = event
            stack = current[tid]
            places = stack.places
            if returns[site]:
                if places[-1] != at or stack.calls[-1][4] != caller:
                    self._returned(stack, event, spans)
                    continue
                places.pop()
                entry = stack.calls.pop()
                depth = len(stack.calls)
                doubtful = depth < stack.doubtful
                if doubtful:
                    stack.doubtful = depth
                add(_made(Span, (entry, event, depth, stack.track, RETURNED, doubtful)))
                continue
            gap = places[-1] - at
            if not 0 < gap <= REACH:
                if not -REACH <= gap <= 0:
                    stack = self._stack_of(stack, event)
                    places = stack.places
                _abandon(stack, event, at, spans)
            calls = stack.calls
            add(_made(Span, (event, None, len(calls), stack.track, OPEN, False)))
            calls.append(event)
            places.append(at)
        return spans

    def lost(self) -> None:
        """Tell that events were lost: whatever is open now may have ended meanwhile."""
        for stack in self._stacks():
            stack.doubtful = len(stack.calls)

    def end(self) -> list[Span]:
        """Tell which calls are open."""
        return [
            Span(entry, None, depth, stack.track, OPEN, depth < stack.doubtful)
            for stack in sorted(self._stacks(), key=lambda each: each.track)
            for depth, entry in enumerate(stack.calls)
        ]

    def _stacks(self) -> Iterator[Stack]:
        for stack in self._current.values():
            yield stack
            yield from stack.thread.others

    # --- what is not the usual case ---------------------------------------------------------------

    def _returned(self, stack: Stack, event: Event, spans: list[Span]) -> None:
        """Tell what a return ends that is not simply that of the innermost call."""
        if stack.places[-1] != event.stack:
            found = stack.thread.nearest(stack, event.stack)
            if found and found is not stack:
                self._current[event.tid] = stack = stack.thread.switch(stack, found)
            if found and self._has_ended_below(stack, event, spans):
                return
        if stack.places[-1] == event.stack:
            entry = stack.calls[-1]
            if entry.caller == event.caller or self._is_of_one_function(entry, event):
                spans.append(_over(stack, event, RETURNED))
                return
            spans.append(_over(stack, event, ABANDONED))
        spans.append(Span(None, event, len(stack.calls), stack.track, UNBEGUN, False))

    def _has_ended_below(self, stack: Stack, event: Event, spans: list[Span]) -> bool:
        """End what stands below a return, and tell whether the outermost of it is what returned.

        Where nothing is known of a function's frame, its entry stands in that somewhere.
        """
        highest = event.stack - 1 & MASK
        kept = stack.above(highest)
        below = stack.calls[kept : kept + 1]
        is_its = any(
            entry.caller == UNTOLD and self._is_of_one_function(entry, event) for entry in below
        )
        _abandon(stack, event, highest, spans, kept + is_its)
        if is_its:
            spans.append(_over(stack, event, RETURNED))
        return is_its

    def _stack_of(self, stack: Stack, event: Event) -> Stack:
        """Choose the stack that an entry is on, and be there."""
        thread = stack.thread
        if not stack.calls and not thread.others:
            return stack
        found = thread.nearest(stack, event.stack)
        if not found and self._is_called_by_innermost(stack, event):
            found = stack
        if not found and not stack.calls:
            found = stack
        if found is not stack:
            self._current[event.tid] = found = thread.switch(stack, found or thread.another())
        return found

    def _is_called_by_innermost(self, stack: Stack, event: Event) -> bool:
        """Whether the innermost call that stands above an entry is of the function it names."""
        above = stack.above(event.stack)
        if not above:
            return False
        function = self._names.function(stack.calls[above - 1].site)
        return function == self._names.caller(event.caller)

    def _is_of_one_function(self, entry: Event, end: Event) -> bool:
        """Whether both are in one function, though its return address is another by now.

        A uprobe at a function's return changes that.
        """
        return self._names.function(entry.site) == self._names.function(end.site)


def _over(stack: Stack, event: Event, ended: Ended) -> Span:
    """End the innermost call."""
    stack.places.pop()
    entry = stack.calls.pop()
    depth = len(stack.calls)
    doubtful = depth < stack.doubtful
    if doubtful:
        stack.doubtful = depth
    return _made(Span, (entry, event, depth, stack.track, ended, doubtful))


def _abandon(stack: Stack, event: Event, highest: int, spans: list[Span], kept: int = 0) -> None:
    """End the calls that stand at `highest` or below, for the stack is used by others now.

    Those that are inside of less than `kept` others stay.
    """
    places = stack.places
    while len(stack.calls) > kept and (highest - places[-1] & MASK) < HALF:  # height(), inline
        spans.append(_over(stack, event, ABANDONED))
