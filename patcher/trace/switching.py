"""One halt in which sites change, and what goes on in regions with them."""

from __future__ import annotations

from collections.abc import Sequence

from patcher.modify import Batch, check_shape, verify
from patcher.process.batches import prepare
from patcher.process.live_sites import LiveSites
from patcher.process.regions import Region
from patcher.process.target import Target
from patcher.protocols import stop_machine

from .layout import Control
from .own_memory import OwnMemory


def switch(
    target: Target,
    modules: Sequence[LiveSites],
    batch: Batch,
    changed: Sequence[Region],
    control: Control,
) -> None:
    """Make all changes of a batch, and of the control pages of regions, in one halt.

    Raises PatchError; no site was changed then, but before a WriteError.
    """
    machine, memory = target.machine, target.machine.memory
    check_shape(memory.path, batch)
    if len(batch):
        prepare(memory, modules, batch)
        verify(memory, batch)  # what is outdated halts nothing
    machine.stop()
    try:
        with OwnMemory(target.proc, memory) as own:
            for region in changed:  # first: no site may call what is not there
                own.control(region, control)
        stop_machine.modify(machine, batch)
    finally:
        machine.resume()
