"""Commit bytes to a file so that its path always holds the whole old or the whole new contents.

`append` writes behind the end of the file, where nothing refers to it, and then publishes it by
one write of the ELF header. `replace` writes a temporary beside the file and renames it over.
What fails is taken back, bit for bit. Signals wait meanwhile, so that only a SIGKILL can come in
between, and that leaves the old object, at worst with bytes behind it that no header refers to.

Written data is on its way to the disk when this returns, as any compiler leaves it: a power
failure is not what this guards against.
"""

# The C module behind `signal`; `signal` itself takes longer to import than all of this package.
import _signal  # type: ignore[import-not-found]
import posix
from fcntl import LOCK_EX, flock

from .elf.open import is_regular
from .errors import NotRegularError, OutputError, reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType

    from .elf.object import Object

COPY_SIZE = 1 << 20
HELD_SIGNALS = _signal.valid_signals()
# errno values (Linux); the `errno` module is one import more.
ENOENT, EIO, EOPNOTSUPP = 2, 5, 95


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


def append(path: str, fd: int, size: int, header: tuple[bytes, bytes], appended: bytes) -> None:
    """Append to the object open for writing at `fd`, `size` bytes long, and flip its ELF header.

    `header` is (old, new), of equal length. Raises OutputError; the file is then as before.
    """
    old_header, new_header = header
    touched = False
    with SignalsHeld():
        try:
            write_at(fd, size, appended)
            _flush(fd)
            written = posix.pwrite(fd, new_header, 0)
            touched = True
            if written != len(new_header):
                raise OSError(EIO, "the ELF header was written in part")
            _flush(fd)
        except OSError as error:
            if touched:  # first, and if this fails the bytes it refers to must stay
                posix.pwrite(fd, old_header, 0)
            posix.ftruncate(fd, size)
            raise OutputError(path, reason(error)) from error


def replace(
    path: str,
    like: int,
    fill: "Callable[[int], object]",
    *,
    owner: bool = True,
    before: "posix.stat_result | None" = None,
) -> None:
    """Put what `fill` writes in the place of `path`, with mode, owner and attributes of `like`.

    `fill` is given the descriptor of an empty file, `like` is that of an open one. A symlink is
    followed, a hard link is broken. Without `owner` the file is a new one of the user's own and
    only the permissions are taken over. With it, `path` must still be the file of `like`,
    unchanged since `before`, its status when it was read (if None, its status now): nobody else's
    work is lost, but for what is done between that last look and the rename. Raises OutputError;
    then the old file stands and no temporary is left.
    """
    try:
        before = before or posix.fstat(like)
        target = _resolve(path)
        if not may_replace(target):
            raise NotRegularError(path)
    except OSError as error:
        raise OutputError(path, reason(error)) from error
    folder, slash, _ = target.rpartition("/")
    temporary = f"{folder}{slash}.recordmcount-{posix.urandom(8).hex()}"
    flags = posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_NOFOLLOW | posix.O_CLOEXEC
    with SignalsHeld():
        created = False
        try:
            fd = posix.open(temporary, flags, 0o600)
            created = True
            try:
                fill(fd)
                _copy_attributes(like, fd, owner)
            except BaseException:
                posix.close(fd)
                raise
            posix.close(fd)
            if owner and _identity(posix.stat(target)) != _identity(before):
                raise OutputError(path, "was changed by another program meanwhile")
            posix.rename(temporary, target)
        except BaseException as error:
            if created:
                posix.unlink(temporary)
            if isinstance(error, OSError):
                raise OutputError(path, reason(error)) from error
            raise


def patched(
    obj: "Object", edits: "Iterable[tuple[int, bytes]]", appended: bytes = b""
) -> "Iterator[bytes]":
    """Yield the new contents of a file: the old ones with `edits`, then `appended`.

    An edit is (file offset, bytes that take the place of as many); they ascend and are disjoint.
    """
    at = 0
    for offset, data in edits:
        yield from _copied(obj, at, offset)
        yield data
        at = offset + len(data)
    yield from _copied(obj, at, obj.size)
    yield appended


def _copied(obj: "Object", start: int, end: int) -> "Iterator[bytes]":
    for at in range(start, end, COPY_SIZE):
        yield obj.read(at, min(COPY_SIZE, end - at), "the file")


def write_at(fd: int, offset: int, data: "bytes | bytearray") -> None:
    """Write all of `data` at a file offset."""
    rest = memoryview(data)
    while rest:
        written = posix.pwrite(fd, rest, offset)
        offset += written
        rest = rest[written:]


def write_each(fd: int, chunks: "Iterable[bytes]") -> None:
    """Write all of each chunk."""
    for chunk in chunks:
        write_all(fd, chunk)


def write_all(fd: int, data: bytes) -> None:
    """Write all of `data`, however little the system takes at a time."""
    rest = memoryview(data)
    while rest:
        rest = rest[posix.write(fd, rest) :]


def _flush(fd: int) -> None:
    """Make a file system that writes on close (NFS, FUSE, quotas) report its errors now."""
    posix.close(posix.dup(fd))


def _copy_attributes(source: int, target: int, owner: bool) -> None:
    want, have = posix.fstat(source), posix.fstat(target)
    if owner:
        if (want.st_uid, want.st_gid) != (have.st_uid, have.st_gid):
            posix.fchown(target, want.st_uid, want.st_gid)
        for name in _attribute_names(source):
            posix.setxattr(target, name, posix.getxattr(source, name))
    # Whose file it was is what a set-user-ID bit was trusted for.
    posix.fchmod(target, want.st_mode & (0o7777 if owner else 0o777))


def _attribute_names(fd: int) -> list[str]:
    try:
        return posix.listxattr(fd)
    except OSError as error:
        if error.errno == EOPNOTSUPP:  # this file system has none
            return []
        raise


def _identity(status: posix.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


def _resolve(path: str) -> str:
    """Return the file that `path` names after every symlink; it need not exist."""
    try:
        posix.readlink(path)
    except OSError:  # no link, or not there yet
        return path
    from os.path import realpath  # rarely needed, and slow to import

    return realpath(path)


def may_replace(path: str) -> bool:
    """Tell whether a regular file stands at `path`, or nothing yet: what a rename may replace."""
    try:
        return is_regular(posix.stat(path))
    except OSError as error:
        if error.errno == ENOENT:
            return True
        raise
