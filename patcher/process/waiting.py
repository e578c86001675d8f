"""What a tracee reports: at what it stopped, or how it ended.

A look at a report leaves it with the kernel. That matters for signals: the kernel gives a stopped
thread its signal if the tracer dies, but only as long as nobody has taken the report.
"""

from __future__ import annotations

import os
from signal import SIGSTOP, SIGTRAP, SIGTSTP, SIGTTIN, SIGTTOU
from typing import NamedTuple

WALL = 0x40000000  # __WALL: threads as well as processes
STOPPED_AT_SYSCALL = SIGTRAP | 0x80  # with TRACESYSGOOD
GROUP_STOPS = {SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU}

# PTRACE_EVENT_*
FORK, VFORK, CLONE, EXEC, VFORK_DONE, EXIT, SECCOMP = range(1, 8)
STOP = 128
ENDED = {os.CLD_EXITED, os.CLD_KILLED, os.CLD_DUMPED}


class Stop(NamedTuple):
    """A thread has stopped: at `event`, or if that is 0 before it is given `signal`."""

    tid: int
    signal: int
    event: int

    @property
    def is_group_stop(self) -> bool:
        """Whether its whole process is stopped, as by SIGSTOP or Ctrl-Z."""
        return self.event == STOP and self.signal in GROUP_STOPS

    @property
    def pending_signal(self) -> int:
        """The signal that it must be given when it goes on, 0 if none."""
        is_signal = not self.event and self.signal != STOPPED_AT_SYSCALL
        return self.signal if is_signal else 0


class End(NamedTuple):
    """A thread has ended: with an exit `status`, or if that is negative by a signal."""

    tid: int
    status: int


def look(tid: int) -> Stop | End | None:
    """Tell what a tracee reports, and leave it there; None if it does not report anything yet.

    Raises ChildProcessError for a thread that is no tracee.
    """
    return _report(tid, os.WNOHANG | os.WNOWAIT)


def wait(tid: int) -> Stop | End:
    """Return what a tracee reports, once it does, and leave it there.

    Raises ChildProcessError for a thread that is no tracee.
    """
    report = _report(tid, os.WNOWAIT)
    if report is None:
        raise AssertionError("what is waited for without WNOHANG is there")
    return report


def look_for_any() -> Stop | End | None:
    """Tell what any tracee or child reports, and leave it there; None if there is nothing yet.

    Raises ChildProcessError if there are no tracees and no children.
    """
    return _report(None, os.WNOHANG | os.WNOWAIT)


def take(tid: int) -> None:
    """Take what a tracee reports: a signal in it must be given by hand then.

    If it has been killed since it was looked at there may be nothing, and nobody waits: the end of
    a leader is only reported when all threads have been reaped.
    """
    _report(tid, os.WNOHANG)


def reap(tid: int) -> bool:
    """Take the report of a tracee that has ended; tell whether there was one.

    Until then it is in the way of a thread of its process that executes another program. The
    kernel gives the report of a tracee that has stopped to whoever only asks for ends, too; so a
    look comes first.
    """
    try:
        if not isinstance(look(tid), End):
            return False
        os.waitid(os.P_PID, tid, os.WEXITED | os.WNOHANG | WALL)
    except ChildProcessError:
        return False
    return True


def _report(tid: int | None, flags: int) -> Stop | End | None:
    which = (os.P_ALL, 0) if tid is None else (os.P_PID, tid)
    found = os.waitid(*which, os.WEXITED | os.WSTOPPED | WALL | flags)
    if found is None:
        return None
    tid = found.si_pid
    if found.si_code in ENDED:
        is_exit = found.si_code == os.CLD_EXITED
        return End(tid, found.si_status if is_exit else -found.si_status)
    return Stop(tid, found.si_status & 0xFF, found.si_status >> 8)
