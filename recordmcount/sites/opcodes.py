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
# Functions are looked up in blocks of 256 bytes of code, for that is what a column of one byte can
# tell. After so many blocks all functions are sorted, once; a search back ends after a few.
_MOST_BLOCKS, _BLOCKS_BACK = 64, 16


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
        self._functions = FunctionStarts(obj)
        self._known: dict[bytes, tuple[int, int]] = {}

    def doubtful(self, section: int, places: "Iterable[int]") -> set[int]:
        """Choose the places at which no function begins."""
        begins = self._functions.begins
        return {place for place in places if not begins(section, place)}

    def judge(self, section: int, places: "Iterable[int]", read: "Read") -> "dict[int, Verdict]":
        """Find the instructions that cover these places; what is not found cannot be decoded."""
        found = {}
        at = 0  # where an instruction begins, in code that was decoded
        failed = -1  # from where on decoding came to an end
        for place in sorted(places):
            function = self._functions.last(section, place)
            begin = max(function, at)
            if begin == failed:
                continue
            start, opcode = self._covering(read, begin, place)
            if start < 0:
                failed = begin
            else:
                at = start
                found[place] = Verdict(start, is_opcode=opcode == place, is_proven=function >= 0)
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


class FunctionStarts:
    """Where functions begin in an object's sections, by its symbols: section offsets."""

    _FUNCTION = (elf.STT_FUNC, elf.STT_GNU_IFUNC)

    def __init__(self, obj: "Object") -> None:
        self._obj = obj
        self._blocks: dict[tuple[int, int], set[int]] = {}
        self._middles = b""  # the second and third byte of every st_value
        self._all: dict[int, set[int]] | None = None
        self._sorted: dict[int, list[int]] = {}

    def begins(self, section: int, place: int) -> bool:
        """Tell whether a function begins at a place."""
        if self._all is None:
            return place in self._block(section, place >> 8)
        return place in self._all.get(section, ())

    def last(self, section: int, place: int) -> int:
        """Find the last place up to this one at which a function begins; -1 if there is none."""
        block = place >> 8
        for number in range(block, max(block - _BLOCKS_BACK, -1), -1):
            if self._all is not None:
                break
            starts = [start for start in self._block(section, number) if start <= place]
            if starts:
                return max(starts)
            if not number:
                return -1
        if section not in self._sorted:
            self._sorted[section] = sorted(self._every().get(section, ()))
        starts = self._sorted[section]
        index = bisect_right(starts, place) - 1
        return starts[index] if index >= 0 else -1

    def _block(self, section: int, number: int) -> set[int]:
        """Find all in the 256 bytes from section offset 256 * `number` on, or more."""
        found = self._blocks.get((section, number))
        if found is not None:
            return found
        if len(self._blocks) >= _MOST_BLOCKS:
            return self._every().get(section, set())
        found = self._blocks[section, number] = set()
        obj, symbols = self._obj, self._obj.symbol_bytes
        size, at, info = obj.layout.sym.size, obj.layout.sym_value, obj.layout.sym_info
        if not self._middles:
            middles = bytearray(2 * obj.symbol_count)
            end = obj.symbol_count * size
            middles[::2], middles[1::2] = symbols[at + 1 : end : size], symbols[at + 2 : end : size]
            self._middles = bytes(middles)
        wanted = (number & 0xFFFF).to_bytes(2, "little")
        place = self._middles.find(wanted)
        while place >= 0:
            symbol, is_between_two = divmod(place, 2)
            if not is_between_two and symbols[symbol * size + info] & 0xF in self._FUNCTION:
                fields = obj.raw_symbol(symbol)
                start = fields[elf.ST_VALUE]
                if fields[elf.ST_SHNDX] == section and start >> 8 == number:
                    found.add(start)
            place = self._middles.find(wanted, place + 1)
        return found

    def _every(self) -> dict[int, set[int]]:
        if self._all is None:
            self._all = {}
            for section, start in self._obj.places(*self._FUNCTION):
                self._all.setdefault(section, set()).add(start)
        return self._all
