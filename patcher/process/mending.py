"""Give sleds that are parted the NOPs of their file, where nothing returns into them any more.

A call in a sled of more than 5 bytes has a NOP behind it, to which the function that is called
returns. So when it is turned off, a thread may have to return to between what takes its place; see
live_sites.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from contextlib import suppress

from patcher.errors import CompareError, ModuleError, ReadError, StateError
from patcher.files.switch import Plan
from recordmcount.sites.state import State

from .live_sites import LiveSites
from .live_switch import LiveSwitch
from .target import Target

Select = Callable[[Sequence[LiveSites]], Sequence[Sequence[int]]]
# How plans for modules are carried out, such as `switch.in_a_halt`.
CarryOut = Callable[[Target, Sequence[LiveSites], Sequence[Plan]], None]


def mend(
    target: Target, globs: Sequence[str], choose: Select, made: Sequence[LiveSites], halt: CarryOut
) -> None:
    """Give selected sleds of modules like `globs` that are parted the NOPs of their file.

    That is done in a halt of its own, by `halt`, if what was `made` may have parted some. Without
    it they are NOPs as well, so whatever is not as it should be is left for the next time.
    """
    if not any(module.may_be_parted for module in made):
        return
    with suppress(CompareError, ReadError, ModuleError, StateError):
        modules = target.modules(globs)
        selected = choose(modules)
        if not any(map(_parted, modules, selected)):
            return
        target.machine.stop()
        try:
            pointers = sorted(target.machine.instruction_pointers())
            plans = [
                _restored(module, _without(pointers, module, _parted(module, numbers)))
                for module, numbers in zip(modules, selected, strict=True)
            ]
            halt(target, modules, plans)
        finally:
            target.machine.resume()


def _parted(module: LiveSites, numbers: Sequence[int]) -> list[int]:
    return sorted(module.parted.intersection(numbers)) if module.parted else []


def _without(pointers: Sequence[int], module: LiveSites, numbers: Sequence[int]) -> list[int]:
    """Choose the sites inside of which none of the pointers, which ascend, is."""
    found = []
    for number in numbers:
        start = module.addresses[number]
        end = start + len(module.codes[number])
        if bisect_right(pointers, start) >= bisect_left(pointers, end):
            found.append(number)
    return found


def _restored(module: LiveSites, numbers: Sequence[int]) -> Plan:
    table = LiveSwitch(module)
    return Plan(table, State.NOP, numbers, numbers, [], table.batch(numbers, State.NOP))
