"""Changes code in memory: compares, writes, serialises, reads back.

Two engines change code, and no third. Memory (a `TextMemory`: a buffer, a process, the copy of a
file) is changed through `modify_batch`, or while CPUs execute it by a protocol, whose steps call
the same `verify` and `read_back`. A file is changed by `files.rewrite`, which compares each site in
the bytes that it copies. Both begin with `check_shape`, both compare every site before anyone can
see the result, and neither writes anything but sites. What to write is decided elsewhere, from
static tables; nothing is searched for here. (`tests/test_engines.py` checks all this.)
"""

from __future__ import annotations

from _operator import gt, ne, sub

from .errors import CompareError, WriteError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from .memory.text_memory import TextMemory


class Change:
    """Replace `old` at `address` by `new`, of equal length; `symbol` is for messages."""

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

    `symbol` returns the symbol at an address, for messages. `check` raises ReadError if a site must
    not even be read, since something else has its address by now; it is called before each
    comparison. `sizes` are those of the sites in bytes once `check_shape` has found the batch to be
    sound; it is not to be changed any more then. Iteration yields each Change.
    """

    __slots__ = ("addresses", "old", "new", "symbol", "check", "sizes")

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
        self.sizes: list[int] | None = None

    @classmethod
    def of(cls, changes: Iterable[Change]) -> Batch:
        """Make a batch of changes in any order."""
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

    Raises ReadError (EFAULT), CompareError (EINVAL) or WriteError (EPERM); only before a WriteError
    may something have been written.
    """
    modify_batch(memory, Batch.of([Change(address, old, new, symbol)]))


def modify_batch(memory: TextMemory, batch: Batch) -> None:
    """Make all changes of the batch, or none if one of them does not verify.

    Raises ReadError, CompareError or WriteError. Before a WriteError some sites may have been
    written; each site then has all of its old bytes or all of its new ones.
    """
    verify(memory, batch)
    if not len(batch):
        return
    memory.scatter(batch.addresses, batch.new)
    memory.sync()
    read_back(memory, batch)


def verify(memory: TextMemory, batch: Batch) -> None:
    """Compare every site with its old bytes, and write nothing.

    Raises ReadError, or CompareError if bytes or lengths differ or two changes overlap.
    """
    sizes = check_shape(memory.path, batch)
    batch.check()
    actual = memory.gather(batch.addresses, sizes)
    if actual is not batch.old and list(actual) != list(batch.old):
        number = _first(map(ne, actual, batch.old))
        raise different(memory.path, batch, number, actual[number])


def check_shape(path: str, batch: Batch) -> list[int]:
    """Return the sizes of the sites. Raises CompareError if two overlap or lengths differ.

    That costs more than comparing the sites, and may be done before CPUs are stopped for it.
    """
    if batch.sizes is not None:
        return batch.sizes
    sizes = list(map(len, batch.old))
    if sizes != list(map(len, batch.new)):
        number = _first(map(ne, sizes, map(len, batch.new)))
        raise _mismatch(path, batch, number, b"", "the new code is of another length than the old")
    distances = list(map(sub, batch.addresses[1:], batch.addresses))
    if min(distances, default=0) < max(sizes, default=0) and any(map(gt, sizes, distances)):
        number = _first(map(gt, sizes, distances)) + 1
        raise _mismatch(path, batch, number, b"", "overlaps another site")
    batch.sizes = sizes
    return sizes


def different(path: str, batch: Batch, number: int, actual: bytes) -> CompareError:
    """Make the error for a site of the batch, by its number, where other bytes stand than `old`."""
    what = f"{actual.hex(' ')} stands here, not {batch.old[number].hex(' ')}"
    return _mismatch(path, batch, number, actual, what)


def read_back(memory: TextMemory, batch: Batch) -> None:
    """Compare every site with its new bytes. Raises ReadError, or WriteError if they differ."""
    batch.check()  # again, for the CPUs may run by now
    actual = memory.gather(batch.addresses, check_shape(memory.path, batch))
    if actual is not batch.new and list(actual) != list(batch.new):
        number = _first(map(ne, actual, batch.new))
        raise WriteError(
            memory.path, "reads back otherwise than it was written",
            address=batch.addresses[number], symbol=batch.symbol(batch.addresses[number]),
            actual=actual[number], expected=(batch.new[number],),
        )  # fmt: skip


def _first(flags: Iterator[bool]) -> int:
    """Find the number of the first true flag; there must be one."""
    return next(number for number, flag in enumerate(flags) if flag)


def _mismatch(path: str, batch: Batch, number: int, actual: bytes, what: str) -> CompareError:
    address = batch.addresses[number]
    return CompareError(
        path, what,
        address=address, symbol=batch.symbol(address), actual=actual, expected=(batch.old[number],),
    )  # fmt: skip
