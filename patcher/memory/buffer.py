"""Code in a buffer of this process: the memory of tests, models and copies of files."""

from __future__ import annotations

from collections.abc import Sequence

from patcher.errors import ReadError, WriteError


class Buffer:
    """A TextMemory over `text`, whose first byte is at `start`; its bytes are not copied."""

    def __init__(self, path: str, start: int, text: bytearray) -> None:
        self._path = path
        self.start = start
        self.text = text

    @property
    def path(self) -> str:
        """Name of the buffer in messages."""
        return self._path

    def read(self, address: int, size: int) -> bytes:
        """Read `size` bytes at `address`. Raises ReadError if they are not all in the buffer."""
        if not self._holds(address, size):
            raise ReadError(self._path, "outside of the code", address=address)
        at = address - self.start
        return bytes(self.text[at : at + size])

    def write(self, address: int, data: bytes) -> None:
        """Write `data` at `address`. Raises WriteError if it is not all in the buffer."""
        if not self._holds(address, len(data)):
            raise WriteError(self._path, "outside of the code", address=address)
        at = address - self.start
        self.text[at : at + len(data)] = data

    def gather(self, addresses: Sequence[int], sizes: Sequence[int]) -> list[bytes]:
        """Read at each address as `read` does."""
        return list(map(self.read, addresses, sizes))

    def scatter(self, addresses: Sequence[int], data: Sequence[bytes]) -> None:
        """Write at each address as `write` does, in order."""
        for address, each in zip(addresses, data, strict=True):
            self.write(address, each)

    def sync(self) -> None:
        """Do nothing: no processor executes a buffer."""

    def _holds(self, address: int, size: int) -> bool:
        return self.start <= address and address + size <= self.start + len(self.text)
