"""How the code of a file changes: a copy is made in which it has changed, and renamed over it.

Every site is compared in the very bytes that are copied, and nothing but the sites differs. As the
copy takes the file's place only when it is complete, one site that does not verify stops it all.
(Several processes would be slower: the kernel has one write to a file at a time.)
"""

from __future__ import annotations

import posix
from _bisect import bisect_left
from _operator import sub
from _struct import Struct
from itertools import repeat

from patcher.errors import ReadError
from patcher.modify import check_shape, different
from recordmcount.commit import write_at
from recordmcount.elf.holes import filled

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from patcher.memory.elffile import ElfFile
    from patcher.modify import Batch

# Code is copied in pieces of this many bytes, which stay in the processor's cache meanwhile.
PIECE = 1 << 18
# What holds no site, in pieces of this many.
LARGE_PIECE = 1 << 20


class Piece:
    """Some of the file from file offset `offset` on: `size` bytes, the first of them at `address`.

    `numbers` are those of the changes in it.
    """

    __slots__ = ("offset", "size", "address", "numbers")

    def __init__(self, offset: int, size: int, address: int = 0, numbers: range = range(0)) -> None:
        self.offset = offset
        self.size = size
        self.address = address
        self.numbers = numbers


def rewrite(file: ElfFile, batch: Batch, out: str | None = None) -> None:
    """Replace the file by one with all changes of the batch, or write that to `out` instead.

    Raises ReadError, CompareError or WriteError; then no file has changed.
    """
    check_shape(file.path, batch)
    pieces = list(_pieces(file, batch))
    file.replace(lambda target: _fill(target, file, batch, pieces), out)


def _fill(target: int, file: ElfFile, batch: Batch, pieces: list[Piece]) -> None:
    """Write all pieces to `target`, an empty file; to a copy those that change."""
    is_copy = posix.fstat(target).st_size == file.object.size
    posix.ftruncate(target, file.object.size)  # it may end in a hole
    for piece in pieces:
        if is_copy and not piece.numbers:
            continue
        content = file.object.read(piece.offset, piece.size, "the file")
        changed = _changed(content, piece, file.path, batch) if piece.numbers else content
        write_at(target, piece.offset, changed)


# --- pieces ---------------------------------------------------------------------------------------


def _pieces(file: ElfFile, batch: Batch) -> Iterator[Piece]:
    """Return the whole file, cut so that each site is in one piece."""
    at = done = 0
    for span in file.spans:
        first = bisect_left(batch.addresses, span.address)
        last = bisect_left(batch.addresses, span.end)
        done += last - first
        end = span.address
        while first < last:
            # From where the last piece ended: every hole would cost a system call.
            start = end if batch.addresses[first] - end < PIECE else batch.addresses[first]
            end = min(start + PIECE, span.end)
            after = bisect_left(batch.addresses, end, first, last)
            end = max(end, batch.addresses[after - 1] + len(batch.old[after - 1]))
            if not span.holds(start, end - start):
                raise _outside(file, batch.addresses[after - 1])
            offset = span.offset_of(start)
            yield from _unchanged(file, at, offset)
            yield Piece(offset, end - start, start, range(first, after))
            at, first = offset + end - start, after
    if done < len(batch):
        outside = (
            one for one in batch.addresses if not any(span.holds(one, 1) for span in file.spans)
        )
        raise _outside(file, next(outside))
    yield from _unchanged(file, at, file.object.size)


def _unchanged(file: ElfFile, start: int, end: int) -> Iterator[Piece]:
    """Cut what holds no site; holes are left out."""
    for first, last in filled(file.fd, start, end):
        for at in range(first, last, LARGE_PIECE):
            yield Piece(at, min(LARGE_PIECE, last - at))


def _outside(file: ElfFile, address: int) -> ReadError:
    return ReadError(file.path, "no code from the file", address=address)


# --- one piece ------------------------------------------------------------------------------------


def _changed(content: bytes, piece: Piece, path: str, batch: Batch) -> bytearray:
    """Return the code of a piece with its changes. Raises CompareError."""
    code = bytearray(content)
    some = slice(piece.numbers.start, piece.numbers.stop)
    old, new = batch.old[some], batch.new[some]
    places = list(map(sub, batch.addresses[some], repeat(piece.address)))
    if not all(map(code.startswith, old, places)):
        number = [*map(code.startswith, old, places)].index(False)
        actual = bytes(code[places[number] :][: len(old[number])])
        raise different(path, batch, piece.numbers[number], actual)
    if len(set(map(len, new))) == 1:
        put = Struct(f"{len(new[0])}s").pack_into
        any(map(put, repeat(code), places, new))  # to run through; `put` returns None
    else:
        for place, each in zip(places, new, strict=True):
            code[place : place + len(each)] = each
    return code
