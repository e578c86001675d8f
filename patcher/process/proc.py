"""/proc/PID: a process by its folder there, which never becomes that of another process.

When the process has ended, and even if another one has its number by then, everything that is read
through an open folder raises ProcessLookupError.
"""

from __future__ import annotations

import os
from errno import ENOENT, ESRCH
from typing import NamedTuple

from patcher.closing import Closing

PF_KTHREAD = 0x00200000
PF_IO_WORKER, PF_USER_WORKER = 0x10, 0x4000  # io_uring's; of any other sort since Linux 6.4
STATES = {
    "R": "running",
    "S": "sleeping",
    "D": "in an uninterruptible wait",
    "T": "stopped",
    "t": "stopped by a tracer",
    "Z": "a zombie",
    "X": "dead",
    "I": "idle",
    "P": "parked",
}


class Stat(NamedTuple):
    """Some of /proc/PID/stat. `state` is a key of STATES, `start` is in clock ticks since boot.

    `heap` is the run-time address where the heap begins, or would; 0 for who may not trace it.
    """

    name: str
    state: str
    parent: int
    flags: int
    threads: int
    start: int
    heap: int

    @property
    def is_worker(self) -> bool:
        """Whether it is a thread that the kernel has in a process, as io_uring's do."""
        return bool(self.flags & (PF_IO_WORKER | PF_USER_WORKER))

    @property
    def is_kernel_thread(self) -> bool:
        """Whether it has no code of its own."""
        return bool(self.flags & PF_KTHREAD)

    @property
    def is_ended(self) -> bool:
        """Whether it will execute nothing any more."""
        return self.state in "ZX"


class Proc(Closing):
    """The folder of process `pid`, open during its `with`. Raises OSError if there is none."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        try:
            self._folder = os.open(f"/proc/{pid}", os.O_DIRECTORY | os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise _gone(pid) from error

    def close(self) -> None:
        """Close the folder."""
        os.close(self._folder)

    def open(self, name: str, flags: int = os.O_RDONLY) -> int:
        """Open what has this name in the folder; returns the descriptor."""
        try:
            return os.open(name, flags | os.O_CLOEXEC, dir_fd=self._folder)
        except FileNotFoundError as error:
            raise self._missing(error, name) from error

    def read(self, name: str) -> bytes:
        """Read all of what has this name in the folder."""
        with open(self.open(name), "rb", buffering=0) as stream:
            return stream.read()

    def open_by_thread(self, name: str, flags: int = os.O_RDONLY) -> int:
        """Open it in the folder of a thread that is alive: an ended leader has no memory."""
        for tid in self.threads():
            try:
                return self.open(f"task/{tid}/{name}", flags)
            except OSError as error:
                if not is_missing(error):
                    raise
        raise _gone(self.pid)

    def read_by_thread(self, name: str) -> bytes:
        """Read it in the folder of a thread that is alive; empty if there is none."""
        for tid in self.threads():
            try:
                content = self.read(f"task/{tid}/{name}")
            except OSError as error:
                if not is_missing(error):
                    raise
                continue
            if content:
                return content
        return b""

    def link(self, name: str) -> str:
        """Tell where a link leads, as the kernel spells it."""
        try:
            return os.readlink(name, dir_fd=self._folder)
        except FileNotFoundError as error:
            raise self._missing(error, name) from error

    def file_status(self, name: str) -> os.stat_result:
        """Return the status of the file to which a name leads."""
        return os.stat(name, dir_fd=self._folder)

    def exists(self, name: str) -> bool:
        """Tell whether there is such a name in the folder."""
        try:
            os.stat(name, dir_fd=self._folder, follow_symlinks=False)
        except (FileNotFoundError, ProcessLookupError):
            return False
        return True

    def status(self, tid: int | None = None) -> dict[str, str]:
        """Read the rows of `status` of the process, or of one of its threads, by their names."""
        rows = self.read(_of_thread("status", tid)).decode("utf-8", "surrogateescape")
        return dict(row.split(":\t", 1) for row in rows.splitlines() if ":\t" in row)

    def stat(self, tid: int | None = None) -> Stat:
        """Read `stat` of the process, or of one of its threads."""
        content = self.read(_of_thread("stat", tid)).decode("utf-8", "surrogateescape")
        # The name may have brackets and spaces, and whatever else.
        before, _, rest = content.rpartition(")")
        fields = rest.split()
        return Stat(
            before.partition("(")[2], fields[0], int(fields[1]), int(fields[6]), int(fields[17]),
            int(fields[19]), int(fields[44]),
        )  # fmt: skip

    @property
    def has_ended(self) -> bool:
        """Whether no thread of it executes anything any more."""
        try:
            return all(map(self.has_thread_ended, self.threads()))
        except OSError:
            return True

    def has_thread_ended(self, tid: int) -> bool:
        """Whether a thread executes nothing any more."""
        try:
            return self.stat(tid).is_ended
        except OSError as error:
            return is_missing(error)

    def is_worker(self, tid: int) -> bool:
        """Whether a thread of it is one of the kernel's, which executes none of its code."""
        try:
            return self.stat(tid).is_worker
        except OSError:
            return False

    def threads(self) -> list[int]:
        """List the TIDs of all threads, of those too that have ended and are still there."""
        try:
            folder = os.open("task", os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._folder)
        except FileNotFoundError as error:
            raise _gone(self.pid) from error
        try:
            return sorted(map(int, os.listdir(folder)))
        except FileNotFoundError as error:
            raise _gone(self.pid) from error
        finally:
            os.close(folder)

    def _missing(self, error: OSError, name: str) -> OSError:
        """Tell a name that is missing from a process that is gone."""
        if name != "stat" and self.exists("stat"):
            return error
        return _gone(self.pid)


def _of_thread(name: str, tid: int | None) -> str:
    return name if tid is None else f"task/{tid}/{name}"


def _gone(pid: int) -> ProcessLookupError:
    return ProcessLookupError(ESRCH, f"there is no process {pid}")


def all_processes() -> list[int]:
    """List the PIDs of all processes that can be seen."""
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def is_missing(error: OSError) -> bool:
    """Tell whether an error means that a process or a thread has ended meanwhile."""
    return error.errno in (ENOENT, ESRCH)
