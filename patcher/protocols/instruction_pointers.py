"""Sites of two instructions: no CPU may stand inside one when it is changed.

Neither stopping nor serialising moves a CPU, or a thread that waits for one, out of a site. One
that stands between two instructions of the old code would go on in the middle of the new code.

From inside of a sled a stopped CPU can be moved to its end, if nothing but NOPs is between: that is
what executing them would come to. So it is between the NOPs of the compiler's, and behind the 5
bytes of a call that has a NOP behind it. What comes back there later, from a signal handler or from
the function that is called, has only its address on a stack, and is nothing to be moved.
"""

from _operator import itemgetter
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from patcher.errors import StateError
from patcher.modify import Batch, Change
from recordmcount.x86 import CALL
from recordmcount.x86_code import first_instruction
from recordmcount.x86_nops import nop_ends

from .steps import InstructionPointers, StepOut, Steps


def not_one_instruction(batch: Batch) -> list[Change]:
    """Select, before any step, the changes whose old code is not known to be one instruction."""
    several = {code for code in _others(batch.old) if first_instruction(code) != len(code)}
    if not several:
        return []
    return [
        Change(address, old, new, batch.symbol(address))
        for address, old, new in zip(batch.addresses, batch.old, batch.new, strict=True)
        if old in several
    ]


def _others(codes: Sequence[bytes]) -> set[bytes]:
    """Select those that are no direct calls; of these most are, each to another distance."""
    if {*map(len, codes)} == {5} and {*map(itemgetter(0), codes)} == {*CALL.prefix}:
        return set()
    return {code for code in codes if len(code) != 5 or not code.startswith(CALL.prefix)}


def step_out(changes: Sequence[Change]) -> Steps[None]:
    """Move stopped CPUs that stand before the last NOPs of one of these sites behind them."""
    sleds = [change for change in changes if _is_idle(change.old[first_instruction(change.old) :])]
    addresses = [change.address for change in sleds]

    def to(pointer: int) -> int:
        number = bisect_right(addresses, pointer) - 1
        done = pointer - addresses[number]
        rest = sleds[number].old[done:] if number >= 0 and done else b""
        return pointer + len(rest) if _is_idle(rest) else pointer

    if sleds:
        yield StepOut(to)


def _is_idle(code: bytes) -> bool:
    """Tell whether `code` is NOPs, and nothing else."""
    return nop_ends(code)[-1:] == [len(code)]


def refuse_inside(path: str, changes: Sequence[Change]) -> Steps[None]:
    """Raise StateError if a CPU stands inside one of these sites, which none can enter any more.

    One that stands before NOPs that stay, as behind a call in a sled, may stand there.
    """
    if not changes:
        return
    pointers = sorted((yield InstructionPointers()))
    for change in changes:
        first = bisect_right(pointers, change.address)
        last = bisect_left(pointers, change.address + len(change.old), first)
        for pointer in pointers[first:last]:
            rest = change.old[pointer - change.address :]
            if not _is_idle(rest) or not change.new.endswith(rest):
                raise StateError(
                    path, f"a CPU stands inside, at {pointer:#x}: try again",
                    address=change.address, symbol=change.symbol, actual=change.old,
                )  # fmt: skip
