"""Sites of two instructions: no CPU may stand inside one when it is changed.

Neither stopping nor serialising moves a CPU, or a thread that waits for one, out of a site. One
that stands between two instructions of the old code would go on in the middle of the new code.
"""

from bisect import bisect_right
from collections.abc import Sequence

from patcher.errors import StateError
from patcher.modify import Batch, Change
from recordmcount.x86 import CALL, first_instruction

from .steps import InstructionPointers, Steps


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
    alike = {*map(len, codes)} == {5}
    if alike and b"".join(codes)[::5].count(CALL.prefix) == len(codes):
        return set()
    return {code for code in codes if len(code) != 5 or not code.startswith(CALL.prefix)}


def refuse_inside(path: str, changes: Sequence[Change]) -> Steps[None]:
    """Raise StateError if a CPU stands inside one of these sites, which none can enter any more."""
    if not changes:
        return
    pointers = sorted((yield InstructionPointers()))
    for change in changes:
        number = bisect_right(pointers, change.address)
        if number < len(pointers) and pointers[number] < change.address + len(change.old):
            raise StateError(
                path, f"a CPU stands inside, at {pointers[number]:#x}: try again",
                address=change.address, symbol=change.symbol, actual=change.old,
            )  # fmt: skip
