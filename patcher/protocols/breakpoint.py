"""Change code while everyone runs: the breakpoint protocol of 2012.

An int3 in its first byte keeps every CPU out of a site. While it stands, the other bytes can be
changed one by one; then the first byte closes the change. Between these acts all CPUs are
serialised, so that none holds bytes it fetched before:

1. count `modifying` up;   2. int3 into the first byte of all sites; sync;
3. the other bytes; sync;  4. the first bytes; sync;   5. count `modifying` down.

Before the third step nobody may stand between two instructions of a site: the breakpoint lets
nobody in any more, and who is inside still is found by the machine.

Whoever hits a breakpoint meanwhile treats the site as a NOP. The count must be seen by everyone
before the first int3 is: with a plain variable a CPU could hit an int3 that nobody knows.

Facts: Linux commits 08d636b6d4fb, "ftrace/x86: Have arch x86_64 use breakpoints instead of stop
machine" (2012), and a192cd0413b7, "ftrace: Synchronize variable setting with breakpoints" (2012).
"""

from bisect import bisect_left
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

from patcher.errors import CompareError, StandingError
from patcher.modify import Batch, Change
from recordmcount.x86 import INT3

from .instruction_pointers import not_one_instruction, refuse_inside
from .machine import Machine
from .steps import Add, Load, Read, ReadBack, Steps, Sync, Verify, Write, run

MODIFYING = "modifying"


def modify(machine: Machine, batch: Batch) -> None:
    """Make all changes of the batch, or none if one of them does not verify.

    The machine reports every breakpoint that is hit to `Machine.int3`. Raises ReadError,
    CompareError, WriteError or, where a CPU stands inside a site, StateError; each site is then as
    it was or as it should be, as a whole. After a StandingError some may not be: their breakpoint
    stays, and so does the handler that skips them.
    """
    path = machine.memory.path
    handler = partial(_skip, machine, batch)
    machine.int3_handlers.insert(0, handler)
    stays = False
    try:
        run(machine, steps(path, batch))
    except StandingError:
        stays = True
        raise
    finally:
        if not stays:
            machine.int3_handlers.remove(handler)


def _skip(machine: Machine, batch: Batch, address: int) -> int | None:
    return run(machine, handler(batch, address))


def handler(batch: Batch, address: int) -> Steps[int | None]:
    """The steps of whoever hit a breakpoint at `address`: how many bytes to skip.

    None: no site is being changed there, the breakpoint is for others.
    """
    if not (yield Load(MODIFYING)):
        return None
    number = bisect_left(batch.addresses, address)
    if number == len(batch) or batch.addresses[number] != address:
        return None
    return len(batch.old[number])


def steps(path: str, batch: Batch) -> Steps[None]:
    """The steps of the writer."""
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
        # A site is opened only when all of it is known to be there.
        closed = [INT3 + new[1:] for new in batch.new]
        yield ReadBack(Batch(addresses, batch.old, closed, batch.symbol, batch.check))
        yield Sync()
        yield Write(addresses, [new[:1] for new in batch.new])
        yield Sync()
        yield ReadBack(batch)
    except BaseException as fault:
        try:
            standing = yield from _remove_breakpoints(batch)
        except BaseException as second:  # nobody knows what stands
            raise _left(path, batch, addresses) from second
        if standing:
            raise _left(path, batch, standing) from fault
        if (yield Load(MODIFYING)) != before:
            yield Add(MODIFYING, -1)
        raise
    yield Add(MODIFYING, -1)


def _refuse_breakpoints(path: str, batch: Batch) -> None:
    """An int3 that is there before or after could not be told from one of ours.

    Nor has a site of no bytes one to put it into.
    """
    for address, old, new in zip(batch.addresses, batch.old, batch.new, strict=True):
        if not old or INT3 in (old[:1], new[:1]):
            what = "a breakpoint can neither be changed nor be made" if old else "has no bytes"
            raise CompareError(
                path, what, address=address, symbol=batch.symbol(address), actual=old
            )  # fmt: skip


def _left(path: str, batch: Batch, standing: Sequence[int]) -> StandingError:
    first, *others = standing
    more = f", as {len(others)} more," if others else ""
    what = f"its breakpoint{more} may still be hit: its handler stays"
    return StandingError(path, what, address=first, symbol=batch.symbol(first))


def _remove_breakpoints(batch: Batch) -> Steps[Sequence[int]]:
    """Make each site whole again, by what stands there now; the addresses where that failed.

    A site whose other bytes are new may get its first byte only after a sync, as above. If the
    last sync fails, any CPU may still hold any of the breakpoints.
    """
    synced = yield from _sync()
    standing = []
    for change in map(Change, batch.addresses, batch.old, batch.new):
        removed = yield from _remove_breakpoint(change, synced=synced)
        standing += [] if removed else [change.address]
    synced = yield from _sync()
    return standing if synced else batch.addresses


def _sync() -> Steps[bool]:
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
