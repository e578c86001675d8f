"""Change code while all CPUs run: the breakpoint protocol of 2012.

An int3 in its first byte keeps every CPU out of a site. While it stands, the other bytes can be
changed one by one; writing the first byte completes the change. All CPUs serialise (`sync`) between
these acts, so that none holds bytes it fetched before:

1. increment `modifying`;         2. write int3 into the first byte of all sites; sync;
3. write the other bytes; sync;   4. write the first bytes; sync;
5. decrement `modifying`.

Before step 3 no CPU may stand between two instructions of a site: the breakpoint keeps CPUs from
entering, and the machine finds those that are still inside.

A CPU that hits a breakpoint meanwhile treats the site as a NOP. Every CPU must see the count before
it can see the first int3: with a plain variable, one could hit an int3 that no handler knows.

Facts: Linux commits 08d636b6d4fb, "ftrace/x86: Have arch x86_64 use breakpoints instead of stop
machine" (2012), and a192cd0413b7, "ftrace: Synchronize variable setting with breakpoints" (2012).
"""

from bisect import bisect_left
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

from patcher.errors import CompareError, StandingError
from patcher.modify import Batch, Change
from recordmcount.x86_code import INT3

from .instruction_pointers import not_one_instruction, refuse_inside
from .machine import Machine
from .steps import Add, Load, Read, ReadBack, Steps, Sync, Verify, Write, run

MODIFYING = "modifying"


def modify(machine: Machine, batch: Batch) -> None:
    """Make all changes of the batch, or none if one of them does not verify.

    The machine must report every breakpoint that a CPU hits to `Machine.int3`. Raises ReadError,
    CompareError, WriteError, or StateError if a CPU stands inside a site; each site is then wholly
    as it was or wholly as it should be. After a StandingError some sites may be neither: their
    breakpoint stays, and so does the handler that skips them.
    """
    path = machine.memory.path
    int3_handler = partial(_handle, machine, batch)
    machine.int3_handlers.insert(0, int3_handler)
    stays = False
    try:
        run(machine, steps(path, batch))
    except StandingError:
        stays = True
        raise
    finally:
        if not stays:
            machine.int3_handlers.remove(int3_handler)


def remove(machine: Machine, batch: Batch) -> None:
    """Remove what stands of a batch after a StandingError. Raises that again if some still does."""
    if standing := run(machine, _remove_breakpoints(batch)):
        raise _standing_error(machine.memory.path, batch, standing)


def _handle(machine: Machine, batch: Batch, address: int) -> int | None:
    return run(machine, handler(batch, address))


def handler(batch: Batch, address: int) -> Steps[int | None]:
    """Yield the steps of a CPU that hit a breakpoint at `address`; return how many bytes to skip.

    None means that no site is being changed there: the breakpoint is for others.
    """
    if not (yield Load(MODIFYING)):
        return None
    number = bisect_left(batch.addresses, address)
    if number == len(batch) or batch.addresses[number] != address:
        return None
    return len(batch.old[number])


def steps(path: str, batch: Batch) -> Steps[None]:
    """Yield the steps of the writer."""
    if not len(batch):
        return
    addresses = batch.addresses
    _refuse_breakpoints(path, batch)
    enterable = not_one_instruction(batch)
    yield Verify(batch)
    before = yield Load(MODIFYING)
    try:
        yield Add(MODIFYING, 1)
        yield Write(addresses, [INT3] * len(batch))
        yield Sync()
        yield from refuse_inside(path, enterable)
        yield Write([address + 1 for address in addresses], [new[1:] for new in batch.new])
        # A breakpoint is removed only when all other bytes are known to be there.
        trapping = [INT3 + new[1:] for new in batch.new]
        yield ReadBack(Batch(addresses, batch.old, trapping, batch.symbol, batch.check))
        yield Sync()
        yield Write(addresses, [new[:1] for new in batch.new])
        yield Sync()
        yield ReadBack(batch)
    except BaseException as fault:
        try:
            standing = yield from _remove_breakpoints(batch)
        except BaseException as second:  # any breakpoint may still stand
            raise _standing_error(path, batch, addresses) from second
        if standing:
            raise _standing_error(path, batch, standing) from fault
        if (yield Load(MODIFYING)) != before:
            yield Add(MODIFYING, -1)
        raise
    yield Add(MODIFYING, -1)


def _refuse_breakpoints(path: str, batch: Batch) -> None:
    """Raise CompareError if a site has an int3 before or after the change, or has no bytes.

    Such an int3 could not be told from the protocol's own.
    """
    for address, old, new in zip(batch.addresses, batch.old, batch.new, strict=True):
        if not old or INT3 in (old[:1], new[:1]):
            what = "a breakpoint can neither be changed nor be made" if old else "has no bytes"
            raise CompareError(
                path, what, address=address, symbol=batch.symbol(address), actual=old
            )  # fmt: skip


def _standing_error(path: str, batch: Batch, standing: Sequence[int]) -> StandingError:
    first, *others = standing
    more = f", as {len(others)} more," if others else ""
    what = f"its breakpoint{more} may still be hit: its handler stays"
    return StandingError(path, what, address=first, symbol=batch.symbol(first))


def _remove_breakpoints(batch: Batch) -> Steps[Sequence[int]]:
    """Make each site whole, old or new by its bytes of now; return the addresses where that failed.

    A site whose other bytes are new may get its first byte only after a sync, as in the protocol.
    If the last sync fails, any CPU may still hold any of the breakpoints.
    """
    synced = yield from _try_to_sync()
    standing = []
    for change in map(Change, batch.addresses, batch.old, batch.new):
        removed = yield from _remove_breakpoint(change, synced=synced)
        standing += [] if removed else [change.address]
    synced = yield from _try_to_sync()
    return standing if synced else batch.addresses


def _try_to_sync() -> Steps[bool]:
    with suppress(Exception):
        yield Sync()
        return True
    return False


def _remove_breakpoint(change: Change, *, synced: bool) -> Steps[bool]:
    with suppress(Exception):
        now = yield Read(change.address, len(change.old))
        if now[:1] != INT3:
            return True
        if now[1:] == change.old[1:]:
            yield Write([change.address], [change.old[:1]])
            return True
        if now[1:] == change.new[1:] and synced:
            yield Write([change.address], [change.new[:1]])
            return True
    return False
