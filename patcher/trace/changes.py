"""What is written to sites so that they are traced, and so that they are as before: batches."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence

from patcher.modify import Batch
from patcher.process.live_sites import LiveSites
from patcher.process.memory import ProcessMemory
from patcher.process.target import Target
from recordmcount.columns import pick
from recordmcount.sites.state import State
from recordmcount.x86 import call

from .trampoline import WAS_CALL
from .ways import Chosen

# Changes of one module: run-time addresses, bytes before, bytes after; each site's place in words.
Columns = tuple[list[int], list[bytes], list[bytes]]


def to_trace(chosen: Chosen, way_of: Callable[[int], int]) -> Columns:
    """Make each chosen site, by its place in the columns, call the way at a run-time address."""
    new = []
    for number, (address, length, state) in enumerate(
        zip(chosen.addresses, chosen.lengths, chosen.states, strict=True)
    ):
        target = way_of(number) + (WAS_CALL if state is State.CALL else 0)
        made = call(address, target, length)
        if made is None:
            raise AssertionError(f"{target:#x} is out of reach of {address:#x}")  # chosen so
        new.append(made)
    return chosen.addresses, list(pick(chosen.module.codes, chosen.numbers)), new


def to_before(module: LiveSites) -> Columns:
    """Make each traced site of a module what it was; on what is covered the breakpoint stays."""
    numbers = sorted({*module.traced, *module.covered})
    new = {number: module.uncovered(number) for number in module.covered}
    for state in (State.CALL, State.NOP):
        some = [number for number in numbers if module.traced.get(number) is state]
        new.update(zip(some, module.sites.turned(some, state), strict=True))
    return (
        list(pick(module.addresses, numbers)), list(pick(module.codes, numbers)),
        [new[number] for number in numbers],
    )  # fmt: skip


def joined(
    memory: ProcessMemory, modules: Sequence[LiveSites], columns: Sequence[Columns]
) -> Batch:
    """Make one batch of the changes of all modules, which are at ascending addresses."""
    some = [(module, each) for module, each in zip(modules, columns, strict=True) if each[0]]
    starts = [module.addresses[0] for module, _ in some]

    def symbol(address: int) -> str:
        module = some[bisect_right(starts, address) - 1][0]
        return module.place_at(address)

    def check() -> None:
        for module, _ in some:
            module.file.refuse_gone(memory)

    addresses = [address for _, each in some for address in each[0]]
    old = [code for _, each in some for code in each[1]]
    new = [code for _, each in some for code in each[2]]
    return Batch(addresses, old, new, symbol, check)


def prepare(target: Target, modules: Sequence[LiveSites], batch: Batch) -> None:
    """Make the text of a batch, before and after, while the process runs."""

    def expected(address: int, size: int) -> bytes:
        for module in modules:
            if any(each.range.holds(address, size) for each in module.file.mappings):
                return module.text(address, size)
        return b""

    target.machine.memory.prepare(batch, expected)
