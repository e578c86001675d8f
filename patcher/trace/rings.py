"""The rings as patcher reads them while the process writes: events in order for each processor."""

from __future__ import annotations

import fcntl
import mmap
import os
from _operator import add
from collections.abc import Sequence
from typing import NamedTuple

from patcher.closing import Closing
from patcher.errors import AccessError
from patcher.process.pages import PAGE
from recordmcount.errors import reason

from .layout import DATA, EVENT_SIZE, HEAD, LOST, TAIL

WORD = 8
NO_LIMIT = 1 << 63  # bytes that a head may be before a tail, where old events are overwritten
CPUS = "/sys/devices/system/cpu"


class Shape(NamedTuple):
    """What is where in the memory of rings: `data` bytes for each of `cpus` processors.

    Behind that are counters, `counters` for each processor.
    """

    cpus: int
    data: int
    counters: int = 0

    @property
    def stride(self) -> int:
        """Bytes from ring to ring."""
        return DATA + self.data

    @property
    def counters_at(self) -> int:
        """Bytes from the start to the counters of the first processor."""
        return self.cpus * self.stride

    @property
    def counters_stride(self) -> int:
        """Bytes from the counters of one processor to those of the next."""
        return -(-self.counters * WORD // PAGE) * PAGE

    @property
    def size(self) -> int:
        """Bytes in all."""
        return self.counters_at + self.cpus * self.counters_stride


class Rings(Closing):
    """The rings in a memfd that is of no size yet; the descriptor is ours from now on.

    `is_locked`: writers take slots first and fill them afterwards. `overwrites`: the oldest events
    make room for new ones, and nothing is read before the end. Raises OSError if there is not
    enough memory.
    """

    def __init__(
        self, descriptor: int, shape: Shape, *, is_locked: bool = False, overwrites: bool = False
    ) -> None:
        self.shape = shape
        self._is_locked = is_locked
        self._overwrites = overwrites
        try:
            os.ftruncate(descriptor, shape.size)
            self._allocate(descriptor)
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
            self._memory = mmap.mmap(descriptor, shape.size)
        finally:
            os.close(descriptor)
        self._view = memoryview(self._memory)
        self._words = self._view.cast("Q")
        self._told = [0] * shape.cpus

    def _allocate(self, descriptor: int) -> None:
        """Have memory for the processors that are there: a write must find it."""
        for cpu in processors("online"):
            if cpu < self.shape.cpus:
                start = cpu * self.shape.stride
                os.posix_fallocate(descriptor, start, self.shape.stride)
        if self.shape.counters:
            rest = self.shape.size - self.shape.counters_at
            os.posix_fallocate(descriptor, self.shape.counters_at, rest)

    def close(self) -> None:
        """Let go of the memory."""
        self._words.release()
        self._view.release()
        self._memory.close()

    def read(self, cpu: int, most: int) -> bytes:
        """Take events of a processor, `most` of them, the oldest that there are first."""
        start = cpu * self.shape.stride
        head = self._words[(start + HEAD) // WORD]  # one load
        tail = self._words[(start + TAIL) // WORD]
        if self._overwrites:
            tail = max(tail, head - self._kept)
        head = min(head, tail + most * EVENT_SIZE)
        if self._is_locked:
            head = self._committed(start, tail, head)
        content = self._between(start, tail, head)
        if self._overwrites:
            content = content[max(0, self._words[(start + HEAD) // WORD] - self._kept - tail) :]
        elif self._is_locked:
            self._clear(start, tail, head)
        self._words[(start + TAIL) // WORD] = head  # one store: from now on it may be overwritten
        return content

    def lost(self, cpu: int, *, is_last: bool = False) -> int:
        """Tell how many more events of a processor were lost since this was last asked.

        When all was read and nobody writes any more, those are lost too that are behind a slot
        which was taken and never filled: whoever took it has left by a longjmp.
        """
        start = cpu * self.shape.stride
        head = self._words[(start + HEAD) // WORD]
        if self._overwrites:
            total = max(0, head - self._kept) // EVENT_SIZE
        else:
            total = self._words[(start + LOST) // WORD]
        if is_last:
            total += (head - self._words[(start + TAIL) // WORD]) // EVENT_SIZE
        new, self._told[cpu] = total - self._told[cpu], total
        return new

    @property
    def _kept(self) -> int:
        """How many bytes of a ring that is overwritten are told: one slot may be in the making."""
        return self.shape.data - EVENT_SIZE

    def counts(self) -> list[int]:
        """Return the sum of each counter over all processors."""
        shape = self.shape
        totals = [0] * shape.counters
        for cpu in range(shape.cpus):
            first = (shape.counters_at + cpu * shape.counters_stride) // WORD
            here = self._words[first : first + shape.counters].tolist()
            if any(here):  # most processors that are possible are not there
                totals = list(map(add, totals, here))
        return totals

    def _between(self, start: int, tail: int, head: int) -> bytes:
        size, first = self.shape.data, start + DATA
        at, end = tail % size, head % size
        if tail == head:
            return b""
        if at < end:
            return bytes(self._view[first + at : first + end])
        return bytes(self._view[first + at : first + size]) + bytes(self._view[first : first + end])

    def _committed(self, start: int, tail: int, head: int) -> int:
        """Return where the first slot is that is taken and not filled yet; `head` if none is."""
        mask, first = self.shape.data - 1, start + DATA
        for at in range(tail, head, EVENT_SIZE):
            if not self._words[(first + (at & mask)) // WORD]:
                return at
        return head

    def _clear(self, start: int, tail: int, head: int) -> None:
        mask, first = self.shape.data - 1, start + DATA
        for at in range(tail, head, EVENT_SIZE):
            self._words[(first + (at & mask)) // WORD] = 0


def processors(which: str) -> Sequence[int]:
    """List the numbers of the processors of this machine that are `online`, or `possible`.

    Raises AccessError where the kernel does not tell.
    """
    path = f"{CPUS}/{which}"
    try:
        with open(path, encoding="ascii") as stream:
            content = stream.read().strip()
    except OSError as error:
        raise AccessError(path, reason(error)) from error
    found: list[int] = []
    for part in content.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found
