"""Change code that NMIs execute, with all CPUs stopped: the two-buffer protocol of 2008.

Writing the bytes that are already there does no harm. So one buffer holds an address and another
the new code, and an NMI that arrives while the flag is up writes that code itself before it
executes anything. For each site:

1. fill both buffers;   2. wait until no NMI runs;   3. raise the flag;
4. write the code;      5. lower the flag;           6. wait until no NMI runs.

Without step 2 an NMI that did not see the flag executes what is being written. Without step 6 an
NMI that saw the flag for one site finds the address of the next site in one buffer and the code of
the last one in the other. Steps 2 and 3 are one act: the flag is a bit of the count of running
NMIs, set when the count is 0. In 2008 the writer raised the flag first and waited then; so an NMI
that saw the flag could write what another one, which did not, was executing (tools/explore shows
it).

Facts: Linux commit 17666f02b118, "ftrace: nmi safe code modification" (2008), and
wait_for_nmi_and_set_mod_flag() of arch/x86/kernel/ftrace.c from 2009 on.
"""

from collections.abc import Callable

from patcher.errors import WriteError
from patcher.modify import Batch

from . import stop_machine
from .machine import Machine
from .steps import (
    Add,
    Body,
    Count,
    Exchange,
    Fence,
    Load,
    Steps,
    Store,
    WaitZero,
    Write,
    run,
)

ADDRESS, CODE = "mod_code_ip", "mod_code_newcode"
RUNNING = "nmi_running"  # how many NMIs run, and the flag
FLAG = 1 << 31
WAITS, UPDATES = "nmi_wait_count", "nmi_update_count"


def modify(machine: Machine, batch: Batch) -> None:
    """Make all changes of the batch, or none if one of them does not verify.

    Every NMI of the machine must come in by `deliver`, from before the first change on. Raises
    ReadError, CompareError, WriteError, or StateError if a CPU stands inside a site; by then the
    flag is down and the CPUs run again. Before a WriteError some sites may have been written, each
    as a whole.
    """
    run(machine, steps(machine.memory.path, batch))


def deliver(machine: Machine, body: Callable[[], None]) -> None:
    """Handle an NMI: write what the writer needs, then run `body`, which may execute any site."""
    run(machine, handler(body))


def steps(path: str, batch: Batch) -> Steps[None]:
    """Yield the steps of the writer, with all CPUs stopped."""
    yield from stop_machine.steps(path, batch, _write_each)


def _write_each(batch: Batch) -> Steps[None]:
    for address, new in zip(batch.addresses, batch.new, strict=True):
        yield from _write(address, new)


def _write(address: int, code: bytes) -> Steps[None]:
    yield Store(ADDRESS, address)
    yield Store(CODE, code)
    try:
        # Acts on the count are fences: whoever sees the flag sees the buffers, and the code.
        yield Exchange(RUNNING, 0, FLAG, WAITS)
        yield Write([address], [code])
        yield Add(RUNNING, -FLAG)
        yield WaitZero(RUNNING, WAITS)
    except BaseException:
        # An NMI that saw the flag may still have to write: until it has, no NMI may miss the flag.
        flag = (yield Load(RUNNING)) & FLAG
        yield Exchange(RUNNING, flag, 0, WAITS)
        raise


def handler(body: Callable[[], None]) -> Steps[None]:
    """Yield the steps of an NMI, which counts itself and sees the flag in the same act."""
    running = yield Add(RUNNING, 1)
    try:
        if running & FLAG:
            yield from _write_for_writer()
        yield Body(body)
    finally:
        yield Add(RUNNING, -1)


def _write_for_writer() -> Steps[None]:
    """Write what the writer writes. A failure is not reported: the writer meets it too."""
    address = yield Load(ADDRESS)
    code = yield Load(CODE)
    try:
        yield Write([address], [code])
    except WriteError:
        return
    yield Fence()
    yield Count(UPDATES)
