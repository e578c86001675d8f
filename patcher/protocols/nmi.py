"""Code that NMIs execute, changed while all other code is stopped: the two-buffer protocol of 2008.

Writing the bytes that are already there harms nobody. So one buffer holds an address and another
the code to come, and an NMI that arrives while the flag is up writes that code itself before it
executes anything. Per site:

1. fill both buffers;      2. raise the flag;     3. wait for the NMIs that did not see it;
4. write the code;         5. lower the flag;     6. wait for the NMIs that did.

Without the third step an NMI executes what the fourth is writing. Without the sixth an NMI that
saw the flag of one site finds the address of the next in the buffer, and the code of the last.

Facts: Linux commit 17666f02b118, "ftrace: nmi safe code modification" (2008, v2.6.28).
"""

from collections.abc import Callable

from patcher.errors import WriteError
from patcher.modify import Batch

from .machine import Machine
from .steps import (
    Add,
    Body,
    Count,
    Fence,
    Load,
    ReadBack,
    Resume,
    Steps,
    Stop,
    Store,
    Verify,
    WaitZero,
    Write,
    run,
)

ADDRESS, CODE, WRITING = "mod_code_ip", "mod_code_newcode", "mod_code_write"
RUNNING = "in_nmi"
WAITS, UPDATES = "nmi_wait_count", "nmi_update_count"


def modify(machine: Machine, batch: Batch) -> None:
    """Make all changes of the batch, or none if one of them does not verify.

    Every NMI of the machine must come in by `deliver`, from before the first change on. Raises
    ReadError, CompareError or WriteError; the flag is then down and the CPUs run again. A
    WriteError can come after some sites were written, each as a whole.
    """
    run(machine, steps(batch))


def deliver(machine: Machine, body: Callable[[], None]) -> None:
    """An NMI: do what the writer may need, then `body`, which may execute any site."""
    run(machine, handler(body))


def steps(batch: Batch) -> Steps[None]:
    """The steps of the writer."""
    yield Stop()
    try:
        yield Verify(batch)
        for address, new in zip(batch.addresses, batch.new, strict=True):
            yield from _write(address, new)
    finally:
        yield Resume()
    yield ReadBack(batch)


def _write(address: int, code: bytes) -> Steps[None]:
    yield Store(ADDRESS, address)
    yield Store(CODE, code)
    yield Fence()
    try:
        yield Store(WRITING, 1)
        yield Fence()
        yield WaitZero(RUNNING, WAITS)
        yield Write([address], [code])
        yield Fence()
    finally:
        yield Store(WRITING, 0)
        yield Fence()
        yield WaitZero(RUNNING, WAITS)


def handler(body: Callable[[], None]) -> Steps[None]:
    """The steps of an NMI.

    It counts itself before it looks at the flag; so the writer, who looks at the count after
    raising the flag, meets every NMI that did not see it. A write that fails here is not told: the
    writer meets the same fault.
    """
    yield Add(RUNNING, 1)
    try:
        if (yield Load(WRITING)):
            address = yield Load(ADDRESS)
            code = yield Load(CODE)
            yield Write([address], [code])
            yield Fence()
            yield Count(UPDATES)
    except WriteError:
        pass
    try:
        yield Body(body)
    finally:
        yield Add(RUNNING, -1)
