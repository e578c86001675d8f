"""Where functions begin and end by `.eh_frame`, which is left where symbols are stripped.

It is evidence, and nothing is changed by it: what is broken, or encoded as no compiler or linker
for x86 does it, proves nothing and is left out. (Linux Standard Base Core 5.0, 10.6 "Exception
Frames"; augmentation letters as gcc and LLVM write them.) Not on the recording path.
"""

from __future__ import annotations

from _bisect import bisect_right
from _struct import Struct, unpack_from

from . import object as elf
from .segments import PT_LOAD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from .object import Object
    from .segments import LoadView

    # Ascending (start, end) by section index: section offsets in an object, else link-time virtual
    # addresses.
    Ranges = dict[int, list[tuple[int, int]]]

NAME = b".eh_frame"
PT_GNU_EH_FRAME = 0x6474E550
EXTENDED = 0xFFFFFFFF  # then a length of 8 bytes follows
LONGEST_AUGMENTATION = 8  # letters; "zPLRS" is all there are
LONGEST_NUMBER = 10  # bytes; those of 64 bits
# DW_EH_PE_*: the format in the low half, what it counts from in the high one.
ABSPTR, ALIGNED, FROM_ZERO, FROM_FIELD = 0x00, 0x50, 0x00, 0x10
_FORMATS = {0x00: "", 0x02: "H", 0x03: "I", 0x04: "Q", 0x0A: "h", 0x0B: "i", 0x0C: "q"}


class _BrokenError(Exception):
    """An entry that cannot be read."""


def ranges(obj: Object) -> Ranges:
    """Read what code has unwind entries (FDEs), function by function."""
    found: Ranges = {}
    code = _CodeSections(obj)
    for index in obj.named(NAME):
        content, section = obj.content(index), obj.section(index)
        moved = _relocated(obj, index, content) if obj.type == elf.ET_REL else {}
        for field, start, size, counts_from in _entries(content, obj.layout.word):
            if obj.type == elf.ET_REL:
                place = moved.get(field)
            else:
                vaddr = start + (section.vaddr + field if counts_from == FROM_FIELD else 0)
                place = code.place(vaddr & obj.layout.highest)
            if place is not None and size:
                found.setdefault(place[0], []).append((place[1], place[1] + size))
    return {section: sorted(each) for section, each in found.items()}


class _CodeSections:
    """The executable sections of a linked file by link-time virtual address."""

    def __init__(self, obj: Object) -> None:
        flags = elf.SHF_ALLOC | elf.SHF_EXECINSTR
        rows = sorted(
            (header[elf.SH_ADDR], header[elf.SH_ADDR] + header[elf.SH_SIZE], index)
            for index, header in enumerate(obj.headers)
            if header[elf.SH_FLAGS] & flags == flags
        )
        self._starts = [row[0] for row in rows]
        self._rows = rows

    def place(self, vaddr: int) -> tuple[int, int] | None:
        """Return (section index, `vaddr`), or None where no code is."""
        number = bisect_right(self._starts, vaddr) - 1
        is_code = number >= 0 and vaddr < self._rows[number][1]
        return (self._rows[number][2], vaddr) if is_code else None


def _relocated(obj: Object, index: int, content: bytes) -> dict[int, tuple[int, int]]:
    """Map fields of a section of an object to the (section index, section offset) they mean."""
    places: dict[int, tuple[int, int]] = {}
    if not obj.symbol_bytes:  # read once, all together
        return places
    for each in obj.of_type(elf.SHT_RELA, elf.SHT_REL):
        if obj.headers[each][elf.SH_INFO] == index:
            for field, _type, symbol, addend in obj.relocations(each):
                if symbol < obj.symbol_count:
                    named = obj.raw_symbol(symbol)
                    distance = elf.in_place(content, field) if addend is None else addend
                    places[field] = named[elf.ST_SHNDX], named[elf.ST_VALUE] + distance
    return places


def _entries(content: bytes, word: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield (index of its first field, the start in it, size in bytes, what it counts from)."""
    encodings: dict[int, tuple[Struct, int] | None] = {}  # of the FDEs of a CIE, by its index
    at = 0
    while at + 8 <= len(content):
        (length,) = unpack_from("<I", content, at)
        at += 4
        if length == EXTENDED:
            length, at = int.from_bytes(content[at : at + 8], "little"), at + 8
        end = at + length
        if end > len(content):
            return
        distance = int.from_bytes(content[at : at + 4], "little")
        common = at - distance
        if length >= 4 and distance and common >= 0:
            if common not in encodings:
                encodings[common] = _encoding_at(content, common, word)
            encoding = encodings[common]
            if encoding is not None and at + 4 + encoding[0].size <= end:
                start, size = encoding[0].unpack_from(content, at + 4)
                yield at + 4, start, size & (1 << 8 * word) - 1, encoding[1]
        at = end


def _encoding_at(content: bytes, at: int, word: int) -> tuple[Struct, int] | None:
    """Tell how FDEs of a CIE have their range, None where that is not known.

    That is (start and size, what the start counts from).
    """
    try:
        encoding = _encoding(content, at, word)
        return _pair(encoding, word), encoding & 0xF0
    except (_BrokenError, IndexError):
        return None


def _pair(encoding: int, word: int) -> Struct:
    """Lay out a start and a size."""
    code = _FORMATS.get(encoding & 0x0F)
    if code is None or encoding & 0xF0 not in (FROM_ZERO, FROM_FIELD):
        raise _BrokenError
    return Struct("<" + 2 * (code or ("Q" if word == 8 else "I")))


def _encoding(content: bytes, at: int, word: int) -> int:
    """Return the DW_EH_PE_* byte of a CIE; IndexError where it ends before."""
    at += 12 if content[at : at + 4] == b"\xff" * 4 else 4
    if content[at : at + 4] != bytes(4):  # no CIE
        raise _BrokenError
    version, end = content[at + 4], content.find(b"\0", at + 5, at + 6 + LONGEST_AUGMENTATION)
    if version not in (1, 3, 4) or end < 0:
        raise _BrokenError
    letters, at = content[at + 5 : end], end + 1
    if letters.startswith(b"eh"):  # gcc 2
        letters, at = letters[2:], at + word
    at += 2 if version == 4 else 0  # sizes of an address and of a segment selector
    at = _behind_number(content, _behind_number(content, at))  # alignment factors
    at = at + 1 if version == 1 else _behind_number(content, at)  # register of the return address
    if letters[:1] != b"z":
        if letters:
            raise _BrokenError
        return ABSPTR
    at = _behind_number(content, at)  # length of what follows
    for letter in letters[1:].decode("latin-1"):
        if letter == "R":
            return content[at]
        if letter == "P":
            personality = content[at]
            if personality & 0xF0 == ALIGNED:
                raise _BrokenError
            at += _pair(personality & 0x0F, word).size // 2
        elif letter not in "LS":
            raise _BrokenError
        at += letter in "PL"
    return ABSPTR


def _behind_number(content: bytes, at: int) -> int:
    """Return the index behind a LEB128 number."""
    for end in range(at + 1, at + 1 + LONGEST_NUMBER):
        if not content[end - 1] & 0x80:
            return end
    raise _BrokenError


def of_segments(view: LoadView) -> list[tuple[int, int]]:
    """List (start, end) of functions, ascending, of a linked file that has no section headers.

    PT_GNU_EH_FRAME tells where `.eh_frame_hdr` is, and that where the entries begin: one byte of
    version, three of encodings, a pointer. They are link-time virtual addresses.
    """
    found = []
    for header in view.segments:
        if header.type != PT_GNU_EH_FRAME or view.file_offset(header.vaddr, 8) is None:
            continue
        version, encoding, *_, distance = unpack_from(
            "<4Bi", view.read(header.vaddr, 8, "a header")
        )
        first = header.vaddr + 4 + distance
        for segment in view.segments if (version, encoding) == (1, FROM_FIELD | 0x0B) else ():
            if segment.type == PT_LOAD and segment.holds(first, 1):
                size = segment.vaddr + segment.filesz - first
                content = view.read(first, size, "the unwind entries")
                for field, start, length, counts_from in _entries(content, view.obj.layout.word):
                    start += first + field if counts_from == FROM_FIELD else 0
                    found.append((start & view.obj.layout.highest, length))
    return sorted((start, start + length) for start, length in found if length)
