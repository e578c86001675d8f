"""Whose trace the traced sites of a process are of, by what the process itself tells."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from patcher.errors import HaltError
from recordmcount.columns import pick
from recordmcount.sites.state import State
from recordmcount.sites.words import sites_in_words

from . import regions
from .live_sites import LiveSites
from .memory import ProcessMemory
from .regions import NOBODY, Owner, Region
from .target import Target

ATTEMPTS = 3  # to look, while a trace ends
RUNNING, LEFT, INHERITED = "running", "left", "inherited"


class Trace(NamedTuple):
    """A trace of process `pid`: how many `sites`, by whom, and in which state it is.

    It is `running` while its tracer lives. It was `left` by one that is gone, or `inherited` by a
    child that was forked while its parent was traced: then nobody ends it but --detach.
    """

    pid: int
    sites: int
    owner: Owner
    state: str

    @property
    def is_running(self) -> bool:
        """Whether it has a tracer."""
        return self.state == RUNNING

    @property
    def what_to_do(self) -> str:
        """Say how it is ended."""
        if self.is_running:
            return "end that first"
        return f"`patcher trace --detach --pid {self.pid}` ends the trace"

    def __str__(self) -> str:
        if self.state == INHERITED:
            return "forked while it was traced by patcher"
        return f"traced by patcher, {self.owner}{'' if self.is_running else ', which is gone'}"


def in_words(trace: Trace | None) -> str:
    """Say that a process is traced, and by whom; what to do where nobody does it any more."""
    if trace is None:
        return "not traced any more"
    what = "" if trace.is_running else f"; {trace.what_to_do}"
    return f"{trace}: {sites_in_words(trace.sites)}{what}"


def are_good(states: Mapping[str, int] | Mapping[State, int], trace: Trace | None) -> bool:
    """Tell whether sites, counted by state, are all as somebody wants them now.

    None is foreign, and if some are traced, they are for a tracer that is there.
    """
    is_left = trace is not None and not trace.is_running
    return not states[State.FOREIGN] and not (is_left and states[State.TRACED])


def look(
    target: Target, globs: Sequence[str] = (), known: Sequence[LiveSites] = ()
) -> tuple[list[LiveSites], Trace | None]:
    """Read modules as Target.settled_modules does, and whose trace their traced sites are of.

    Sites that become what they were in between are looked at again: nobody's they only seem to be.
    """
    modules: list[LiveSites] = []
    trace: Trace | None = None
    for _ in range(ATTEMPTS):
        modules = target.settled_modules(globs, known)
        if not any(each.traced for each in modules):
            return modules, None
        trace = trace_of(target, modules)
        memory = target.machine.memory
        if trace.owner != NOBODY or all(_stand(memory, each) for each in modules):
            break
    return modules, trace


def refuse_traced(name: str, present: Sequence[Region]) -> None:
    """Raise HaltError if another patcher that is alive traces by one of the regions."""
    for each in present:
        if each.owner.pid and each.owner.pid != os.getpid() and each.owner.is_alive:
            raise HaltError(name, f"is traced by patcher, {each.owner}: end that first")


def refuse_sites(
    target: Target, modules: Sequence[LiveSites], selected: Sequence[Sequence[int]]
) -> None:
    """Raise HaltError if a selected site is traced, whoever has begun that."""
    if any(
        not module.traced.keys().isdisjoint(numbers)
        for module, numbers in zip(modules, selected, strict=True)
        if module.traced
    ):
        trace = trace_of(target, modules)
        raise HaltError(target.name, f"{trace}: {trace.what_to_do}; nothing was written")


def trace_of(target: Target, modules: Sequence[LiveSites]) -> Trace:
    """Tell whose trace the traced sites of these modules are of, of which there are some."""
    sites = sum(len(each.traced) for each in modules)
    owners = [each.owner for each in regions.find(target.machine.memory) if each.owner.pid]
    living = [each for each in owners if each.is_alive]
    owner, *_ = *living, *owners, NOBODY
    state = RUNNING if living else LEFT if owners else INHERITED
    return Trace(target.proc.pid, sites, owner, state)


def _stand(memory: ProcessMemory, module: LiveSites) -> bool:
    """Tell whether the traced sites of a module are still as they were read. Raises ReadError."""
    numbers = sorted(module.traced)
    codes = pick(module.codes, numbers)
    return list(codes) == list(memory.gather(pick(module.addresses, numbers), [*map(len, codes)]))
