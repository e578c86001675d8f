"""Count the instructions of commands, by the processor (perf_event_open(2), linux/perf_event.h)."""

import ctypes
import os
from struct import Struct

from patcher.closing import Closing
from patcher.run.notification import PERF_EVENT_OPEN, PERF_FLAG_FD_CLOEXEC

Event = tuple[int, int]  # type, config
INSTRUCTIONS: Event = (0, 1)  # PERF_TYPE_HARDWARE, PERF_COUNT_HW_INSTRUCTIONS
# perf_event_attr: disabled, inherit, exclude_kernel, exclude_hv, enable_on_exec.
FLAGS = 1 << 0 | 1 << 1 | 1 << 5 | 1 << 6 | 1 << 12
_ATTRIBUTES = Struct("<IIQ24xQ16x")  # type, size, config; flags: PERF_ATTR_SIZE_VER0

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class Counter(Closing):
    """Counts an event in what is executed in children of this process from now on, during a `with`.

    What this process does itself is not counted, nor is the kernel. `why_not` says why nothing can
    be counted; it is empty if it can.
    """

    def __init__(self, event: Event = INSTRUCTIONS) -> None:
        attributes = _ATTRIBUTES.pack(event[0], _ATTRIBUTES.size, event[1], FLAGS)
        arguments = [ctypes.c_long(each) for each in (0, -1, -1, PERF_FLAG_FD_CLOEXEC)]
        self._fd = int(_libc.syscall(ctypes.c_long(PERF_EVENT_OPEN), attributes, *arguments))
        error = ctypes.get_errno()
        self.why_not = f"perf_event_open: {os.strerror(error)}" if self._fd < 0 else ""

    def read(self) -> int:
        """How often it happened in children that were waited for; 0 if it cannot be counted."""
        return 0 if self.why_not else int.from_bytes(os.read(self._fd, 8), "little")

    def close(self) -> None:
        """Count no more."""
        if not self.why_not:
            os.close(self._fd)
