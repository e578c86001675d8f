"""Stop everyone, write, let everyone go: the protocol of ftrace before 2012.

Nothing is left to go wrong but an interrupt that cannot be masked: an NMI still arrives on a
stopped CPU and executes code that is being written. That is what `nmi` is for.
"""

from collections.abc import Callable

from patcher.modify import Batch

from .instruction_pointers import not_one_instruction, refuse_inside
from .machine import Machine
from .steps import ReadBack, Resume, Steps, Stop, Verify, Write, run


def modify(machine: Machine, batch: Batch) -> None:
    """Make all changes of the batch while nobody runs, or none if one of them does not verify.

    Raises ReadError, CompareError, StateError where a CPU stands inside a site, or WriteError; the
    CPUs then run again. A WriteError can come after some sites were written, each as a whole.
    """
    run(machine, steps(machine.memory.path, batch))


def at_once(batch: Batch) -> Steps[None]:
    """Write all at once, for nobody looks."""
    yield Write(batch.addresses, batch.new)


def steps(path: str, batch: Batch, write: Callable[[Batch], Steps[None]] = at_once) -> Steps[None]:
    """The steps of the writer; `write` are those of them that change code.

    The comparison is made inside the stop: between it and the writes nothing can change.
    """
    if not len(batch):
        return
    enterable = not_one_instruction(batch)
    try:
        yield Stop()
        yield Verify(batch)
        yield from refuse_inside(path, enterable)
        yield from write(batch)
    finally:
        yield Resume()
    yield ReadBack(batch)
