"""Put a new file in the place of another: a temporary is written beside it and renamed over.

`replace` changes a file, `output` writes another one (-o). Who may read what follows from the
kernel's decisions alone: it follows links, and makes new files. What fails leaves the old file, and
no temporary. Only a SIGKILL leaves one; the next run in that folder removes it once it is old.
"""

import posix
from fcntl import LOCK_EX, LOCK_NB, flock

from .commit import (
    CAPABILITIES,
    DIGITS,
    TEMPORARY,
    SignalsHeld,
    close,
    flush,
    lock,
    temporaries,
    write_at,
)
from .elf import holes
from .elf.open import FLAGS, is_regular, reader
from .errors import NotRegularError, OutputError, reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    # Gives, for a folder and a mode, the descriptor of a whole copy of the source, one that has no
    # name and was made there and so; -1 if there is none.
    Early = Callable[[str, int], int]

# Seconds after which a temporary that no run has locked is taken for left behind.
OLD = 3600
ACL = "system.posix_acl_access"
CHANGED = "was changed by another program meanwhile"
# errno values (Linux); the `errno` module is one import more.
EPERM, ENOENT, EIO, EOPNOTSUPP = 1, 2, 5, 95
PRIVATE = 0o600  # the mode of what takes over that of another file later
COPY_SIZE = 1 << 20  # bytes that are copied at once


def replace(
    path: str,
    source: int,
    fill: "Callable[[int], object]",
    before: "posix.stat_result | None" = None,
    early: "Early | None" = None,
) -> None:
    """Put what `fill` writes in the place of `path`, the file that is open at `source`.

    `fill` is given the descriptor of an empty file, or of the `early` copy of the source. Mode,
    owner and attributes stay. A symlink is followed, a hard link is broken. `path` must still be
    that file, unchanged since `before`, its status when it was read (if None, its status now):
    nobody else's work is lost, but for what is done between that last look and the rename. Raises
    OutputError; then the old file stands.
    """

    def unchanged() -> bool:
        return _identity(posix.stat(target, follow_symlinks=False)) == _identity(seen)

    try:
        seen = before or posix.fstat(source)
        target = _real_name(path, seen)
        _put(
            path, target, PRIVATE, fill, lambda fd: _take_over(source, fd, whole=True), unchanged,
            early=early,
        )  # fmt: skip
    except OSError as error:
        raise OutputError(path, reason(error)) from error


def output(
    path: str,
    source: int,
    fill: "Callable[[int], object]",
    before: "posix.stat_result | None" = None,
    early: "Early | None" = None,
) -> None:
    """Put what `fill` makes of the file open at `source` at `path`, as `cp` would.

    A file that is there keeps owner, mode and attributes; but not what lets it run with the rights
    of others, for those were trusted with other contents. A new one has the permissions of the
    source, less the umask. `source` must not have changed since `before`, as in `replace`. Raises
    NotRegularError if `path` is no regular file, and OutputError; then what was there stands.
    """

    def unchanged() -> bool:
        return _identity(posix.fstat(source)) == _identity(seen)

    there = -1
    try:
        seen = before or posix.fstat(source)
        mode = _mode_of_new(seen)
        with SignalsHeld():  # what is made behind a link must not stay
            target, there = _opened(path, mode)
        if there < 0:
            _put(path, target, mode, fill, None, unchanged, early=early)
        else:
            _put(
                path, target, PRIVATE, fill, lambda fd: _take_over(there, fd), unchanged,
                early=early,
            )  # fmt: skip
    except OSError as error:
        raise OutputError(path, reason(error)) from error
    finally:
        if there >= 0:
            close(there)


def _put(
    path: str,
    target: str,
    mode: int,
    fill: "Callable[[int], object]",
    finish: "Callable[[int], object] | None",
    unchanged: "Callable[[], bool]",
    *,
    early: "Early | None",
) -> None:
    """Put a new file at `target`, which is no link: filled, finished, and then seen by others."""
    name, slash, _ = target.rpartition("/")
    folder = name + slash
    temporary = f"{folder}{TEMPORARY}{posix.urandom(DIGITS // 2).hex()}"
    with SignalsHeld():
        copy = early(folder, mode) if early else -1
        fd = _make(temporary, mode) if copy < 0 else _name(copy, temporary, mode)
        try:
            lock(fd)
            clean(folder, temporaries(folder), posix.fstat(fd))
            fill(fd)
            if finish:
                finish(fd)
            flush(fd)
            if not unchanged():
                raise OutputError(path, CHANGED)
            posix.rename(temporary, target)
        except BaseException:
            posix.unlink(temporary)
            raise
        finally:
            close(fd)  # and with it the lock: until then the temporary is ours


def _make(temporary: str, mode: int) -> int:
    flags = posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_NOFOLLOW | posix.O_CLOEXEC
    return posix.open(temporary, flags, mode)


def _name(copy: int, temporary: str, mode: int) -> int:
    """Give an early copy its name; where that cannot be (without /proc), make an empty file."""
    try:
        # With src_dir_fd Python calls linkat(2), which can follow this link; link(2) would not.
        posix.link(f"/proc/self/fd/{copy}", temporary, src_dir_fd=copy)
    except OSError:
        posix.close(copy)
        return _make(temporary, mode)
    return copy


# --- what it has of the old one -------------------------------------------------------------------


def copy(
    source: int,
    target: int,
    parts: "Iterable[bytes | tuple[int, int]]",
    edits: "Iterable[tuple[int, bytes]]" = (),
) -> None:
    """Fill the empty file `target` with `parts`, bytes or the (start, end) of some of `source`.

    Then `edits` are made in it: (file offset, bytes that take the place of as many). What is a
    hole in the old file is one in the new one. Raises OSError.
    """
    start = size = 0
    waiting = bytearray()  # what is written next, at `start`: small parts are written together
    for at, data in _pieces(source, parts):
        if at != size or len(waiting) >= COPY_SIZE:
            write_at(target, start, waiting)
            start, waiting = at, bytearray()
        waiting += data
        size = at + len(data)
    write_at(target, start, waiting)
    for offset, data in edits:
        write_at(target, offset, data)
    posix.ftruncate(target, size)  # it may end in a hole


def _pieces(
    source: int, parts: "Iterable[bytes | tuple[int, int]]"
) -> "Iterator[tuple[int, bytes]]":
    """Yield (new file offset, bytes) of what is no hole, and at last the end, with none."""
    read = reader(source)
    place = 0
    for part in parts:
        if isinstance(part, bytes):
            yield place, part
            place += len(part)
            continue
        start, last = part
        for first, end in holes.filled(source, start, last):
            for at in range(first, end, COPY_SIZE):
                data = read(at, min(COPY_SIZE, end - at))
                if len(data) < min(COPY_SIZE, end - at):
                    raise OSError(EIO, "the file shrank while it was read")
                yield place + at - start, data
        place += last - start
    yield place, b""


# --- where it goes --------------------------------------------------------------------------------


def _opened(path: str, mode: int) -> tuple[str, int]:
    """Open what is at `path` for another file to take its place: (its own name, descriptor).

    The descriptor is -1 where there is nothing. The kernel follows the links, and may refuse to
    (fs.protected_symlinks); with O_CREAT it also guards others' files (fs.protected_regular).
    """
    try:
        if not is_regular(posix.stat(path)):
            raise NotRegularError(path)
        is_there = True
    except OSError as error:
        if error.errno != ENOENT:
            raise
        is_there = False
    if not is_there and not is_link(path):
        return path, -1
    fd = posix.open(path, FLAGS | posix.O_RDONLY | posix.O_CREAT, mode)
    try:
        status = posix.fstat(fd)
        name = _real_name(path, status)
        if not is_there and not status.st_size:  # made behind a link, to learn where: never seen
            posix.unlink(name)
    except BaseException:
        posix.close(fd)
        raise
    return name, fd


def mode_of_output(path: str, status: posix.stat_result) -> int:
    """Tell how `output` makes a file at `path` of one with this status, by what is there now."""
    try:
        posix.stat(path)
    except OSError:
        return _mode_of_new(status)
    return PRIVATE


def _mode_of_new(status: posix.stat_result) -> int:
    return status.st_mode & 0o777


def is_link(path: str) -> bool:
    """Tell whether a symlink is at `path`."""
    try:
        posix.readlink(path)
    except OSError:  # no link, or not there
        return False
    return True


def _real_name(path: str, status: posix.stat_result) -> str:
    """Return the name, after every symlink, of the file with this status, found at `path`.

    It is that of the file which the kernel has opened, or OutputError is raised.
    """
    if not is_link(path):
        return path
    from os.path import realpath  # rarely needed, and slow to import

    name = realpath(path)
    found = posix.stat(name, follow_symlinks=False)
    if (found.st_dev, found.st_ino) != (status.st_dev, status.st_ino):
        raise OutputError(path, CHANGED)
    return name


# --- who may do what with it ----------------------------------------------------------------------


def _take_over(like: int, target: int, *, whole: bool = False) -> None:
    """Give `target`, which only its owner may use, owner, attributes and mode of `like`.

    In an order in which nobody may read it at any time who may not read `like`: what it inherited
    from its folder goes first, and the mode, which an ACL limits, comes last. With `whole` also
    what lets it run with the rights of others.
    """
    want = posix.fstat(like)
    mode = want.st_mode & (0o7777 if whole else 0o777)
    attributes = {name: posix.getxattr(like, name) for name in _attribute_names(like)}
    if not whole:
        attributes.pop(CAPABILITIES, None)
    inherited = _attribute_names(target)
    if ACL in inherited:
        posix.removexattr(target, ACL)
    try:
        have = posix.fstat(target)
        if (want.st_uid, want.st_gid) != (have.st_uid, have.st_gid):
            posix.fchown(target, want.st_uid, want.st_gid)
    except OSError:
        if whole:
            raise
        # It becomes one's own, and the others whoever they are may do what all of them could.
        attributes, mode = {}, mode & 0o700 | (mode >> 3 & mode & 7) * 0o11
    for name, value in attributes.items():
        # A label that it has already (SELinux) is not everybody's to give.
        if name == ACL or name not in inherited or posix.getxattr(target, name) != value:
            posix.setxattr(target, name, value)
    posix.fchmod(target, mode)
    if mode & ~posix.fstat(target).st_mode & 0o6000:  # so the kernel decides, without a word
        raise OSError(EPERM, "set-user-ID or set-group-ID would be lost")


def _attribute_names(fd: int) -> list[str]:
    try:
        return posix.listxattr(fd)
    except OSError as error:
        if error.errno == EOPNOTSUPP:  # this file system has none
            return []
        raise


def _identity(status: posix.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


# --- what was left behind -------------------------------------------------------------------------


def clean(folder: str, names: "Iterable[str]", new: posix.stat_result) -> None:
    """Remove those of these temporaries in a folder that killed runs of this user have left there.

    `new` is the status of a file just written: its time is now, by the clock of that file system.
    """
    for name in names:
        try:
            _remove(folder + name, new)
        except OSError:
            pass  # it is being written, or somebody else was here


def _remove(path: str, new: posix.stat_result) -> None:
    """Remove a temporary if it is old and no run holds its lock; OSError if one does."""
    status = posix.stat(path, follow_symlinks=False)
    ours = is_regular(status) and status.st_nlink == 1 and status.st_uid == posix.geteuid()
    if not ours or status.st_mtime > new.st_mtime - OLD:
        return
    fd = posix.open(path, FLAGS | posix.O_RDONLY | posix.O_NOFOLLOW)
    try:
        flock(fd, LOCK_EX | LOCK_NB)
        if _identity(posix.fstat(fd)) == _identity(status):
            posix.unlink(path)
    finally:
        posix.close(fd)
