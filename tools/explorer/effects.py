"""The effects of those steps of a program that a CPU carries out by itself."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from patcher.modify import Batch
from patcher.protocols.steps import (
    Add,
    Exchange,
    Fence,
    Load,
    Read,
    ReadBack,
    Step,
    Store,
    Verify,
    WaitZero,
    Write,
)

from .code import Code, Masks
from .state import Cpu, Place, State


class Effect(NamedTuple):
    """The answer to the program, and what has changed; or what the step violates."""

    answer: Any
    variables: tuple[tuple[str, Any], ...]
    stores: tuple[tuple[Place, Any], ...]
    violation: str = ""


def effect(code: Code, state: State, cpu: Cpu, step: Step) -> Effect | None:
    """Return the effect of a step that `cpu` takes; None if it must wait."""
    if _waits(state, cpu, step):
        return None
    done = Effect(None, state.variables, cpu.stores)
    match step:
        case Load(variable):
            done = done._replace(answer=visible(state, cpu, variable))
        case Store(variable, value):
            done = done._replace(stores=(*cpu.stores, (variable, value)))
        case Add(variable, number):
            value = visible(state, cpu, variable) + number
            done = done._replace(answer=value, variables=assigned(state, variable, value))
        case Exchange(variable, _, new):
            done = done._replace(variables=assigned(state, variable, new))
        case Write():
            done = _written(code, done, step)
        case Read(address, size):
            done = done._replace(answer=code.read(_seen(state, cpu), address, size))
        case Verify(batch):
            done = _compared(code, _seen(state, cpu), done, _pairs(batch, batch.old))
        case ReadBack(batch):
            done = _compared(code, _seen(state, cpu), done, _pairs(batch, batch.new))
        case Fence() | WaitZero():
            pass
        case _:
            raise TypeError(step)
    return done


def _waits(state: State, cpu: Cpu, step: Step) -> bool:
    match step:
        case Fence() | Add():
            return bool(cpu.stores)
        case WaitZero(variable):
            return bool(visible(state, cpu, variable))
        case Exchange(variable, old):
            return bool(cpu.stores) or visible(state, cpu, variable) != old
    return False


def visible(state: State, cpu: Cpu, variable: str) -> Any:
    """Return the value of a variable as the CPU sees it, which sees its own stores at once."""
    for place, value in reversed(cpu.stores):
        if place == variable:
            return value
    return dict(state.variables).get(variable, 0)


def assigned(state: State, variable: str, value: Any) -> tuple[tuple[str, Any], ...]:
    """Return the variables, with one of them changed."""
    variables = {**dict(state.variables), variable: value}
    return tuple(sorted(item for item in variables.items() if item[1]))


def _seen(state: State, cpu: Cpu) -> Masks:
    """Return the code as the CPU reads it, including its own stores."""
    masks = list(state.code)
    for place, mask in cpu.stores:
        if isinstance(place, int):
            masks[place] = mask
    return tuple(masks)


def _written(code: Code, done: Effect, step: Write) -> Effect:
    """Put each byte into the CPU's buffer, except those that never have another value."""
    if not all(step.data):  # every variable is 0 before the first store
        return done._replace(violation="it writes from a buffer that was never filled")
    stores = list(done.stores)
    for address, data in zip(step.addresses, step.data, strict=True):
        for offset, value in enumerate(data):
            place = code.place(address + offset)
            mask = 0 if place is None else code.mask(place, value)
            if place is None or not mask:
                what = f"it writes {data.hex(' ')} at {address:#x}, the bytes of another site"
                return done._replace(violation=what)
            if not code.is_constant(place):
                stores.append((place, mask))
    return done._replace(stores=tuple(stores))


def _pairs(batch: Batch, codes: Sequence[bytes]) -> Iterable[tuple[int, bytes]]:
    return zip(batch.addresses, codes, strict=True)


def _compared(code: Code, seen: Masks, done: Effect, wanted: Iterable[tuple[int, bytes]]) -> Effect:
    for address, expected in wanted:
        if code.read(seen, address, len(expected)) != expected:
            what = f"the protocol finds other bytes at {address:#x} than {expected.hex(' ')}"
            return done._replace(violation=what)
    return done
