"""Stop all CPUs, write, let them go on: the protocol of ftrace before 2012.

It is not safe against interrupts that cannot be masked: an NMI still arrives on a stopped CPU and
may execute code that is being written. The protocol of `nmi` is for that case.
"""

from collections.abc import Callable

from patcher.modify import Batch

from .instruction_pointers import not_one_instruction, refuse_inside, step_out
from .machine import Machine
from .steps import ReadBack, Resume, Steps, Stop, Verify, Write, run


def modify(machine: Machine, batch: Batch) -> None:
    """Make all changes of the batch while no CPU runs, or none if one of them does not verify.

    Raises ReadError, CompareError, WriteError, or StateError if a CPU stands inside a site; the
    CPUs run again by then. Before a WriteError some sites may have been written, each as a whole.
    """
    run(machine, steps(machine.memory.path, batch))


def write_all(batch: Batch) -> Steps[None]:
    """Write all sites in one step, which is safe while no CPU runs."""
    yield Write(batch.addresses, batch.new)


def steps(
    path: str, batch: Batch, write: Callable[[Batch], Steps[None]] = write_all
) -> Steps[None]:
    """Yield the steps of the writer; those of `write` change the code.

    The sites are compared, and read back, while the CPUs stand, so that nothing can change before
    the writes, and no code runs that is not what it should be.
    """
    if not len(batch):
        return
    enterable = not_one_instruction(batch)
    try:
        yield Stop()
        yield Verify(batch)
        yield from step_out(enterable)
        yield from refuse_inside(path, enterable)
        yield from write(batch)
        yield ReadBack(batch)
    finally:
        yield Resume()
