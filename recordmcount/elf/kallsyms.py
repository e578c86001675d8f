"""The symbols that a kernel carries for itself, decoded; a stripped vmlinux has no others.

They stand in read-only data without any header. Names are compressed: each is a length and so many
bytes, and each byte stands for one of 256 tokens. What has to be known is how the tables follow one
another, each aligned to a word (measured with Debian's Linux 6.1 and 6.12):

    6.1: offsets, relative_base, num_syms, names, markers, seqs_of_names, token_table, token_index
    6.12: num_syms, names, markers, token_table, token_index, offsets, relative_base, seqs_of_names

A marker is where in the names every 256th begins. Offsets, markers and num_syms have 4 bytes (older
markers a word), the base a word, an index 2 bytes; seqs_of_names, 3 bytes for each symbol, are not
always there. An offset counts up from the base; where per-CPU variables are linked to 0, one that
is not negative is an address itself, and others count down from below the base. Before there were
offsets, addresses stood in their place.

All of this is a guess until it fits together, and nothing is told of what does not. Not on the
recording path.
"""

from __future__ import annotations

import re
from _bisect import bisect_left, bisect_right
from _operator import le, sub
from _struct import pack, unpack_from
from itertools import accumulate, compress, islice

from .segments import PF_X, PT_LOAD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .segments import LoadView

TOKENS = 256
# Tokens stand for one character or more; those of digits for themselves, as every kernel has them.
DIGITS = b"".join(b"%d\0" % digit for digit in range(10))
STRIDE = 256  # names from one marker to the next
LONGEST = 512  # bytes of a token, and of a name with its type, at most (KSYM_NAME_LEN)
LONG = 0x80  # in the first byte of a length that has two, the low bits first (since 6.1)
STEPS = range(2 * STRIDE, (LONGEST + 2) * STRIDE)  # bytes from one marker to the next
SEQUENCE = 3  # bytes for each symbol in seqs_of_names
BEGINNING = "_text"  # where a kernel's code begins, and with it a segment
CODE = {*b"tT"}  # types of code
RANKS = b"TWwt"  # types of functions: global, weak, local
PRINTABLE = bytes(range(0x21, 0x7F))

# What is looked at is limited; kernels have far less of each.
WINDOW = 1 << 21  # bytes before the tokens, for markers
MOST_PLACES = 32  # that may be a table and are none
MOST_CHANCES = 3  # how many markers fewer there may be than it looks like
MOST_SYMBOLS = 1 << 20
MOST_BYTES = 1 << 26  # of all names


class Kallsyms:
    """The symbols of a kernel, as equal columns.

    `vaddrs` are link-time virtual addresses, ascending. `types` are the letters of nm(1).
    """

    __slots__ = ("vaddrs", "types", "names")

    def __init__(self, vaddrs: Sequence[int], types: bytes, names: list[str]) -> None:
        self.vaddrs = vaddrs
        self.types = types
        self.names = names

    def named(self, name: str) -> list[int]:
        """Return the link-time virtual addresses of the symbols of a name."""
        return [vaddr for vaddr, each in zip(self.vaddrs, self.names, strict=True) if each == name]


class KernelFunctions:
    """The functions among a kernel's symbols; it answers what `symbols.Functions` answers.

    How large a function is is not known here: it reaches to the next symbol, whatever the section.
    """

    def __init__(self, symbols: Kallsyms) -> None:
        self._symbols = symbols

    def most_beginnings(self) -> list[int]:
        """Return the link-time virtual addresses of functions, ascending."""
        columns = zip(self._symbols.vaddrs, self._symbols.types, strict=True)
        return [vaddr for vaddr, letter in columns if letter in RANKS]

    def more_beginnings(self) -> tuple[list[int], list[int]]:
        """Return no others, and no symbols without a type."""
        return [], []

    def at(self, _section: int, place: int, begins: int = 0) -> tuple[str | None, int]:
        """Find the function at a place: (name, bytes from its start), (None, 0) if none is.

        It ends at the latest where another one is known to begin, at `begins`.
        """
        vaddrs = self._symbols.vaddrs
        end = bisect_right(vaddrs, place)
        start = vaddrs[end - 1] if end else 0
        names = self.names(_section, start) if end and start >= begins else ()
        return (names[0], place - start) if names else (None, 0)

    def names(self, _section: int, start: int) -> tuple[str, ...]:
        """Return all names of the function that begins at a place, each once, the best first."""
        vaddrs, types = self._symbols.vaddrs, self._symbols.types
        rows = range(bisect_left(vaddrs, start), bisect_right(vaddrs, start))
        ranked = sorted((RANKS.index(types[row]), row) for row in rows if types[row] in RANKS)
        return tuple(dict.fromkeys(self._symbols.names[row] for _, row in ranked))

    def begins(self, _section: int, place: int) -> bool:
        """Tell whether a function begins at a place."""
        return bool(self.names(_section, place))


def decode(view: LoadView) -> Kallsyms | None:
    """Decode the symbols of a kernel; None where there are none, or they do not fit together.

    Raises FormatError where a segment is not in the file.
    """
    word = view.obj.layout.word
    for segment in view.segments:
        if segment.type == PT_LOAD and segment.vaddr % word == 0:
            content = view.obj.read(segment.offset, segment.filesz, "a segment")
            tokens = _token_table(content, word)
            for found in _symbols(content, tokens, word) if tokens else ():
                if _is_kernel(view, found):
                    return found
    return None


def _symbols(content: bytes, tokens: _TokenTable, word: int) -> Iterator[Kallsyms]:
    """Decode the symbols whose names are made of these tokens, in each way that may be."""
    for at, rows in _compressed_names(content, tokens.start, word):
        names = _decompressed(rows, tokens.tokens)
        if names is not None:
            types = bytes([name[0] for name in names])
            if not types.isalpha():
                continue
            told = b"\n".join([name[1:] for name in names]).decode("ascii").split("\n")
            for vaddrs in _columns(content, at - word, tokens.end, len(rows), word):
                if all(map(le, vaddrs, islice(vaddrs, 1, None))):
                    yield Kallsyms(vaddrs, types, told)


def _is_kernel(view: LoadView, symbols: Kallsyms) -> bool:
    """Tell whether the code that is named is what the file loads, and where its code begins.

    What ends with a segment may be named behind its last byte.
    """
    code = list(compress(symbols.vaddrs, map(CODE.__contains__, symbols.types)))
    loaded: set[int] = set()
    starts: set[int] = set()
    for segment in view.segments:
        if segment.type == PT_LOAD:
            end = bisect_right(code, segment.vaddr + segment.memsz)
            loaded.update(range(bisect_left(code, segment.vaddr), end))
            starts.update([segment.vaddr] if segment.flags & PF_X else [])
    return len(loaded) == len(code) and not starts.isdisjoint(symbols.named(BEGINNING))


# --- tokens ---------------------------------------------------------------------------------------


class _TokenTable:
    """The tokens; `start` and `end`, of their table with its index, are offsets in a segment."""

    __slots__ = ("tokens", "start", "end")

    def __init__(self, tokens: list[bytes], start: int, end: int) -> None:
        self.tokens = tokens
        self.start = start
        self.end = end


def _token_table(content: bytes, word: int) -> _TokenTable | None:
    """Find the first table of tokens that is followed by its index."""
    digits = -1
    for _ in range(MOST_PLACES):
        digits = content.find(DIGITS, digits + 1)
        if digits < 0:
            break
        end = digits  # of one token after the other, backwards to that of the first
        for _ in range(ord("0")):
            end = content.rfind(b"\0", max(0, end - LONGEST - 1), max(0, end))
        before = content.rfind(b"\0", max(0, end - LONGEST), max(0, end))
        for start in range(_aligned(before + 1, word), end + 1, word):
            table = _indexed(content, start, word)
            if table is not None:
                return table
    return None


def _indexed(content: bytes, start: int, word: int) -> _TokenTable | None:
    """Read the tokens from an offset on, if the index behind them says the same."""
    tokens = content[start : start + TOKENS * (LONGEST + 1)].split(b"\0", TOKENS)[:TOKENS]
    *places, end = accumulate([len(token) + 1 for token in tokens], initial=start)
    if len(places) < TOKENS or end - start >> 16 or max(map(len, tokens)) > LONGEST:
        return None
    index = pack(f"<{TOKENS}H", *[place - start for place in places])
    index_at = _aligned(end, word)
    if not content.startswith(index, index_at):
        return None
    return _TokenTable(tokens, start, _aligned(index_at + len(index), word))


# --- names ----------------------------------------------------------------------------------------


def _compressed_names(
    content: bytes, tokens_at: int, word: int
) -> Iterator[tuple[int, list[bytes]]]:
    """Find names, as they are compressed, that the markers before the tokens fit, and where."""
    for size in sorted({4, word}):
        for markers_at, markers in _markers(content, tokens_at, size):
            gap = tokens_at - markers_at - size * len(markers)
            numbers = range(STRIDE * (len(markers) - 1) + 1, STRIDE * len(markers) + 1)
            last = markers_at - markers[-1]
            places = range(last - last % word, max(word, last - STEPS.stop), -word)
            for at in [at for at in places if _number(content, at, word) in numbers][:MOST_PLACES]:
                number = _number(content, at, word)
                if 0 <= gap < word or 0 <= gap - SEQUENCE * number < 2 * word:
                    rows, end = _rows(content, at, number, markers)
                    if 0 <= markers_at - end < max(size, word):
                        yield at, rows


def _markers(content: bytes, tokens_at: int, size: int) -> Iterator[tuple[int, Sequence[int]]]:
    """Find the longest run of what may be markers, of so many bytes each: (offset, markers).

    What follows them may happen to look like more of them: it is also given without these.
    """
    start = max(tokens_at % size, tokens_at - WINDOW)
    count = (tokens_at - start) // size
    values = unpack_from(f"<{count}{'I' if size == 4 else 'Q'}", content, start)
    steps = bytes(map(STEPS.__contains__, map(sub, islice(values, 1, None), values)))
    runs = [run.span() for run in re.finditer(b"\1+", steps) if not values[run.start()]]
    first, last = max(runs, key=lambda run: run[1] - run[0], default=(0, 0))
    for end in range(last, max(first, last - MOST_CHANCES), -1):
        if end - first < MOST_SYMBOLS // STRIDE:
            yield start + size * first, values[first : end + 1]


def _number(content: bytes, names_at: int, word: int) -> int:
    """Read num_syms, in front of where names may begin."""
    return int.from_bytes(content[names_at - word : names_at - word + 4], "little")


def _rows(
    content: bytes, start: int, number: int, markers: Sequence[int]
) -> tuple[list[bytes], int]:
    """Cut names apart: (names, where the last one ends), or ([], -1) where no marker says so."""
    rows: list[bytes] = []
    at = start
    for each in range(number):
        if at >= len(content) - 1 or (not each % STRIDE and at - start != markers[each // STRIDE]):
            return [], -1
        length = content[at]
        at += 1
        if length & LONG:
            length = length - LONG | content[at] << 7
            at += 1
        rows.append(content[at : at + length])
        at += length
    return rows, at


def _decompressed(rows: list[bytes], tokens: list[bytes]) -> list[bytes] | None:
    """Put names together from tokens; None if one has no type or cannot be a name."""
    names = []
    total = 0
    for row in rows:
        if len(row) > LONGEST:
            return None
        name = b"".join([tokens[token] for token in row])
        total += len(name)
        if not 1 < len(name) <= LONGEST or total > MOST_BYTES:
            return None
        names.append(name)
    return None if b"".join(names).translate(None, PRINTABLE) else names


# --- addresses ------------------------------------------------------------------------------------


def _columns(
    content: bytes, before: int, behind: int, number: int, word: int
) -> Iterator[Sequence[int]]:
    """Read the symbols' addresses in each way that may be.

    Offsets and their base end where `before` is, or begin where `behind` is.
    """
    code, highest = "Q" if word == 8 else "I", (1 << 8 * word) - 1
    size = _aligned(4 * number, word)
    for at in (before - word - size, behind):
        if at >= 0 and at + size + word <= len(content):
            (base,) = unpack_from(f"<{code}", content, at + size)
            yield [base + offset & highest for offset in unpack_from(f"<{number}I", content, at)]
            signed = unpack_from(f"<{number}i", content, at)
            yield [each if each >= 0 else base - 1 - each & highest for each in signed]
    if before >= word * number:
        yield unpack_from(f"<{number}{code}", content, before - word * number)


def _aligned(offset: int, word: int) -> int:
    return offset + -offset % word
