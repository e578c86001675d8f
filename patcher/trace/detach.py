"""The end of a trace, whoever began it: sites become what they were, and rings go.

What to do stands in the process: where a traced site calls tells what it was, and rings are known
by their name. So it is the same after patcher was killed, and in a child that has inherited traced
sites. The code stays, for threads may be in it, or have to return there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from patcher.errors import CompareError, HaltError, NoModuleError, ReadError, StateError
from patcher.ftrace.mappings import Range
from patcher.process import regions
from patcher.process.batches import join
from patcher.process.halt import Halt
from patcher.process.regions import NOBODY, Region
from patcher.process.remote_calls import RemoteCalls
from patcher.process.signal_frames import words_on_stacks
from patcher.process.target import Target
from patcher.process.traces import refuse_traced

from . import changes, mapping
from .injection import Done, apart, by_a_thread
from .layout import Control
from .mapping import MEMFD
from .own_memory import OwnMemory
from .switching import switch

ATTEMPTS = 10


class Left(NamedTuple):
    """What a trace has left: how many sites were brought back, and whether rings have to stay.

    `covered` of the sites have a breakpoint of somebody else's.
    """

    sites: int
    rings_stay: bool = False
    covered: int = 0

    @property
    def is_something(self) -> bool:
        """Whether there was anything left of a trace."""
        return bool(self.sites or self.rings_stay)

    def __str__(self) -> str:
        sites = f"{self.sites} sites are" if self.sites != 1 else "1 site is"
        told = f"{sites} what they were" if self.sites != 1 else f"{sites} what it was"
        if self.covered:
            told += f", {self.covered} of them behind a breakpoint of a uprobe or a debugger"
        if self.rings_stay:
            return f"{told}; the memory for events stays, as a thread may be writing to it"
        return told


def detach(target: Target, timeout: float) -> Left:
    """Bring all traced sites back to what they were, and take the rings away.

    Raises HaltError if another patcher traces it that is alive, and PatchError; each site is whole
    then, and calls what does nothing or is as it was.
    """
    memory = target.machine.memory
    refuse_traced(target.name, regions.find(memory))
    sites, covered = _restore(target)
    present = regions.find(memory)
    if not _rings(target) and all(each.owner == NOBODY for each in present):
        return Left(sites, covered=covered)
    is_locked = any(each.is_locked for each in present)
    rings_stay = not _unmap(target, timeout, is_locked=is_locked)
    return Left(sites, rings_stay, covered)


def _restore(target: Target) -> tuple[int, int]:
    """Bring the sites back; modules may come and go meanwhile.

    Returns how many there were, and how many of them have a breakpoint of somebody else's.
    """
    for attempt in range(ATTEMPTS):
        if not regions.find(target.machine.memory):
            return 0, 0
        try:
            modules = [each for each in target.settled_modules() if each.traced or each.covered]
        except NoModuleError:
            modules = []
        present = regions.find(target.machine.memory)
        batch = join(target.machine.memory, modules, [changes.to_before(each) for each in modules])
        try:
            switch(target, modules, batch, present, Control())
        except HaltError:
            raise
        except (CompareError, NoModuleError, ReadError, StateError):
            if attempt + 1 == ATTEMPTS:
                raise
        else:
            return len(batch), sum(len(each.covered) for each in modules)
    return 0, 0


def _unmap(target: Target, timeout: float, *, is_locked: bool) -> bool:
    """Take the rings away; False if some thread may still write to them."""

    def unmap() -> Done:
        done: list[bool] = []

        def act(calls: RemoteCalls, halt: Halt) -> None:
            memory = target.machine.memory
            present = regions.find(memory)
            if is_locked and _is_inside(target, halt, present):
                done.append(False)
                return
            for rings in _rings(target):
                mapping.unmap_rings(calls, rings)
            with OwnMemory(target.proc, memory) as own:
                own.look_again()
                for region in present:
                    own.own(region, NOBODY)
            done.append(True)

        for _ in range(ATTEMPTS):
            by_a_thread(target, timeout, mapping.wanted([], 0), act)
            if done[-1]:
                break
        return Done(done[-1])

    return bool(apart(target.name, unmap).value)


def _rings(target: Target) -> list[Range]:
    """Return the mappings that are rings; a child may have inherited those of its parent."""
    return [
        each.range
        for each in target.machine.memory.mappings()
        if each.path.startswith(MEMFD) and each.protection == "rw-s"
    ]


def _is_inside(target: Target, halt: Halt, present: Sequence[Region]) -> bool:
    """Tell whether a thread is in the code of a region, or may have to return there."""
    memory = target.machine.memory
    for here in halt.registers_here():
        words = words_on_stacks(
            [here.stack_pointer], here.machine, memory.mappings(), memory.read
        )  # fmt: skip
        if any(
            each.code.holds(word) for each in present for word in (here.instruction_pointer, *words)
        ):
            return True
    return False
