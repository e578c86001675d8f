"""The code of a process, through /proc/PID/mem.

The kernel lets a tracer write there whatever the protection of a mapping is, and a write that goes
over its end goes on in the next one. So what may be written to is decided here: each site must be
wholly inside one private, executable, unwritable mapping of a file.
"""

from __future__ import annotations

import os
from _operator import add
from bisect import bisect_right
from collections.abc import Sequence

from patcher.errors import ReadError, WriteError
from patcher.ftrace.mappings import Mapping, Range
from recordmcount.errors import reason
from recordmcount.x86_passage import passage

from . import maps
from .proc import Proc

PAGE = 4096
HIGHEST = (1 << 63) - 1  # as far as a file offset goes


class ProcessMemory:
    """A TextMemory over the address space of the process behind `proc`; addresses are run-time.

    A patcher that is killed between two writes leaves each site whole. So a site in two pages,
    which the kernel writes one after the other, is written by way of a `passage`. Raises OSError
    if the memory cannot be opened; `close` closes it.
    """

    def __init__(self, proc: Proc, name: str) -> None:
        self.proc = proc
        self._path = name
        self._mappings: list[Mapping] | None = None
        self._fd = proc.open_by_thread("mem", os.O_RDWR)

    @property
    def path(self) -> str:
        """Name of the process in messages."""
        return self._path

    def close(self) -> None:
        """Close it."""
        os.close(self._fd)

    def hold(self) -> None:
        """Say that nothing of the process can run: its mappings stay as they are until `let_go`.

        The memory is opened again, as the process may have executed another program.
        """
        fd = self.proc.open_by_thread("mem", os.O_RDWR)
        os.close(self._fd)
        self._fd = fd
        self._mappings = self._read_mappings()

    def let_go(self) -> None:
        """Say that the process runs again."""
        self._mappings = None

    def mappings(self) -> Sequence[Mapping]:
        """Return the present mappings. Raises ReadError if they cannot be read."""
        return self._read_mappings() if self._mappings is None else self._mappings

    def _read_mappings(self) -> list[Mapping]:
        try:
            return maps.parse(self.proc.read_by_thread("maps"))
        except OSError as error:
            raise ReadError(self._path, f"its mappings: {reason(error)}") from error

    # --- reading ------------------------------------------------------------------------------

    def read(self, address: int, size: int) -> bytes:
        """Read `size` bytes at `address`. Raises ReadError if there are not that many."""
        content = b""
        while len(content) < size and 0 <= address + size <= HIGHEST:
            try:
                piece = os.pread(self._fd, size - len(content), address + len(content))
            except OSError:
                break
            if not piece:
                break
            content += piece
        if len(content) != size:
            raise ReadError(self._path, f"cannot be read: {size} bytes", address=address)
        return content

    def gather(self, addresses: Sequence[int], sizes: Sequence[int]) -> list[bytes]:
        """Read at each address as `read` does. Raises the ReadError of the first fault."""
        return list(map(self.read, addresses, sizes))

    # --- writing ------------------------------------------------------------------------------

    def write(self, address: int, data: bytes) -> None:
        """Write `data` at `address`. Raises WriteError if it may not or cannot be as a whole."""
        self.scatter([address], [data])

    def scatter(self, addresses: Sequence[int], data: Sequence[bytes]) -> None:
        """Write at each address, in order. Raises WriteError, before the first if any may not."""
        self._refuse_outside_of_text(addresses, data)
        for address, each in zip(addresses, data, strict=True):
            self._write_site(address, each)

    def sync(self) -> None:
        """Do nothing: a thread that was stopped goes on by way of the kernel.

        Its processor has executed other code meanwhile, and interrupts that serialise.
        """

    def _refuse_outside_of_text(self, addresses: Sequence[int], data: Sequence[bytes]) -> None:
        """Raise WriteError if a site is not wholly inside one mapping of text."""
        text = [each for each in self.mappings() if not each.why_not_text(each.device, each.inode)]
        starts = [each.range.start for each in text]
        ends = list(map(add, addresses, map(len, data)))
        for address, end in zip(addresses, ends, strict=True):
            number = bisect_right(starts, address) - 1
            if number < 0 or end > text[number].range.end:
                raise WriteError(
                    self._path, self._why_outside(Range(address, end)), address=address
                )

    def _why_outside(self, site: Range) -> str:
        for mapping in self.mappings():
            if mapping.range.overlaps(site):
                why = mapping.why_not_text(mapping.device, mapping.inode)
                return f"is {why}: {mapping}" if why else f"is not inside one mapping: {mapping}"
        return "is not mapped"

    def _write_site(self, address: int, data: bytes) -> None:
        split = -address % PAGE
        if not 0 < split < len(data):
            self._write_whole(address, data)
            return
        stands = self.read(address, len(data))
        for code in passage(stands, data, split):
            for at, old, new in (
                (address, stands[:split], code[:split]),
                (address + split, stands[split:], code[split:]),
            ):
                if old != new:
                    self._write_whole(at, new)
            stands = code

    def _write_whole(self, address: int, data: bytes) -> None:
        try:
            written = os.pwrite(self._fd, data, address)
        except OSError as error:
            raise WriteError(self._path, reason(error), address=address) from error
        if written != len(data):
            what = f"only {written} of {len(data)} bytes could be written"
            raise WriteError(self._path, what, address=address)
