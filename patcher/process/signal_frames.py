"""Where threads go on that stand still in, or below, a signal handler: by what is on their stacks.

A signal handler's frame has the interrupted registers, and after the handler the thread goes on
there. Frames cannot be told from other data for certain. So every word of a stack from its top to
its end counts; one that only looks like such an address costs a refusal that may be tried again.
A handler may have a stack of its own, and the stack that it interrupted goes on where the saved
stack pointer says. (Layout: struct rt_sigframe, asm/sigframe.h; red zone: x86-64 psABI, 3.2.2.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from struct import Struct

from patcher.errors import StateError
from patcher.ftrace.mappings import Mapping
from recordmcount.x86 import EM_386, EM_X86_64

RED_ZONE = 128  # bytes below the stack pointer that may be in use
LARGEST_STACKS = 64 << 20  # bytes of them all

# Of struct sigcontext: how many words behind the saved stack pointer the code segment stands, and
# what it is for user code. On x86-64 it is the low half of a word.
_WORDS = {EM_X86_64: Struct("<Q"), EM_386: Struct("<I")}
_SEGMENT_DISTANCE = {EM_X86_64: 3, EM_386: 8}
_SEGMENTS = {EM_X86_64: {0x33, 0x23}, EM_386: {0x23, 0x73}}

Read = Callable[[int, int], bytes]


def words_on_stacks(
    stack_pointers: Sequence[int], machine: int, mappings: Sequence[Mapping], read: Read
) -> Iterator[int]:
    """Return every word on these stacks, and on those that signal handlers on them interrupted.

    Raises what `read` raises, and StateError if they are too large to be looked through.
    """
    word = _WORDS[machine]
    done: dict[Mapping, int] = {}  # from where on words were returned
    size = 0
    to_do = list(stack_pointers)
    for pointer in to_do:  # which grows meanwhile
        mapping = next((each for each in mappings if each.range.holds(pointer)), None)
        if mapping is None or mapping.protection[:2] != "rw":
            continue
        start = max(mapping.range.start, (pointer - RED_ZONE) & -word.size)
        end = done.get(mapping, mapping.range.end)
        if start < end:
            size += end - start
            if size > LARGEST_STACKS:
                what = f"stacks of more than {LARGEST_STACKS >> 20} MiB are not looked through"
                raise StateError("signal frames", what, address=pointer)
            done[mapping] = start
            words = [each for (each,) in word.iter_unpack(read(start, end - start))]
            yield from words
            to_do += _interrupted(words, machine)


def _interrupted(words: Sequence[int], machine: int) -> Iterator[int]:
    """Return the stack pointers in what looks like saved registers."""
    distance, segments = _SEGMENT_DISTANCE[machine], _SEGMENTS[machine]
    for pointer, segment in zip(words, words[distance:], strict=False):
        if segment & 0xFFFF in segments and pointer:
            yield pointer
