"""The dynamic linker's notification: a breakpoint that writes no byte into the process.

The processor's own breakpoints are set by perf_event_open(2) here and not by ptrace, whose
breakpoints stay in the thread when its tracer ends, and would kill it. These vanish with the
descriptor, whatever ends the process that has it. A hit sends SIGTRAP, which the tracer takes.
Where SIGTRAP is ignored it harms nobody even if the tracer is killed in that instant; a tracer is
told of ignored signals as well. (linux/perf_event.h; `sigtrap`, `inherit_thread`: Linux 5.13.)
"""

from __future__ import annotations

import ctypes
import os
import sys
from signal import SIGTRAP
from struct import Struct

from recordmcount.errors import reason

PERF_EVENT_OPEN = 298 if sys.maxsize > 1 << 32 else 336
PERF_TYPE_BREAKPOINT, HW_BREAKPOINT_X = 5, 4
LENGTH = 8  # of a breakpoint of code: a long of the kernel's
PERF_FLAG_FD_CLOEXEC = 8
# perf_event_attr: inherit, exclude_kernel, exclude_hv, inherit_thread, remove_on_exec, sigtrap.
FLAGS = 1 << 1 | 1 << 5 | 1 << 6 | 1 << 35 | 1 << 36 | 1 << 37
# Type, size, period; flags; bp_type, bp_addr, bp_len; sig_data, which the signal brings along.
_ATTRIBUTES = Struct("<II8xQ16xQ4xIQQ48xQ")
_SIGINFO = Struct("<ii i4x Q QI")  # si_signo, si_errno, si_code, si_addr, si_perf_data, _type
TRAP_PERF = 6

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class Breakpoint:
    """A breakpoint of a thread, and of all threads that it starts. Raises OSError."""

    def __init__(self, tid: int, address: int) -> None:
        self._address = address
        attributes = _ATTRIBUTES.pack(
            PERF_TYPE_BREAKPOINT, _ATTRIBUTES.size, 1, FLAGS,
            HW_BREAKPOINT_X, address, LENGTH, address,
        )  # fmt: skip
        arguments = [ctypes.c_long(each) for each in (tid, -1, -1, PERF_FLAG_FD_CLOEXEC)]
        self._fd = int(_libc.syscall(ctypes.c_long(PERF_EVENT_OPEN), attributes, *arguments))
        if self._fd < 0:
            number = ctypes.get_errno()
            raise OSError(number, f"perf_event_open: {os.strerror(number)}")

    def close(self) -> None:
        """Remove it from all threads."""
        os.close(self._fd)

    def is_hit(self, siginfo: bytes) -> bool:
        """Tell whether a signal came from here, by its siginfo_t."""
        number, _, code, _, data, kind = _SIGINFO.unpack_from(siginfo)
        here = (SIGTRAP, TRAP_PERF, self._address, PERF_TYPE_BREAKPOINT)
        return (number, code, data, kind) == here


def why_not() -> str:
    """Say why there can be no such breakpoints; empty if there can."""
    try:
        Breakpoint(0, 1 << 12).close()
    except OSError as error:
        return reason(error)
    return ""
