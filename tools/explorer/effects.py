"""What the steps of a program do to the machine, for all that a CPU does by itself."""

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
    """What the program is answered, and what has changed; or what the step violates."""

    answer: Any
    values: tuple[tuple[str, Any], ...]
    stores: tuple[tuple[Place, Any], ...]
    violation: str = ""


def effect(code: Code, state: State, cpu: Cpu, step: Step) -> Effect | None:
    """The effect of a step that `cpu` takes; None if it must wait."""
    before = Effect(None, state.values, cpu.stores)
    after: Effect | None = before
    match step:
        case Load(variable):
            after = before._replace(answer=visible(state, cpu, variable))
        case Store(variable, value):
            after = before._replace(stores=(*cpu.stores, (variable, value)))
        case Write():
            after = _written(code, before, step)
        case Read(address, size):
            after = before._replace(answer=code.read(_seen(state, cpu), address, size))
        case Verify(batch):
            after = _compared(code, _seen(state, cpu), before, _pairs(batch, batch.old))
        case ReadBack(batch):
            after = _compared(code, _seen(state, cpu), before, _pairs(batch, batch.new))
        case Fence() | Add() | Exchange() if cpu.stores:
            after = None
        case Add(variable, number):
            value = visible(state, cpu, variable) + number
            after = before._replace(answer=value, values=assigned(state, variable, value))
        case WaitZero(variable) if visible(state, cpu, variable) != 0:
            after = None
        case Exchange(variable, old) if visible(state, cpu, variable) != old:
            after = None
        case Exchange(variable, _, new):
            after = before._replace(values=assigned(state, variable, new))
    return after


def visible(state: State, cpu: Cpu, variable: str) -> Any:
    """The value of a variable as the CPU sees it: its own stores it sees at once."""
    for place, value in reversed(cpu.stores):
        if place == variable:
            return value
    return dict(state.values).get(variable, 0)


def assigned(state: State, variable: str, value: Any) -> tuple[tuple[str, Any], ...]:
    """The variables, with one of them changed."""
    values = {**dict(state.values), variable: value}
    return tuple(sorted(item for item in values.items() if item[1]))


def _seen(state: State, cpu: Cpu) -> Masks:
    """The code as the CPU reads it, its own stores in it."""
    masks = list(state.code)
    for place, mask in cpu.stores:
        if isinstance(place, int):
            masks[place] = mask
    return tuple(masks)


def _written(code: Code, done: Effect, step: Write) -> Effect:
    """Each byte into the CPU's buffer; those that never have another value change nothing."""
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
