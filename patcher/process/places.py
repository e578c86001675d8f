"""Where in an address space there is room that calls can reach: a gap, near enough to the code.

A call with an operand of 4 bytes reaches 2 GiB. So what it calls is mapped into a gap near it, as
one place for as many modules as can reach it. That gap must be nobody's: the heap and stacks grow
into those beside them, and a program whose heap ends sooner is another program. A place is looked
for below the lowest module first, for the kernel gives out addresses downwards from the stack, and
a heap is above its program. All addresses are run-time addresses. (brk(2); mmap(2), MAP_GROWSDOWN.)
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from patcher.errors import ReachError
from patcher.ftrace.mappings import Mapping, Range

from .pages import PAGE

REACH = (1 << 31) - (1 << 20)  # bytes that a call reaches, less a margin
USER_LIMIT = 0x7FFF_FFFF_F000  # where the addresses of programs end
LOWEST = 0x10000  # vm.mmap_min_addr as distributions have it
STACK_ROOM = 1 << 30  # bytes below a stack that are left to it: more than any limit but none
HEAP_ROOM = 1 << 40  # bytes behind the heap that are left to it: more than there is memory


def gaps(
    mappings: Sequence[Mapping], *, heap: int, stacks: Collection[int] = (), lowest: int = LOWEST
) -> list[Range]:
    """Return what may be mapped: what is not, and is not left to the heap or to a stack.

    `heap` is where the heap begins, or would (0 if it has none); `stacks` are the starts of
    mappings that grow down, beside that of `[stack]`. `lowest` is vm.mmap_min_addr.
    """
    found: list[Range] = []
    start, heap_end = lowest, heap
    for mapping in mappings:
        end = min(mapping.range.start, USER_LIMIT)
        is_stack = mapping.path == "[stack]" or mapping.range.start in stacks
        found += _without_heap(start, end - STACK_ROOM if is_stack else end, heap_end)
        start = max(start, mapping.range.end)
        heap_end = start if mapping.path == "[heap]" else heap
    return [*found, *_without_heap(start, USER_LIMIT, heap_end)]


def _without_heap(start: int, end: int, heap_end: int) -> Iterator[Range]:
    """Return what of a gap a heap that ends at `heap_end`, for now, does not grow into."""
    parts = [Range(start, end)]
    if heap_end and start <= heap_end < end:
        parts = [Range(start, heap_end), Range(heap_end + HEAP_ROOM, end)]
    yield from (part for part in parts if part.start < part.end)


def places(name: str, free: Sequence[Range], groups: Sequence[Range], size: int) -> list[int]:
    """Choose for each group of code where `size` bytes are mapped that all of it can reach.

    `free` are the `gaps` of process `name`, and `groups`, for each module, the addresses from its
    first site to the end of its last. As few places are chosen as there can be: groups that share
    one have the same. On either side of a place is an unmapped page, if there is room. Raises
    ReachError if there is no room for one of them.
    """
    size = _up(size)
    windows = [Range(group.end - REACH, group.start + REACH) for group in groups]
    chosen = [0] * len(groups)
    for members in _neighbourhoods(name, free, groups, size):
        window = Range(
            max(windows[number].start for number in members),
            min(windows[number].end for number in members),
        )
        place = _place(free, window, size, min(groups[number].start for number in members))
        if place is None:  # that of another neighbourhood is in the way
            raise _no_room(name, size, groups[members[0]])
        free = list(_without(free, Range(place, place + size)))
        for number in members:
            chosen[number] = place
    return chosen


def _neighbourhoods(
    name: str, free: Sequence[Range], groups: Sequence[Range], size: int
) -> list[list[int]]:
    """Part the groups, by number, into as few as can be that share a place.

    The one whose window ends first must have a place; the highest one that it can have is in the
    window of every other that can share one with it.
    """
    found: list[list[int]] = []
    left = sorted(range(len(groups)), key=lambda number: groups[number].start)
    while left:
        first = groups[left[0]]
        starts = _starts(free, Range(first.end - REACH, first.start + REACH), size, 0)
        if not starts:
            raise _no_room(name, size, first)
        highest = starts[-1][1]
        found.append([number for number in left if groups[number].end - REACH <= highest])
        left = [number for number in left if groups[number].end - REACH > highest]
    return found


def _no_room(name: str, size: int, code: Range) -> ReachError:
    return ReachError(name, f"no room for {size:#x} bytes within 2 GiB of the code at {code}")


def _place(free: Sequence[Range], window: Range, size: int, lowest: int) -> int | None:
    """Choose the start of a place in a window: next below `lowest`, else the next above it."""
    below = Range(window.start, min(window.end, lowest))
    for guard in (PAGE, 0):
        if starts := _starts(free, below, size, guard):
            return starts[-1][1]
        if starts := _starts(free, window, size, guard):
            return starts[0][0]
    return None


def _starts(free: Sequence[Range], window: Range, size: int, guard: int) -> list[tuple[int, int]]:
    """Return, by address, where a place in the window may start: the first and the last of a gap.

    There is room for `size` bytes then, and on either side for `guard` bytes more.
    """
    found = []
    for gap in free:
        first = _up(max(gap.start + guard, window.start))
        last = _down(min(gap.end - guard, window.end) - size)
        if first <= last:
            found.append((first, last))
    return found


def _without(free: Sequence[Range], taken: Range) -> Iterator[Range]:
    for gap in free:
        below = Range(gap.start, min(gap.end, taken.start))
        above = Range(max(gap.start, taken.end), gap.end)
        yield from (part for part in (below, above) if part.start < part.end)


def _down(address: int) -> int:
    return address - address % PAGE


def _up(address: int) -> int:
    return address + -address % PAGE
