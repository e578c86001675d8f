"""Changes of several loaded files as one batch, and its pages, made while the process runs."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import partial
from itertools import chain

from patcher.modify import Batch

from .live_sites import LiveSites
from .memory import ProcessMemory


def join(memory: ProcessMemory, modules: Sequence[LiveSites], batches: Sequence[Batch]) -> Batch:
    """Make one batch of those of all modules, which are at ascending addresses."""
    changed = [(module, each) for module, each in zip(modules, batches, strict=True) if len(each)]
    starts = [module.addresses[0] for module, _ in changed]

    def symbol(address: int) -> str:
        number = bisect_right(starts, address) - 1
        return changed[number][1].symbol(address) if number >= 0 else ""

    def check() -> None:
        for module, batch in changed:
            module.file.refuse_gone(memory)
            batch.check()

    some = [batch for _, batch in changed]
    if len(some) == 1:
        (one,) = some
        return Batch(one.addresses, one.old, one.new, symbol, check)
    return Batch(
        list(chain.from_iterable(batch.addresses for batch in some)),
        list(chain.from_iterable(batch.old for batch in some)),
        list(chain.from_iterable(batch.new for batch in some)),
        symbol,
        check,
    )


def prepare(memory: ProcessMemory, modules: Sequence[LiveSites], batch: Batch) -> None:
    """Make the text of a batch of these modules, before and after. Raises ReadError."""
    memory.prepare(batch, partial(_expected, modules))


def _expected(modules: Sequence[LiveSites], address: int, size: int) -> bytes:
    """Return what stands at the pages of one mapping of text if nobody else has changed code."""
    for module in modules:
        if any(each.range.holds(address, size) for each in module.file.mappings):
            return module.text(address, size)
    return b""
