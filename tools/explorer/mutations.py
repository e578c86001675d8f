"""Protocols changed in one respect: a step is left out, replaced, or made to fail."""

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
    """Replace each step by the steps that `change` gives for it.

    The protocol gets the answer to the last of them, or `otherwise` if there is none.
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
    """Let the steps with these numbers (from 1) fail.

    Only Write, Sync and ReadBack are counted. A Write that fails has written half of its sites.
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


def without(step_type: type[Step], number: int | None = None, *instead: Step) -> Transformation:
    """Replace all steps of a type, or only the one with this number (from 1), by `instead`."""

    def transform(steps: Steps[Any]) -> Steps[Any]:
        seen = count(1)

        def change(step: Step) -> list[Step]:
            dropped = isinstance(step, step_type) and number in {None, next(seen)}
            return list(instead) if dropped else [step]

        return changed(steps, change)

    return transform


def without_look_inside(steps: Steps[Any]) -> Steps[Any]:
    """Let the writer believe that no CPU stands inside a site, without looking."""

    def change(step: Step) -> list[Step]:
        return [] if isinstance(step, InstructionPointers) else [step]

    # Every other step is kept, and so has an answer of its own.
    return changed(steps, change, otherwise=())


def heads_before_tails(batch: Batch) -> Transformation:
    """Let the breakpoint protocol write the first bytes before the others, not after them."""
    tails = Write([address + 1 for address in batch.addresses], [new[1:] for new in batch.new])
    heads = Write(batch.addresses, [new[:1] for new in batch.new])

    def transform(steps: Steps[Any]) -> Steps[Any]:
        swapped = iter([None, heads, tails])

        def change(step: Step) -> list[Step]:
            # What stands between the two writes is no longer what the protocol expects.
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

    This applies to the steps of the writer and to those of the NMI.
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
