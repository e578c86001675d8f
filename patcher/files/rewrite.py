"""How the code of a file changes: a copy is made in which it has changed, and renamed over it.

Every site is compared in the very bytes that are copied, and nothing but the sites differs. As the
copy takes the file's place only when it is complete, one site that does not verify stops it all.
"""

from _bisect import bisect_left
from _operator import sub
from itertools import repeat
from struct import Struct

from patcher.errors import ReadError
from patcher.modify import check_shape, different

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from patcher.memory.elffile import ElfFile
    from patcher.modify import Batch

# Code is copied in pieces of this many bytes, which stay in the processor's cache meanwhile.
PIECE = 1 << 18


def rewrite(file: "ElfFile", batch: "Batch", out: str | None = None) -> None:
    """Replace the file by one with all changes of the batch, or write that to `out` instead.

    Raises ReadError, CompareError or WriteError; then no file has changed.
    """
    check_shape(file.path, batch)
    file.replace(_chunks(file, batch), out)


def _chunks(file: "ElfFile", batch: "Batch") -> "Iterator[bytes | bytearray | range]":
    """The new contents: bytes, and ranges of file offsets that stay as they are."""
    at = done = 0
    for segment in file.segments:
        first = bisect_left(batch.addresses, segment.vaddr)
        last = bisect_left(batch.addresses, segment.vaddr + segment.filesz)
        done += last - first
        end = segment.vaddr
        while first < last:
            # From where the last piece ended: every hole would cost a system call.
            start = end if batch.addresses[first] - end < PIECE else batch.addresses[first]
            end = min(start + PIECE, segment.vaddr + segment.filesz)
            after = bisect_left(batch.addresses, end, first, last)
            end = max(end, batch.addresses[after - 1] + len(batch.old[after - 1]))
            if not segment.holds(start, end - start):
                raise _outside(file, batch.addresses[after - 1])
            offset = segment.offset + start - segment.vaddr
            if at < offset:
                yield range(at, offset)
            piece = bytearray(file.object.read(offset, end - start, "code"))
            _change(piece, start, file.path, batch, range(first, after))
            yield piece
            at, first = offset + end - start, after
    if done < len(batch):
        code = [range(one.vaddr, one.vaddr + one.filesz) for one in file.segments]
        outside = (one for one in batch.addresses if not any(one in some for some in code))
        raise _outside(file, next(outside))
    yield range(at, file.object.size)


def _change(piece: bytearray, start: int, path: str, batch: "Batch", numbers: range) -> None:
    """Make the changes of these numbers in a piece of code whose first byte is at `start`."""
    some = slice(numbers.start, numbers.stop)
    old, new = batch.old[some], batch.new[some]
    places = list(map(sub, batch.addresses[some], repeat(start)))
    alike = list(map(piece.startswith, old, places))
    if not all(alike):
        number = alike.index(False)
        actual = bytes(piece[places[number] :][: len(old[number])])
        raise different(path, batch, numbers[number], actual)
    if len(set(map(len, new))) == 1:
        put = Struct(f"{len(new[0])}s").pack_into
        any(map(put, repeat(piece), places, new))  # to run through; `put` returns None
    else:
        for place, code in zip(places, new, strict=True):
            piece[place : place + len(code)] = code


def _outside(file: "ElfFile", address: int) -> ReadError:
    return ReadError(file.path, "no code from the file", address=address)
