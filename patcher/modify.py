"""Read, compare, write, read back: the only way this package changes code.

A batch is verified as a whole before its first byte is written. What to write is decided
elsewhere, from static tables; here nothing is looked for.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from .errors import CompareError, WriteError


class TextMemory(Protocol):
    """Code that can be read and written. What an address counts is the memory's own affair."""

    @property
    def path(self) -> str:
        """What the memory is called in messages."""

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes at `address`; ReadError where there are not that many."""

    def write(self, address: int, data: bytes) -> None:
        """Put `data` at `address`; WriteError if it cannot be done as a whole."""


class Change(NamedTuple):
    """At `address`, `old` must stand and `new`, of equal length, shall. `symbol` is for people."""

    address: int
    old: bytes
    new: bytes
    symbol: str = ""

    def __str__(self) -> str:
        return f"{self.symbol} ({self.address:#x}): {self.old.hex(' ')} -> {self.new.hex(' ')}"


def modify_code(memory: TextMemory, changes: Sequence[Change]) -> None:
    """Make all `changes`, or none if one of them does not verify.

    Raises ReadError, CompareError or WriteError. A WriteError can come after some sites were
    written; each site then has all of its old bytes or all of its new ones.
    """
    verify(memory, changes)
    for change in changes:
        memory.write(change.address, change.new)
    for change in changes:
        if memory.read(change.address, len(change.new)) != change.new:
            raise WriteError(
                memory.path, "reads back otherwise than it was written",
                address=change.address, symbol=change.symbol, expected=(change.new,),
            )  # fmt: skip


def verify(memory: TextMemory, changes: Sequence[Change]) -> None:
    """Compare every site with what must stand there; nothing is written.

    Raises ReadError, and CompareError where the bytes differ or two changes overlap.
    """
    end = None
    for change in sorted(changes):
        if len(change.old) != len(change.new) or (end is not None and change.address < end):
            raise _mismatch(memory, change, b"", "overlaps another site, or changes its length")
        end = change.address + len(change.old)
        actual = memory.read(change.address, len(change.old))
        if actual != change.old:
            what = f"{actual.hex(' ')} stands here, not {change.old.hex(' ')}"
            raise _mismatch(memory, change, actual, what)


def _mismatch(memory: TextMemory, change: Change, actual: bytes, what: str) -> CompareError:
    return CompareError(
        memory.path, what,
        address=change.address, symbol=change.symbol, actual=actual, expected=(change.old,),
    )  # fmt: skip
