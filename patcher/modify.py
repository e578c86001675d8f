"""Read, compare, write, serialise, read back; and the check that every change of code passes.

Two engines change code, and no third. Memory (a `TextMemory`: a buffer, a process, the copy of a
file) is changed through `modify_batch`, or while others run by a protocol, whose steps call the
same `verify` and `read_back`. A file is changed by `files.rewrite`, which compares each site in the
bytes that it copies. Both begin with `check_shape`, both compare every site before the result can
be seen by anybody, and neither writes anything but sites. What to write is decided elsewhere, from
static tables; here nothing is looked for. (`tests/test_engines.py` holds this.)
"""

from __future__ import annotations

from _operator import gt, ne, sub

from .errors import CompareError, WriteError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from .memory.text_memory import TextMemory


class Change:
    """At `address`, `old` must stand and `new`, of equal length, shall. `symbol` is for people."""

    __slots__ = ("address", "old", "new", "symbol")

    def __init__(self, address: int, old: bytes, new: bytes, symbol: str = "") -> None:
        self.address = address
        self.old = old
        self.new = new
        self.symbol = symbol

    def __str__(self) -> str:
        return f"{self.symbol} ({self.address:#x}): {self.old.hex(' ')} -> {self.new.hex(' ')}"


class Batch:
    """Many changes as columns of equal length, in ascending order of address.

    `symbol` tells the name of what is at an address; it is asked for messages only. `check` raises
    ReadError where a site must not even be read, as its address is something else's by now; it is
    called before each comparison. Iterating gives each Change.
    """

    __slots__ = ("addresses", "old", "new", "symbol", "check")

    def __init__(
        self,
        addresses: Sequence[int],
        old: Sequence[bytes],
        new: Sequence[bytes],
        symbol: Callable[[int], str] = lambda _: "",
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.addresses = addresses
        self.old = old
        self.new = new
        self.symbol = symbol
        self.check = check

    @classmethod
    def of(cls, changes: Iterable[Change]) -> Batch:
        """The changes, sorted."""
        ordered = sorted(changes, key=lambda change: change.address)
        symbols = {change.address: change.symbol for change in ordered}
        return cls(
            [change.address for change in ordered],
            [change.old for change in ordered],
            [change.new for change in ordered],
            lambda address: symbols.get(address, ""),
        )

    def __len__(self) -> int:
        return len(self.addresses)

    def __iter__(self) -> Iterator[Change]:
        for address, old, new in zip(self.addresses, self.old, self.new, strict=True):
            yield Change(address, old, new, self.symbol(address))


def modify_code(memory: TextMemory, address: int, old: bytes, new: bytes, symbol: str = "") -> None:
    """Write `new` at `address` if `old` stands there.

    Raises ReadError (EFAULT), CompareError (EINVAL) or WriteError (EPERM); only after the last of
    them something may have been written.
    """
    modify_batch(memory, Batch.of([Change(address, old, new, symbol)]))


def modify_batch(memory: TextMemory, batch: Batch) -> None:
    """Make all changes of the batch, or none if one of them does not verify.

    Raises ReadError, CompareError or WriteError. A WriteError can come after some sites were
    written; each site then has all of its old bytes or all of its new ones.
    """
    verify(memory, batch)
    if not len(batch):
        return
    memory.scatter(batch.addresses, batch.new)
    memory.sync()
    read_back(memory, batch)


def verify(memory: TextMemory, batch: Batch) -> None:
    """Compare every site with what must stand there; nothing is written.

    Raises ReadError, and CompareError where the bytes differ or two changes overlap.
    """
    sizes = check_shape(memory.path, batch)
    batch.check()
    actual = memory.gather(batch.addresses, sizes)
    if actual != list(batch.old):
        number = _first(map(ne, actual, batch.old))
        raise different(memory.path, batch, number, actual[number])


def check_shape(path: str, batch: Batch) -> list[int]:
    """The sizes in bytes of the sites. Raises CompareError where two changes overlap."""
    sizes = list(map(len, batch.old))
    if sizes != list(map(len, batch.new)):
        number = _first(map(ne, sizes, map(len, batch.new)))
        raise _mismatch(path, batch, number, b"", "a change of another length")
    distances = list(map(sub, batch.addresses[1:], batch.addresses))
    if min(distances, default=0) < max(sizes, default=0) and any(map(gt, sizes, distances)):
        number = _first(map(gt, sizes, distances)) + 1
        raise _mismatch(path, batch, number, b"", "overlaps another site")
    return sizes


def different(path: str, batch: Batch, number: int, actual: bytes) -> CompareError:
    """The error that other bytes than the old ones stand at one site of the batch."""
    what = f"{actual.hex(' ')} stands here, not {batch.old[number].hex(' ')}"
    return _mismatch(path, batch, number, actual, what)


def read_back(memory: TextMemory, batch: Batch) -> None:
    """Compare every site with what was written there. Raises ReadError, WriteError."""
    batch.check()  # again, for by now the CPUs may run
    actual = memory.gather(batch.addresses, list(map(len, batch.new)))
    if actual != list(batch.new):
        number = _first(map(ne, actual, batch.new))
        raise WriteError(
            memory.path, "reads back otherwise than it was written",
            address=batch.addresses[number], symbol=batch.symbol(batch.addresses[number]),
            actual=actual[number], expected=(batch.new[number],),
        )  # fmt: skip


def _first(flags: Iterator[bool]) -> int:
    """The number of the first true one; there is one."""
    return next(number for number, flag in enumerate(flags) if flag)


def _mismatch(path: str, batch: Batch, number: int, actual: bytes, what: str) -> CompareError:
    address = batch.addresses[number]
    return CompareError(
        path, what,
        address=address, symbol=batch.symbol(address), actual=actual, expected=(batch.old[number],),
    )  # fmt: skip
