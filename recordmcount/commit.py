"""Commit bytes to a file so that its path always holds the whole old or the whole new contents.

`append` writes behind the end of the file, where nothing refers to it, and then publishes it by
one write of the ELF header. (Where that will not do, `replacement` puts a new file there.) What
fails is taken back, bit for bit. Signals wait meanwhile, so that only a SIGKILL can come in
between, and that leaves the old object, at worst with bytes behind it that no header refers to.

Written data is on its way to the disk when this returns, as any compiler leaves it: a power
failure is not what this guards against.
"""

# The C module behind `signal`; `signal` itself takes longer to import than all of this package.
import _signal  # type: ignore[import-not-found]
import posix
from fcntl import LOCK_EX, flock

from .errors import OutputError, reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

HELD_SIGNALS = _signal.valid_signals()
EIO = 5  # errno (Linux); the `errno` module is one import more
# The name of a temporary: this, and so many hexadecimal digits.
TEMPORARY, DIGITS = ".recordmcount-", 16
HEXADECIMAL = frozenset("0123456789abcdef")
CAPABILITIES = "security.capability"  # an extended attribute


class SignalsHeld:
    """A `with` block in which no signal but SIGKILL and SIGSTOP arrives; they come at its end."""

    __slots__ = ("_before",)

    def __enter__(self) -> None:
        self._before = _signal.pthread_sigmask(_signal.SIG_BLOCK, HELD_SIGNALS)

    def __exit__(
        self,
        error_type: "type[BaseException] | None",
        error: "BaseException | None",
        traceback: "TracebackType | None",
    ) -> None:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, self._before)


def lock(fd: int) -> None:
    """Wait until no other run of this program changes the file, and keep others waiting.

    Two that append at once would undo each other's work. The lock ends with the descriptor.
    """
    try:
        flock(fd, LOCK_EX)
    except OSError:
        pass  # a file system without locks


def may_append(fd: int, status: posix.stat_result) -> bool:
    """Tell whether a file stays what it is if it is written to, but for its contents.

    Another name of it would name the new contents too; and of a file that is written to the kernel
    takes set-user-ID, set-group-ID and capabilities away.
    """
    if status.st_nlink > 1 or status.st_mode & 0o6000:
        return False
    try:
        return CAPABILITIES not in posix.listxattr(fd)
    except OSError:  # the file system has none
        return True


def append(path: str, fd: int, size: int, header: tuple[bytes, bytes], appended: bytes) -> None:
    """Append to the object open for writing at `fd`, `size` bytes long, and flip its ELF header.

    `header` is (old, new), of equal length. Raises OutputError; the file is then as before.
    """
    old_header, new_header = header
    touched = False
    with SignalsHeld():
        try:
            write_at(fd, size, appended)
            flush(fd)
            written = posix.pwrite(fd, new_header, 0)
            touched = True
            if written != len(new_header):
                raise OSError(EIO, "the ELF header was written in part")
            flush(fd)
        except BaseException as error:
            if touched:  # first, and if this fails the bytes it refers to must stay
                posix.pwrite(fd, old_header, 0)
            posix.ftruncate(fd, size)
            if isinstance(error, OSError):
                raise OutputError(path, reason(error)) from error
            raise


def write_at(fd: int, offset: int, data: "bytes | bytearray") -> None:
    """Write all of `data` at a file offset."""
    rest = memoryview(data)
    while rest:
        written = posix.pwrite(fd, rest, offset)
        offset += written
        rest = rest[written:]


def write_all(fd: int, data: bytes) -> None:
    """Write all of `data`, however little the system takes at a time."""
    rest = memoryview(data)
    while rest:
        rest = rest[posix.write(fd, rest) :]


def flush(fd: int) -> None:
    """Make a file system that writes on close (NFS, FUSE, quotas) report its errors now."""
    posix.close(posix.dup(fd))


def close(fd: int) -> None:
    """Close a file; what was written to it has been flushed, and its errors have been told."""
    try:
        posix.close(fd)
    except OSError:
        pass


_looked_into: set[str] = set()


def temporaries(folder: str) -> list[str]:
    """List the temporaries of `replacement` in a folder, a path that ends in "/" or nothing.

    None when asked again: a batch may write thousands of files in one folder.
    """
    if folder in _looked_into:
        return []
    _looked_into.add(folder)
    try:
        return [name for name in posix.listdir(folder or ".") if is_temporary(name)]
    except OSError:  # nobody has to be able to
        return []


def is_temporary(name: str) -> bool:
    """Tell whether a file of this name is a temporary of ours."""
    digits = name.removeprefix(TEMPORARY)
    return len(digits) == DIGITS == len(name) - len(TEMPORARY) and HEXADECIMAL.issuperset(digits)
