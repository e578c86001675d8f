"""Processes that execute in the same address space without being threads of one process.

clone(CLONE_VM) without CLONE_THREAD makes one, and so does vfork until its child executes another
program. /proc does not tell; kcmp(2) compares two processes.

A process that may not be compared does not share: whoever changes to another user makes the whole
address space undumpable, and then the target could not be traced either.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from errno import EACCES, EPERM, ESRCH
from functools import partial

from .proc import all_processes

_KCMP = 312 if sys.maxsize > 1 << 32 else 349  # its number on x86-64, and on i386
KCMP_VM = 1

_libc = ctypes.CDLL(None, use_errno=True)
_kcmp = partial(_libc.syscall, _KCMP)


def share_memory(one: int, other: int) -> bool:
    """Tell whether two processes, by PID or TID, have one address space. Raises OSError."""
    order = int(_kcmp(one, other, KCMP_VM, 0, 0))
    if order < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"kcmp of {one} and {other}: {os.strerror(number)}")
    return order == 0


def sharers(tid: int, known: set[int]) -> Iterator[int]:
    """Return the PIDs, none of them `known`, of processes in the address space of thread `tid`.

    Raises OSError where this kernel cannot tell, and if the thread has ended.
    """
    share_memory(tid, tid)
    for pid in all_processes():
        if pid not in known and _is_sharer(tid, pid):
            yield pid


def _is_sharer(tid: int, pid: int) -> bool:
    try:
        return share_memory(tid, pid)
    except OSError as error:
        if error.errno in (EPERM, EACCES, ESRCH):
            return False
        raise
