"""Which way each site goes into the trampoline, by what stands before it in its function.

Where the caller of a function cannot be told for certain, it is not told.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from patcher.errors import CompareError
from patcher.ftrace.mappings import Range
from patcher.process.live_sites import LiveSites
from recordmcount.sites.state import State
from recordmcount.x86 import EM_X86_64
from recordmcount.x86_code import RELATIVE_CALLS
from recordmcount.x86_functions import PUSH_CHAIN, SET_FRAME, before_fentry, is_prologue

LONGEST_PROLOGUE = 256  # bytes


class Chosen(NamedTuple):
    """Sites of a module that are to be traced: columns of equal length.

    `addresses` are run-time addresses, `lengths` in bytes, `states` those before, `ways` the names
    of ways into the trampoline. `left` says of how many others why they cannot be traced.
    """

    module: LiveSites
    numbers: list[int]
    addresses: list[int]
    lengths: list[int]
    states: list[State]
    ways: list[str]
    left: dict[str, int]

    @property
    def range(self) -> Range:
        """Run-time addresses from the first site to the end of the last; there must be some."""
        return Range(self.addresses[0], self.addresses[-1] + self.lengths[-1])


def choose(name: str, module: LiveSites, numbers: Sequence[int], *, exits: bool) -> Chosen:
    """Choose those of the `numbers` that can be traced; of functions' ends only if `exits`.

    `name` names the process in messages. Raises CompareError for a site that is foreign, or traced.
    """
    chosen = Chosen(module, [], [], [], [], [], {})
    ends = {*module.returns(numbers)}
    sleds = {*module.without_call(numbers)}
    fixed = {*module.sites.irreversible(numbers)}
    for state in (State.FOREIGN, State.TRACED):
        for number in module.where(numbers, state):
            site = module[number]
            what = f"is {state}: {site.reason}"
            raise CompareError.of(f"{name}: {module.file.path}", site, what)
    calls = {*module.where(numbers, State.CALL)}
    for number in numbers:
        if number in ends and not exits:
            continue
        why = _why_not(module, number, number in calls, number in sleds, number in fixed)
        if why:
            chosen.left[why] = chosen.left.get(why, 0) + 1
            continue
        chosen.numbers.append(number)
        chosen.addresses.append(module.addresses[number])
        chosen.lengths.append(len(module.codes[number]))
        chosen.states.append(State.CALL if number in calls else State.NOP)
        chosen.ways.append("exit" if number in ends else _way(module, number))
    return chosen


def _why_not(module: LiveSites, number: int, is_call: bool, is_sled: bool, is_fixed: bool) -> str:
    if is_fixed:
        return "could not be brought back to what they are"
    if len(module.codes[number]) not in RELATIVE_CALLS:
        return f"have {len(module.codes[number])} bytes, which no call of one instruction has"
    if is_sled and is_call:
        return "call what no file tells: turn them off by `patcher nop` before"
    return ""


def _way(module: LiveSites, number: int) -> str:
    """Name the way for the entry of a function, or for a call behind its prologue."""
    offset = module.sites.offset(number)
    if offset == 0:
        return "entry"
    if offset is None or offset > LONGEST_PROLOGUE:
        return "unframed"
    before = module.text(module.addresses[number] - offset, offset)
    if before_fentry(before) == len(before):
        return "chained" if before.endswith(PUSH_CHAIN) else "entry"
    is_framed = SET_FRAME in before and is_prologue(EM_X86_64, before)
    return "framed" if is_framed else "unframed"
