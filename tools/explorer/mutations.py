"""Protocols changed in one respect: a step left out, put in another's place, or made to fail."""

from collections.abc import Callable, Container, Iterable
from itertools import count
from typing import Any

from patcher.errors import WriteError
from patcher.modify import Batch
from patcher.protocols import nmi
from patcher.protocols.breakpoint import MODIFYING
from patcher.protocols.steps import (
    Add,
    Exchange,
    Fence,
    InstructionPointers,
    Load,
    ReadBack,
    Step,
    Steps,
    Store,
    Sync,
    WaitZero,
    Write,
)

from .program import discard

Transformation = Callable[[Steps[Any]], Steps[Any]]
OLD_FLAG = "mod_code_write"


def changed(
    steps: Steps[Any], change: Callable[[Step], Iterable[Step]], otherwise: Any = None
) -> Steps[Any]:
    """The same steps, but each one replaced by those that `change` gives for it.

    The protocol is answered what the last of them gives, `otherwise` if there is none.
    """
    answer = None
    try:
        while True:
            step = steps.send(answer)
            answer = otherwise
            for other in change(step):
                answer = yield other
    except StopIteration as end:
        return end.value
    finally:
        discard(steps)


def failing(failed: Container[int]) -> Transformation:
    """Let the steps of these numbers (from 1) fail.

    Write, Sync and ReadBack are counted. Half of the sites of a Write that fails are written.
    """

    def transform(steps: Steps[Any]) -> Steps[Any]:
        numbers = count(1)
        try:
            step = next(steps)
            while True:
                at = next(numbers) if isinstance(step, Write | Sync | ReadBack) else 0
                if at in failed:
                    if isinstance(step, Write):
                        half = len(step.addresses) // 2
                        yield Write(step.addresses[:half], step.data[:half])
                    step = steps.throw(WriteError("model", f"step {at} fails"))
                else:
                    step = steps.send((yield step))
        except StopIteration as end:
            return end.value
        finally:
            discard(steps)

    return transform


def without(kind: type[Step], number: int | None = None, *instead: Step) -> Transformation:
    """Take `instead` for all steps of a kind, or for the one of this number (from 1)."""

    def transform(steps: Steps[Any]) -> Steps[Any]:
        seen = count(1)

        def change(step: Step) -> list[Step]:
            dropped = isinstance(step, kind) and number in {None, next(seen)}
            return list(instead) if dropped else [step]

        return changed(steps, change)

    return transform


def blind(steps: Steps[Any]) -> Steps[Any]:
    """Let the writer not look where the others stand, but believe that they are in no site."""

    def change(step: Step) -> list[Step]:
        return [] if isinstance(step, InstructionPointers) else [step]

    # Every other step is taken, and so has an answer of its own.
    return changed(steps, change, otherwise=())


def heads_before_tails(batch: Batch) -> Transformation:
    """Let the second write of the breakpoint protocol be of first bytes, the third of the rest."""
    tails = Write([address + 1 for address in batch.addresses], [new[1:] for new in batch.new])
    heads = Write(batch.addresses, [new[:1] for new in batch.new])

    def transform(steps: Steps[Any]) -> Steps[Any]:
        swapped = iter([None, heads, tails])

        def change(step: Step) -> list[Step]:
            # What stands between the two is no longer what the protocol would read back.
            if isinstance(step, ReadBack):
                return []
            return [next(swapped) or step if isinstance(step, Write) else step]

        return changed(steps, change)

    return transform


def plain_modifying(steps: Steps[Any]) -> Steps[Any]:
    """Let `modifying` be stored like any variable, as before June 2012."""

    def change(step: Step) -> list[Step]:
        match step:
            case Add(variable, number) if variable == MODIFYING:
                return [Store(MODIFYING, max(number, 0))]
        return [step]

    return changed(steps, change)


def flag_without_wait(steps: Steps[Any]) -> Steps[Any]:
    """Let the writer raise the flag whether NMIs run or not."""

    def change(step: Step) -> list[Step]:
        match step:
            case Exchange(variable, 0, new):
                return [Add(variable, new)]
        return [step]

    return changed(steps, change)


def flag_before_wait(steps: Steps[Any]) -> Steps[Any]:
    """Let the flag be a variable of its own that is raised before the wait, as in 2008.

    For the steps of the writer, and for those of the NMI.
    """

    def change(step: Step) -> list[Step]:
        match step:
            case Exchange(variable, 0, new, statistic):
                return [Fence(), Store(OLD_FLAG, new), Fence(), WaitZero(variable, statistic)]
            case Add(_, number) if number == -nmi.FLAG:
                return [Fence(), Store(OLD_FLAG, 0), Fence()]
            case Add(_, 1):
                return [step, Load(OLD_FLAG)]
        return [step]

    return changed(steps, change)


def flag_lowered_at_once(steps: Steps[Any]) -> Steps[Any]:
    """Let the writer, when its write has failed, lower the flag whether NMIs run or not."""

    def change(step: Step) -> list[Step]:
        match step:
            case Exchange(variable, nmi.FLAG, 0):
                return [Add(variable, -nmi.FLAG)]
        return [step]

    return changed(steps, change)
