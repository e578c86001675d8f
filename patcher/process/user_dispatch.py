"""Whether a thread gets a signal in the place of a system call, because it has asked for that.

Programs that run those of other systems ask for it (Wine does), by PR_SET_SYSCALL_USER_DISPATCH: a
call that is not made from a range of code gives SIGSYS, unless a byte of the thread's lets it
through for now. A thread that blocks that signal is ended by it.
(Documentation/admin-guide/syscall-user-dispatch.rst. Linux has that since 5.11, and tells a tracer
of it since 6.4: where it does not, none is seen.)
"""

from __future__ import annotations

import os

from .proc import Proc, is_missing
from .ptrace import user_dispatch

LET_THROUGH = 0  # SYSCALL_DISPATCH_FILTER_ALLOW, in the selector


def is_dispatched(proc: Proc, tid: int, instruction_pointer: int) -> bool:
    """Tell whether a call would be no call, by the run-time address behind its instruction.

    The thread of process `proc` is stopped, and traced by who calls this. Raises OSError if it has
    ended.
    """
    try:
        mode, selector, start, length = user_dispatch(tid)
    except OSError as error:
        if is_missing(error):
            raise
        return False
    if not mode or (instruction_pointer - start) % (1 << 64) < length:
        return False
    return not selector or _byte(proc, selector) != bytes((LET_THROUGH,))


def _byte(proc: Proc, address: int) -> bytes:
    """Read a byte of the process; none if it cannot be read."""
    memory = proc.open_by_thread("mem")
    try:
        return os.pread(memory, 1, address)
    except (OSError, OverflowError):
        return b""
    finally:
        os.close(memory)
