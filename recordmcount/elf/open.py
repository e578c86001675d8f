"""Open files that should be ELF: at once, whatever they are, and none but regular ones.

And none by the number of a standard stream.
"""

import posix

from recordmcount.errors import NotRegularError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

S_IFMT, S_IFREG, S_IFDIR = 0o170000, 0o100000, 0o040000
FOLDER = "a folder", "name the files in it"
# errno values (Linux); the `errno` module is one import more.
ENXIO, EISDIR = 6, 21
# O_NONBLOCK: a FIFO must not make us wait. O_NOCTTY: a terminal must not become ours.
FLAGS = posix.O_CLOEXEC | posix.O_NONBLOCK | posix.O_NOCTTY


def keep_standard_streams() -> None:
    """See to it that no file has the number of a standard stream, before the first one is opened.

    One that is closed would give it its number, and what is said would be written into the file.
    What is put there can neither be read nor written, just as a descriptor that is closed.
    """
    try:
        while (fd := posix.open("/", posix.O_PATH)) <= 2:
            pass
        posix.close(fd)
    except OSError:  # no more descriptors: then no file can be opened either
        pass


def open_file(path: str, *, writable: bool = False) -> int:
    """Open the regular file at `path`, for reading or for both, and return its descriptor.

    Raises NotRegularError for a folder, a FIFO, a device or a socket, and OSError.
    """
    try:
        fd = posix.open(path, FLAGS | (posix.O_RDWR if writable else posix.O_RDONLY))
    except OSError as error:
        if error.errno == EISDIR:
            raise NotRegularError(path, *FOLDER) from error
        if error.errno == ENXIO:
            raise NotRegularError(path) from error
        raise
    mode = posix.fstat(fd).st_mode & S_IFMT
    if mode != S_IFREG:
        posix.close(fd)
        raise NotRegularError(path, *(FOLDER if mode == S_IFDIR else ()))
    return fd


def is_regular(status: posix.stat_result) -> bool:
    """Tell whether this is the status of a regular file."""
    return status.st_mode & S_IFMT == S_IFREG


def reader(fd: int) -> "Callable[[int, int], bytes]":
    """Make a function that reads `size` bytes at a file offset of an open file, or less at its end.

    It is what `elf.object.Object` reads by. One system call gives at most 2 GiB.
    """

    def read(offset: int, size: int) -> bytes:
        try:
            data = posix.pread(fd, size, offset)
        except OverflowError as error:  # more than any memory holds
            raise MemoryError from error
        if len(data) == size:
            return data
        pieces = [data]
        while data and (size := size - len(data)):
            offset += len(data)
            data = posix.pread(fd, size, offset)
            pieces.append(data)
        return b"".join(pieces)

    return read
