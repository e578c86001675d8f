"""A function that is to be called from sleds must not come back to itself by its own sled.

That would never end. What the function calls in turn may have sleds, too; that is told in the docs.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from patcher.errors import TargetError
from recordmcount.sites.state import State
from recordmcount.x86 import ENDBR

from .functions import Goal
from .live_sites import LiveSites
from .target import Target

BEFORE = (0, len(ENDBR[0]))  # bytes of a function before its sled


def refuse_recursion(
    target: Target, modules: Sequence[LiveSites], selected: Sequence[Sequence[int]], goal: Goal
) -> None:
    """Raise TargetError if the goal's own sled is to become a call, or is one."""
    for module in target.sites(goal.file.mappings):
        if module.where([*_sleds_of(module, goal)], State.CALL):
            what = f"{goal} has a site of its own that is a call: turn that off first"
            raise TargetError(target.name, what)
    for module, numbers in zip(modules, selected, strict=True):
        if {*_sleds_of(module, goal)}.intersection(numbers):
            what = f"{goal} has a site of its own among these, and would call itself for ever"
            raise TargetError(target.name, f"{what}: leave it out by --notrace {goal.name}")


def _sleds_of(module: LiveSites, goal: Goal) -> Iterator[int]:
    """Number the sleds of the goal in a module."""
    for before in BEFORE:
        number = bisect_left(module.addresses, goal.address + before)
        is_there = module.addresses[number : number + 1] == [goal.address + before]
        if is_there and module.without_call([number]) and module[number].function_offset == before:
            yield number
