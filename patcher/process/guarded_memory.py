"""The memory of a process in whose sites breakpoints stand while they are written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

from .memory import ProcessMemory
from .pages import PAGE


class GuardedMemory:
    """The memory of a process whose sites are guarded by breakpoints while they are written.

    So what lies in two pages needs no harmless code on the way (see `prepared.one_by_one`).
    """

    def __init__(self, memory: ProcessMemory) -> None:
        self.path = memory.path
        self.read = memory.read
        self.gather = memory.gather
        self.sync = memory.sync
        self._write_pieces = memory.write_pieces

    def write(self, address: int, data: bytes) -> None:
        """Write `data` at `address`. Raises WriteError if it may not or cannot be as a whole."""
        self.scatter([address], [data])

    def scatter(self, addresses: Sequence[int], data: Sequence[bytes]) -> None:
        """Write at each address, in order. Raises WriteError, before the first if any may not."""
        self._write_pieces([*chain.from_iterable(map(_pieces, addresses, data))])


def _pieces(address: int, data: bytes) -> Iterator[tuple[int, bytes]]:
    """Return (run-time address, bytes) of what is in each page."""
    split = -address % PAGE
    yield address, data[:split] if split else data
    if 0 < split < len(data):
        yield address + split, data[split:]
