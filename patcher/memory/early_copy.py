"""A copy of a file that the kernel makes while it is not yet known what has to change in it.

It has no name (O_TMPFILE): nobody sees it, and nothing stays of it if it is not used, even after a
SIGKILL. One system call makes it. A thread that needed the interpreter for each piece would wait
for it, most of the time.
"""

from __future__ import annotations

import posix
from _thread import allocate_lock, start_new_thread

from recordmcount.commit import SignalsHeld
from recordmcount.elf.holes import has_holes
from recordmcount.replacement import PRIVATE, is_link, mode_of_output

LEAST = 1 << 20  # bytes: a smaller file is copied in the time that a thread takes
AT_ONCE = 1 << 27  # bytes: who needs the copy no more waits for these
# A Python that was built with an old C library lacks these, whatever it runs with.
NEEDED = ("O_TMPFILE", "copy_file_range")


def begin(
    source: int, status: posix.stat_result, path: str, *, is_output: bool
) -> EarlyCopy | None:
    """Start to copy the file that is open at `source` and has this status, for one at `path`.

    None where it cannot be, or would not be worth it.
    """
    if status.st_size < LEAST or has_holes(status) or is_link(path):
        return None
    if not all(hasattr(posix, each) for each in NEEDED):
        return None
    folder, slash, _ = path.rpartition("/")
    mode = mode_of_output(path, status) if is_output else PRIVATE
    try:
        return EarlyCopy(source, status.st_size, folder + slash, mode)
    except (OSError, RuntimeError):  # not on this file system, or no thread
        return None


class EarlyCopy:
    """A copy of the `size` bytes of the file that is open at `source`, made by a thread.

    It is in `folder`, a path that ends in "/" or nothing, and was made with `mode`. Raises OSError
    or RuntimeError. It has to be closed before the source is.
    """

    def __init__(self, source: int, size: int, folder: str, mode: int) -> None:
        self._source = source
        self._size = size
        self._place = _place(folder, mode)
        self._copied = 0
        self._is_wanted = True
        self._running = allocate_lock()
        flags = posix.O_TMPFILE | posix.O_WRONLY | posix.O_CLOEXEC
        self._fd = posix.open(folder or ".", flags, mode)
        try:
            _require_umask(self._fd)
            with SignalsHeld():  # in the thread they stay so: all are for the main thread
                self._start()
        except BaseException:  # of a signal, too: then the thread has started, and uses them
            self.close()
            raise

    def take(self, folder: str, mode: int) -> int:
        """Wait for the copy, and give its descriptor away; -1 if there is none of this place."""
        with self._running:
            if self._copied == self._size and self._place == _place(folder, mode):
                fd, self._fd = self._fd, -1
                return fd
        self.close()  # what is written instead may need its room
        return -1

    def close(self) -> None:
        """Let go of the copy, if nobody has taken it."""
        self._is_wanted = False
        with self._running:
            if self._fd >= 0:
                posix.close(self._fd)
                self._fd = -1

    def _start(self) -> None:
        self._running.acquire()
        try:
            start_new_thread(self._run, ())
        except BaseException:
            self._running.release()
            raise

    def _run(self) -> None:
        try:
            while self._is_wanted and self._copied < self._size:
                at = self._copied
                size = min(AT_ONCE, self._size - at)
                copied = posix.copy_file_range(self._source, self._fd, size, at, at)
                if not copied:  # the file shrank
                    return
                self._copied += copied
        except OSError:  # no room, or two file systems: what comes later will tell
            pass
        finally:
            self._running.release()


def _place(folder: str, mode: int) -> tuple[str, int, int, int]:
    """Tell how a file in a folder is made: its default ACL, and its group, may be the folder's."""
    status = posix.stat(folder or ".")
    return folder, mode, status.st_dev, status.st_ino


def _require_umask(fd: int) -> None:
    """Raise OSError if a file was made with permissions that the umask takes away.

    Where there are no ACLs, Linux before 6.0 does so with O_TMPFILE (fixed by ac6800e279a2); a
    default ACL does so too, and rightly, but cannot be told from that.
    """
    umask = posix.umask(0o077)
    posix.umask(umask)
    if posix.fstat(fd).st_mode & umask:
        raise OSError("made without the umask")
