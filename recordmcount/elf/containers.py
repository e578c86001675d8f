"""Compressed files, decompressed in memory: modules as distributions ship them, kernel payloads.

What a file is compressed with is told by its first bytes. It is decompressed piece by piece, and
never to more than a limit allows: a few kilobytes can stand for gigabytes. Several streams, one
behind another, are one file, as they are for the formats' own programs; anything else behind the
end is refused. Libraries are imported when a file needs them. Not on the recording path.

(Formats: RFC 1952, gzip; RFC 8878, zstd; "The .xz File Format", and lzma-file-format.txt of XZ
Utils; lz4_Frame_format.md of LZ4, "Legacy frame".)
"""

from __future__ import annotations

import sys
from io import BytesIO

from recordmcount.errors import FormatError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Protocol

    class _Stream(Protocol):
        """How Python's own decompressors and that of zstd work."""

        @property
        def eof(self) -> bool: ...
        @property
        def needs_input(self) -> bool: ...
        @property
        def unused_data(self) -> bytes: ...
        def decompress(self, data: bytes, max_length: int) -> bytes: ...

    # Opens a stream; what it raises for a broken one.
    _Opened = tuple[Callable[[], _Stream], type[Exception]]


GZIP, XZ, ZSTD, BZIP2, LZMA, LZ4, LZO = "gzip", "xz", "zstd", "bzip2", "lzma", "lz4", "lzo"

LZ4_LEGACY = b"\x02\x21\x4c\x18"
MAGIC = {
    GZIP: b"\x1f\x8b",
    XZ: b"\xfd7zXZ\0",
    ZSTD: b"\x28\xb5\x2f\xfd",
    BZIP2: b"BZh",
    LZ4: LZ4_LEGACY,
    LZO: b"\x89LZO",
}
SUFFIXES = (".gz", ".xz", ".zst", ".bz2", ".lzma", ".lz4")  # that their programs add to names
START = 13  # bytes by which a format is recognized: the header of lzma, which has no magic

PIECE = 1 << 16  # bytes that are read at once
OUTPUT = 1 << 20  # bytes that are decompressed at once
# What a file may become. Kernels and modules shrink to a tenth at best.
RATIO = 64
ALWAYS, NEVER = 1 << 26, 1 << 30  # bytes: so much is never too much, and more than this always
# What a decompressor may keep of what it has given: kernels are made with at most this.
WINDOW_LOG = 27
MEMORY = (1 << WINDOW_LOG) + (1 << 22)  # for lzma: the window, and its tables
LZ4_BLOCK = 1 << 23  # bytes that one block of the legacy format holds at most


def format_of(start: bytes) -> str | None:
    """Tell what a file is compressed with that begins with these bytes, of which START are enough.

    None of one that is not compressed.
    """
    for name, magic in MAGIC.items():
        if start.startswith(magic):
            return name
    return LZMA if _is_lzma(start) else None


def limit(size: int) -> int:
    """Tell how many bytes a file of `size` bytes may become."""
    return min(max(ALWAYS, RATIO * size), NEVER)


def decompress(
    path: str, read: Callable[[int, int], bytes], start: int, end: int, most: int
) -> bytes:
    """Decompress what lies between two file offsets, to no more than `most` bytes.

    `read` gives so many bytes at a file offset, or less at its end. Raises FormatError for what is
    broken, cut short, or too large.
    """
    content = BytesIO()
    for piece in _pieces(path, read, start, end, OUTPUT):
        if content.tell() + len(piece) > most:
            what = f"larger than {most} bytes when decompressed: refused"
            raise FormatError(path, f"{format_of(read(start, START))}: {what}")
        content.write(piece)
    return content.getvalue()


def first(path: str, read: Callable[[int, int], bytes], size: int, count: int) -> bytes:
    """Decompress the first `count` bytes of a compressed file of `size` bytes, or less at its end.

    Raises FormatError as `decompress` does.
    """
    content = b""
    for piece in _pieces(path, read, 0, size, count):
        content += piece
        if len(content) >= count:
            break
    return content[:count]


def _pieces(
    path: str, read: Callable[[int, int], bytes], start: int, end: int, at_once: int
) -> Iterator[bytes]:
    """Decompress in pieces of `at_once` bytes, or of whole blocks."""
    name = format_of(read(start, START))
    source = _Source(path, read, start, end)
    if name is None:
        raise FormatError(path, "compressed in no way that is known")
    if name == LZO:
        raise FormatError(path, f"compressed by {name}, which is not supported")
    try:
        yield from _lz4_blocks(source) if name == LZ4 else _streams(source, name, at_once)
    except ImportError as error:  # a dependency, or a Python that was built without it
        raise FormatError(path, f"{name}: {error}") from error


class _Source:
    """A range of a file, taken from its start to its end."""

    def __init__(self, path: str, read: Callable[[int, int], bytes], start: int, end: int) -> None:
        self.path = path
        self._read = read
        self._at = start
        self._end = end

    def take(self, size: int) -> bytes:
        """Read the next `size` bytes, or less at the end."""
        data = self._read(self._at, min(size, self._end - self._at))
        self._at += len(data)
        return data


def _streams(source: _Source, name: str, at_once: int) -> Iterator[bytes]:
    """Decompress stream after stream, in pieces of `at_once` bytes at most."""
    new, error_type = _OPENERS[name]()
    data = source.take(PIECE)
    while data:
        if format_of(data) != name and not (name == ZSTD and _is_skippable(data)):
            raise FormatError(source.path, f"{name}: garbage behind its end")
        stream = new()
        while not stream.eof:
            if stream.needs_input and not data:
                data = source.take(PIECE)
                if not data:
                    raise FormatError(source.path, f"{name}: truncated")
            try:
                yield stream.decompress(data, at_once)
            except error_type as error:
                raise FormatError(source.path, f"{name}: {_words(error)}") from error
            data = b""
        data = _next_stream(source, stream.unused_data, name)


def _next_stream(source: _Source, data: bytes, name: str) -> bytes:
    """Take enough of what follows a stream to recognize another one; b"" at the end.

    Behind gzip and xz there may be zeros: tapes and devices have blocks.
    """
    while True:
        if len(data) < START:
            data += source.take(PIECE)
        if name not in (GZIP, XZ) or not data.startswith(b"\0"):
            return data
        data = data.lstrip(b"\0")


def _words(error: Exception) -> str:
    """Return a library's words, as the end of a line."""
    words = str(error).rpartition(": ")[2]
    return words[:1].lower() + words[1:]


def _is_lzma(start: bytes) -> bool:
    """Tell whether this may be a header of lzma: properties, a dictionary's size, and a size.

    As XZ Utils do it: dictionaries are of 2**n or 2**n + 2**(n-1) bytes, and files of less than
    2**38, or it is not known how many.
    """
    window = int.from_bytes(start[1:5], "little")
    size = int.from_bytes(start[5:13], "little")
    lowest = window & -window
    return (
        len(start) >= START
        and start[0] == 0x5D
        and lowest >= 1 << 12
        and window in (lowest, 3 * lowest)
        and (size < 1 << 38 or size == (1 << 64) - 1)
    )


def _is_skippable(start: bytes) -> bool:
    """Tell whether a frame begins here that zstd leaves out (RFC 8878, 3.1.2)."""
    return start[:1] in (b"%c" % low for low in range(0x50, 0x60)) and start[1:4] == b"\x2a\x4d\x18"


# --- formats --------------------------------------------------------------------------------------


class _Gzip:
    """zlib's decompressor with the interface that all others have."""

    def __init__(self) -> None:
        import zlib

        self._zlib = zlib.decompressobj(16 + zlib.MAX_WBITS)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        piece = self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)
        self.needs_input = not self._zlib.unconsumed_tail and len(piece) < max_length
        return piece


def _gzip() -> _Opened:
    import zlib

    return _Gzip, zlib.error


def _xz() -> _Opened:
    import lzma

    return lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, MEMORY), lzma.LZMAError


def _lzma() -> _Opened:
    import lzma

    return lambda: lzma.LZMADecompressor(lzma.FORMAT_ALONE, MEMORY), lzma.LZMAError


def _bzip2() -> _Opened:
    import bz2

    return bz2.BZ2Decompressor, OSError


def zstd() -> _Opened:
    """Give what opens a stream of zstd, within the window that is allowed; raises ImportError."""
    if sys.version_info >= (3, 14):
        from compression import zstd as library
    else:
        from backports import zstd as library

    options: dict[int, int] = {library.DecompressionParameter.window_log_max: WINDOW_LOG}
    return lambda: library.ZstdDecompressor(options=options), library.ZstdError


_OPENERS: dict[str, Callable[[], _Opened]] = {
    GZIP: _gzip, XZ: _xz, LZMA: _lzma, BZIP2: _bzip2, ZSTD: zstd,
}  # fmt: skip


def _lz4_blocks(source: _Source) -> Iterator[bytes]:
    """Decompress LZ4's legacy format: blocks behind their sizes, up to the end of the file."""
    from lz4 import block

    largest = LZ4_BLOCK + LZ4_BLOCK // 255 + 16  # LZ4_COMPRESSBOUND
    source.take(len(LZ4_LEGACY))
    while size := source.take(4):
        if size == LZ4_LEGACY:  # another file begins
            continue
        length = int.from_bytes(size, "little")
        data = source.take(length) if len(size) == 4 and length <= largest else b""
        if not length or len(data) < length:
            what = "garbage behind its end" if length > largest else "truncated"
            raise FormatError(source.path, f"{LZ4}: {what}")
        try:
            yield block.decompress(data, uncompressed_size=LZ4_BLOCK)
        except block.LZ4BlockError as error:
            raise FormatError(source.path, f"{LZ4}: corrupt input data") from error
