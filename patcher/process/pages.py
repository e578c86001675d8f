"""Memory of ours to read the text of a process into, and to compare it there.

In a halt nothing of it may take longer than it must. So the pages are there before, they begin
where a page does, and what is in them is neither copied nor looked at byte by byte. (Processors of
AMD copy a page four times as slowly to an address that is a few bytes behind that of a page, where
Python's own objects begin.)
"""

from __future__ import annotations

import ctypes
import mmap

PAGE = 4096
MOST = 1 << 19  # bytes that are read at once: what a processor has a cache for

_libc = ctypes.CDLL(None)
_libc.process_vm_readv.restype = ctypes.c_ssize_t
_libc.process_vm_readv.argtypes = [
    ctypes.c_int, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_ulong,
]  # fmt: skip
_libc.memcmp.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t]


class _Vector(ctypes.Structure):
    """A struct iovec."""

    _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]


class Pages:
    """`size` bytes."""

    def __init__(self, size: int) -> None:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
        self._memory = mmap.mmap(-1, size, flags)
        self._start = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))

    def view(self, size: int) -> memoryview:
        """Return the first `size` bytes, to be read into."""
        return memoryview(self._memory)[:size]

    def take(self, pid: int, address: int, size: int) -> bool:
        """Copy so many bytes of process `pid` to the first ones; tell whether that was possible.

        Unlike /proc/PID/mem that heeds protections. It may be forbidden where that is not.
        """
        here, there = _Vector(self._start, size), _Vector(address, size)
        done = _libc.process_vm_readv(pid, ctypes.byref(here), 1, ctypes.byref(there), 1, 0)
        return bool(done == size)

    def are(self, content: bytes) -> bool:
        """Tell whether the first bytes are `content`."""
        return not _libc.memcmp(self._start, content, len(content))
