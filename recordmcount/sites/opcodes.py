"""What proves that a byte of an object's code is an opcode: where its instructions begin.

Most calls need no such proof, for the type of their relocation is one. For the others: where the
symbol of a function stands an instruction begins, and from there on each tells where the next one
does. Nothing here is imported before it is asked for.
"""

from _bisect import bisect_right

from recordmcount import x86
from recordmcount.elf import object as elf
from recordmcount.x86_length import covering

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from recordmcount.elf.object import Object

    # Reads code: section offset, size in bytes -> as much of it as there is.
    Read = Callable[[int, int], bytes]

# Decoding needs some bytes behind the place that is asked for, to measure what is there.
_BEHIND = x86.LONGEST_INSTRUCTION
# Functions often begin alike, so what was found is kept, of beginnings up to this many bytes.
_KEPT = 64
# Code is read in pieces of this many bytes.
_PIECE = 1 << 16


class Verdict:
    """What the instruction that covers a place is: `start` is the section offset of its first byte.

    `is_opcode` tells that the place is its opcode, all before it being prefixes. `is_proven` tells
    that it was counted from a function and not from the start of the section.
    """

    __slots__ = ("start", "is_opcode", "is_proven")

    def __init__(self, start: int, *, is_opcode: bool, is_proven: bool) -> None:
        self.start = start
        self.is_opcode = is_opcode
        self.is_proven = is_proven


class Opcodes:
    """The instructions of an object's code, as far as anybody asks."""

    def __init__(self, obj: "Object") -> None:
        self._bits = 64 if obj.machine == x86.EM_X86_64 else 32
        self._obj = obj
        self._starts: dict[int, set[int]] | None = None
        self._functions: dict[int, tuple[list[int], set[int]]] = {}
        self._known: dict[bytes, tuple[int, int]] = {}

    def doubtful(self, section: int, places: "Iterable[int]") -> set[int]:
        """Choose the places at which no function begins."""
        return set(places) - self._beginnings(section)[1]

    def _beginnings(self, section: int) -> tuple[list[int], set[int]]:
        """Find where functions begin in a section: section offsets, ascending and as a set."""
        if self._starts is None:
            self._starts = {}
            for shndx, start in self._obj.places(elf.STT_FUNC, elf.STT_GNU_IFUNC):
                self._starts.setdefault(shndx, set()).add(start)
        if section not in self._functions:
            known = self._starts.get(section, set())
            self._functions[section] = sorted(known), known
        return self._functions[section]

    def judge(self, section: int, places: "Iterable[int]", read: "Read") -> "dict[int, Verdict]":
        """Find the instructions that cover these places; what is not found cannot be decoded."""
        functions = self._beginnings(section)[0]
        found = {}
        at = 0  # where an instruction begins, in code that was decoded
        failed = -1  # from where on decoding came to an end
        for place in sorted(places):
            number = bisect_right(functions, place) - 1
            begin = max(functions[number] if number >= 0 else 0, at)
            if begin == failed:
                continue
            start, opcode = self._covering(read, begin, place)
            if start < 0:
                failed = begin
            else:
                at = start
                found[place] = Verdict(start, is_opcode=opcode == place, is_proven=number >= 0)
        return found

    def _covering(self, read: "Read", begin: int, place: int) -> tuple[int, int]:
        """Find the instruction as x86_length.covering does, by section offset."""
        at = begin
        while place - at > _PIECE:  # from one piece to the next
            text = read(at, _PIECE)
            start, _ = covering(text, 0, _PIECE - _BEHIND, self._bits)
            if start <= 0:
                return -1, -1
            at += start
        text = read(at, place - at + _BEHIND)
        key = text[: place - at + 3]  # as far as a decoder looks that decides about `place`
        found = self._known.get(key)
        if found is None:
            found = self._decoded(text, place - at)
            if len(key) <= _KEPT:
                self._known[key] = found
        return (found[0] + at, found[1] + at) if found[0] >= 0 else found

    def _decoded(self, text: bytes, place: int) -> tuple[int, int]:
        bits = [self._bits]
        if self._bits == 32 and place and text[place - 1] in (0x66, 0x67):
            bits.append(16)  # nothing tells which: where they differ, nobody knows
        found = {covering(text, 0, place, each) for each in bits}
        return found.pop() if len(found) == 1 else (-1, -1)
