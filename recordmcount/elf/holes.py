"""Which parts of a file are no holes: a copy has them where the file has."""

import posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

FEW = 1 << 15  # bytes in which a hole would save less than it takes to find
BLOCK = 512  # bytes that st_blocks counts in
ENXIO = 6  # errno (Linux); the `errno` module is one import more


def has_holes(status: posix.stat_result) -> bool:
    """Tell whether a file of this status may have holes: nearly none has."""
    return status.st_blocks * BLOCK < status.st_size


def filled(fd: int, start: int, end: int) -> "Iterator[tuple[int, int]]":
    """Yield (start, end) of what is no hole of these bytes of an open file: they are not all 0.

    A file system that does not tell its holes has none; and in a few bytes none is looked for.
    """
    if end - start < FEW:
        yield start, end
        return
    if not has_holes(posix.fstat(fd)):
        yield start, end
        return
    while start < end:
        try:
            data = posix.lseek(fd, start, posix.SEEK_DATA)
            hole = posix.lseek(fd, data, posix.SEEK_HOLE)
        except OSError as error:
            if error.errno != ENXIO:  # which says: a hole, to the end of the file
                yield start, end
            return
        if data < end:
            yield data, min(hole, end)
        start = hole
