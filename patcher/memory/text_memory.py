"""Kinds of memory that hold code: what `patcher.modify` reads, compares, writes and serialises."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Protocol
else:
    Protocol = object  # `typing` imports slowly


class TextMemory(Protocol):
    """Code that can be read and written. What an address counts is the memory's own affair.

    Every method can fault, and says so by the errors named here.
    """

    @property
    def path(self) -> str:
        """What the memory is called in messages."""

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes at `address`; ReadError where there are not that many."""

    def write(self, address: int, data: bytes) -> None:
        """Put `data` at `address`; WriteError if it cannot be done as a whole."""

    def gather(self, addresses: Sequence[int], sizes: Sequence[int]) -> list[bytes]:
        """What `read` gives for each address and size; the ReadError is that of the first fault."""

    def scatter(self, addresses: Sequence[int], data: Sequence[bytes]) -> None:
        """What `write` does with each address and data, in order, up to the first WriteError."""

    def sync(self) -> None:
        """Serialise: return when no processor still holds what stood here before a write.

        WriteError if that cannot be ensured.
        """
