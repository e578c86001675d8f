"""A schedule as text: which CPU did what, what was fetched when, and what broke."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

from patcher.protocols.steps import (
    Add,
    Body,
    Exchange,
    Fence,
    InstructionPointers,
    Load,
    Read,
    ReadBack,
    Resume,
    Stop,
    Store,
    Sync,
    Verify,
    WaitZero,
    Write,
)
from recordmcount.x86_code import INT3

from .model import Model
from .search import Schedule
from .state import Act

STEPS: dict[type, Callable[[Any], str]] = {
    Verify: lambda _: "verifies all sites",
    ReadBack: lambda _: "reads all sites back",
    Read: lambda step: f"reads {step.address:#x}",
    Write: lambda step: f"stores {_stored(step)}",
    Load: lambda step: f"loads {step.variable}",
    Store: lambda step: f"stores {step.variable} = {_value(step.value)}",
    Add: lambda step: f"adds {_value(step.number)} to {step.variable}",
    Fence: lambda _: "has all its stores visible",
    WaitZero: lambda step: f"finds {step.variable} to be 0",
    Exchange: lambda step: (
        f"finds {step.variable} to be {_value(step.old)} and makes it {_value(step.new)}"
    ),
    Sync: lambda _: "finds that all have serialised",
    Stop: lambda _: "finds that all others have stopped",
    Resume: lambda _: "lets all others go on",
    InstructionPointers: lambda _: "looks where all others stand",
    Body: lambda _: "leaves the body of the NMI's handler",
}
ASKED = {Sync: "asks all others to serialise", Stop: "asks all others to stop"}
ACTS: dict[str, Callable[[Model, Any], str]] = {
    "arrives": lambda _model, _: "begins its handler",
    "stops": lambda _model, _: "stops, and drops what it has fetched",
    "serialises": lambda _model, _: "serialises: it drops what it has fetched",
    "lands": lambda model, stored: f"has its store visible: {_landed(model, *stored)}",
    "begins": lambda model, where: f"begins to fetch at {site(model, *where)}",
    "executes": lambda model, what: f"executes {what[2].hex(' ')} at {site(model, *what[:2])}",
    "hits": lambda model, number: f"executes int3 at {site(model, number)}",
    "skips": lambda model, number: f"finds {site(model, number)} being modified and skips it",
}


def lines(model: Model, schedule: Schedule) -> list[str]:
    """Write the schedule as numbered lines; the last one says what it violates."""
    fetches = _fetches(model, schedule)
    text = []
    for number, (_, act) in enumerate(schedule.moves):
        text.append(f"{_who(act)} {_what(model, act)}")
        text += fetches[number]
    width = len(str(len(text)))
    numbered = [f"{number:{width}}. {line}" for number, line in enumerate(text, 1)]
    return [*numbered, f"{'':{width}}  => {schedule.violation}"]


def site(model: Model, number: int, start: int = 0) -> str:
    """Return the name of a site, or of the place `start` bytes after its beginning."""
    return model.code.sites[number].symbol + (f"+{start}" if start else "")


def _who(act: Act) -> str:
    return f"CPU {act.cpu}, in an NMI," if act.in_nmi else f"CPU {act.cpu}"


def _what(model: Model, act: Act) -> str:
    if act.verb == "does":
        return STEPS[type(act.detail)](act.detail)
    if act.verb == "asks":
        return ASKED[type(act.detail)]
    return ACTS[act.verb](model, act.detail)


def _landed(model: Model, place: Any, value: Any) -> str:
    if isinstance(place, str):
        return f"{place} = {_value(value)}"
    number = max(n for n, start in enumerate(model.code.starts) if start <= place)
    index = place - model.code.starts[number]
    return f"byte {index} of {site(model, number)} = {model.code.value(place, value):02x}"


def _stored(step: Write) -> str:
    pairs = zip(step.addresses, step.data, strict=True)
    return ", ".join(f"{data.hex(' ')} at {address:#x}" for address, data in pairs) or "nothing"


def _value(value: Any) -> str:
    if isinstance(value, bytes):
        return value.hex(" ")
    return f"{value:#x}" if abs(value) > 9 else str(value)


def _fetches(model: Model, schedule: Schedule) -> defaultdict[int, list[str]]:
    """Return the lines about fetched bytes, by the number of the act that they follow.

    Each byte that is executed is fetched when it first had that value since the CPU began.
    """
    found: defaultdict[int, list[str]] = defaultdict(list)
    begun: dict[tuple[int, bool], int] = {}
    for number, (_, act) in enumerate(schedule.moves):
        if act.verb == "begins":
            begun[act.cpu, act.in_nmi] = number
        elif act.verb in {"executes", "hits"}:
            first = begun[act.cpu, act.in_nmi]
            for at, text in _fetched(model, schedule, first, act).items():
                found[at].append(f"{_who(act)} fetches {text}")
    return found


def _fetched(model: Model, schedule: Schedule, first: int, act: Act) -> dict[int, str]:
    """Return what was fetched when of executed code, as `e8 .. .. 00 00 at a site`."""
    number, offset, code = act.detail if act.verb == "executes" else (act.detail, 0, INT3)
    start = model.code.starts[number] + offset
    size = max(len(code), len(model.code.sites[number].old) if code == INT3 else 0)
    at: defaultdict[int, list[str]] = defaultdict(lambda: [".."] * size)
    for index, value in enumerate(code):
        mask = model.code.mask(start + index, value)
        states = enumerate(schedule.moves[first + 1 :], first)
        when = next(when for when, (state, _) in states if state.code[start + index] == mask)
        at[when][index] = f"{value:02x}"
    return {when: f"{' '.join(text)} at {site(model, number, offset)}" for when, text in at.items()}
