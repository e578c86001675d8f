"""The protocol of memory that holds code, which `patcher.modify` reads, writes and serialises."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Protocol
else:
    Protocol = object  # `typing` imports slowly


class TextMemory(Protocol):
    """Code that can be read and written; each memory defines what its addresses count.

    A method that fails raises the error named in its docstring.
    """

    @property
    def path(self) -> str:
        """Name of the memory in messages."""

    def read(self, address: int, size: int) -> bytes:
        """Read `size` bytes at `address`. Raises ReadError if there are not that many."""

    def write(self, address: int, data: bytes) -> None:
        """Write `data` at `address`. Raises WriteError if it cannot be written as a whole."""

    def gather(self, addresses: Sequence[int], sizes: Sequence[int]) -> Sequence[bytes]:
        """Read at each address as `read` does. Raises the ReadError of the first fault.

        A memory that has been given a batch beforehand may return a column of it: then all bytes
        of that column stand there.
        """

    def scatter(self, addresses: Sequence[int], data: Sequence[bytes]) -> None:
        """Write at each address as `write` does, in order, up to the first WriteError."""

    def sync(self) -> None:
        """Serialise: return when no processor still holds what stood here before a write.

        Raises WriteError if that cannot be ensured.
        """
