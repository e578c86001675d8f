"""What is written to sites so that they are traced, and so that they are as before: batches."""

from __future__ import annotations

from collections.abc import Callable

from patcher.modify import Batch
from patcher.process.live_sites import LiveSites
from recordmcount.columns import pick
from recordmcount.sites.state import State
from recordmcount.x86_code import call

from .trampoline import WAS_CALL
from .ways import Chosen


def to_trace(chosen: Chosen, way_of: Callable[[int], int]) -> Batch:
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
    module = chosen.module
    return Batch(chosen.addresses, pick(module.codes, chosen.numbers), new, module.place_at)


def to_before(module: LiveSites) -> Batch:
    """Make each traced site of a module what it was; on what is covered the breakpoint stays."""
    numbers = sorted({*module.traced, *module.covered})
    new = {number: module.uncovered(number) for number in module.covered}
    for state in (State.CALL, State.NOP):
        some = [number for number in numbers if module.traced.get(number) is state]
        new.update(zip(some, module.sites.turned(some, state), strict=True))
    return Batch(
        pick(module.addresses, numbers), pick(module.codes, numbers),
        [new[number] for number in numbers], module.place_at,
    )  # fmt: skip
