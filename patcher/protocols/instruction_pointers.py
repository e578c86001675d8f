"""Sites of more than one instruction: nobody may stand inside one when it is changed.

Neither stopping nor serialising moves a CPU, or a thread that waits for one, out of a site. Who
stands between two instructions of the old code would go on in the middle of the new one.
"""

from bisect import bisect_right
from collections.abc import Sequence

from patcher.errors import StateError
from patcher.modify import Batch, Change
from recordmcount.x86 import first_instruction

from .steps import InstructionPointers, Steps


def not_one_instruction(batch: Batch) -> list[Change]:
    """The changes whose old code is not known to be one instruction; planned before any step."""
    codes = set(batch.old)  # of NOPs there are few
    whole = {code for code in codes if first_instruction(code) == len(code)}
    return [
        Change(address, old, new, batch.symbol(address))
        for address, old, new in zip(batch.addresses, batch.old, batch.new, strict=True)
        if old not in whole
    ]


def refuse_inside(path: str, changes: Sequence[Change]) -> Steps[None]:
    """StateError if a CPU stands inside one of these sites, into which none can come any more."""
    if not changes:
        return
    pointers = sorted((yield InstructionPointers()))
    for change in changes:
        behind = bisect_right(pointers, change.address)
        if behind < len(pointers) and pointers[behind] < change.address + len(change.old):
            raise StateError(
                path, f"a CPU stands inside, at {pointers[behind]:#x}: try again",
                address=change.address, symbol=change.symbol, actual=change.old,
            )  # fmt: skip
