"""What is explored: the real protocols under all that they must withstand, and their mutants.

Two sites, of five bytes unless the name says otherwise, are turned from a call into a NOP, from a
NOP into a call, and from one call into another. "near" operands differ in two bytes of their four,
"far" ones in all; "CPUs" counts those that execute the sites besides the writer. Nothing else is
bounded: CPUs and NMIs execute any number of instructions.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from patcher.modify import Batch, Change
from patcher.protocols import breakpoint as int3
from patcher.protocols import nmi, stop_machine
from patcher.protocols.steps import Body, Fence, Resume, Steps, Stop, Sync, WaitZero
from recordmcount import x86_code, x86_nops

from .model import MIXED, UNHANDLED, Scenario
from .mutations import (
    Transformation,
    failing,
    flag_before_wait,
    flag_lowered_at_once,
    flag_without_wait,
    heads_before_tails,
    plain_modifying,
    without,
    without_look_inside,
)

TRANSITIONS = ("call->nop", "nop->call", "call->call")
ADDRESSES = {"site A": 0x1000, "site B": 0x1010}
DISTANCES = {"near": (0x1230, 0x5670), "far": (0x11223340, 0x55667780)}
LAST = 100  # more than any protocol has steps
FOREIGN = "the bytes of another site"


class Case(NamedTuple):
    """A scenario with its name; `violation` is part of what a mutant must violate."""

    name: str
    scenario: Scenario
    violation: str = ""


def batch(transition: str, distance: str, lengths: tuple[int, int] = (5, 5)) -> Batch:
    """Make the changes of both sites: `call->nop`, `nop->call` or `call->call`."""
    before, after = transition.split("->")
    targets = dict(zip(("old", "new"), DISTANCES[distance], strict=True))
    changes = []
    for (symbol, address), length in zip(ADDRESSES.items(), lengths, strict=True):
        old = _code(before, address, targets["old"], length)
        new = _code(after, address, targets["new"], length)
        changes.append(Change(address, old, new, symbol))
    return Batch.of(changes)


def _code(state: str, address: int, distance: int, length: int) -> bytes:
    if state == "nop":
        return x86_nops.NOPS[length]
    # The distance differs for each site, so that the bytes of one never pass for the other's.
    code = x86_code.call(address, address + length + distance + (address >> 4 & 0xF), length)
    if code is None:
        raise ValueError(f"{distance:#x} is too far")
    return code


def two_instructions() -> Batch:
    """Turn site A from `nop; call` into a NOP of one instruction, and site B as `batch` does."""
    other, same = batch("call->nop", "near", (6, 5))
    call = _code("call", other.address + 1, DISTANCES["near"][0], 5)
    return Batch.of([Change(other.address, x86_nops.NOPS[1] + call, other.new, other.symbol), same])


def stop_machine_scenario(batch: Batch, cpus: int) -> Scenario:
    """Make a scenario of the protocol stop_machine."""
    return Scenario(batch, partial(stop_machine.steps, "model", batch), cpus)


def nmi_scenario(batch: Batch, cpus: int) -> Scenario:
    """Make a scenario of the NMI protocol."""
    return Scenario(
        batch, partial(nmi.steps, "model", batch), cpus,
        nmi=partial(nmi.handler, _nothing), zero_at_end=(nmi.RUNNING,),
    )  # fmt: skip


def breakpoint_scenario(batch: Batch, cpus: int) -> Scenario:
    """Make a scenario of the breakpoint protocol."""
    return Scenario(
        batch, partial(int3.steps, "model", batch), cpus,
        int3=partial(int3.handler, batch), zero_at_end=(int3.MODIFYING,),
    )  # fmt: skip


def with_nmis(scenario: Scenario) -> Scenario:
    """Add NMIs that only execute the sites."""
    return scenario._replace(nmi=_plain_nmi)


def _plain_nmi() -> Steps[None]:
    yield Body(_nothing)


def _nothing() -> None:
    pass


def mutated(scenario: Scenario, *transformations: Transformation) -> Scenario:
    """Apply transformations to the protocol of a scenario."""
    steps = scenario.steps
    for transformation in transformations:
        steps = partial(_transformed, transformation, steps)
    return scenario._replace(steps=steps)


def _transformed(transformation: Transformation, steps: Callable[[], Steps[None]]) -> Steps[None]:
    return transformation(steps())


def proofs() -> Iterator[Case]:
    """Yield the real protocols; no violation may be found."""
    for transition in TRANSITIONS:
        yield Case(
            f"stop_machine, {transition} far, 2 CPUs",
            stop_machine_scenario(batch(transition, "far"), 2),
        )
    for transition in TRANSITIONS:
        yield Case(f"nmi, {transition} near, 1 CPU", nmi_scenario(batch(transition, "near"), 1))
    yield Case("nmi, nop->call far, 1 CPU", nmi_scenario(batch("nop->call", "far"), 1))
    yield Case("nmi, call->call near, 2 CPUs", nmi_scenario(batch("call->call", "near"), 2))
    for transition in TRANSITIONS:
        yield Case(
            f"breakpoint, {transition} far, 2 CPUs",
            breakpoint_scenario(batch(transition, "far"), 2),
        )
        near = breakpoint_scenario(batch(transition, "near"), 1)
        yield Case(f"breakpoint, {transition} near, 1 CPU, NMIs", with_nmis(near))
    near = breakpoint_scenario(batch("call->call", "near"), 2)
    yield Case("breakpoint, call->call near, 2 CPUs, NMIs", with_nmis(near))
    lengths = breakpoint_scenario(batch("call->nop", "near", (6, 5)), 2)
    yield Case("breakpoint, call->nop near, 6 and 5 bytes, 2 CPUs", lengths)
    for name, scenario in (
        ("stop_machine", stop_machine_scenario(two_instructions(), 2)),
        ("nmi", nmi_scenario(two_instructions(), 1)),
        ("breakpoint", breakpoint_scenario(two_instructions(), 2)),
    ):
        yield Case(f"{name}, a site of two instructions", scenario)
    yield from failures()


def failures() -> Iterator[Case]:
    """Yield the protocols with failing steps: each site stays whole, or its breakpoint is handled.

    The numbers count the steps that write, serialise or read back.
    """
    calls = batch("call->call", "near")
    for name, scenario, steps in (
        ("stop_machine", stop_machine_scenario(calls, 2), 2),
        ("nmi", nmi_scenario(calls, 1), 3),
        ("breakpoint", breakpoint_scenario(calls, 2), 8),
    ):
        for number in range(1, steps + 1):
            for failed, what in (
                ({number}, "fails"),
                ({number, number + 1}, "and the next fail"),
                (range(number, LAST), "and all after it fail"),
            ):
                failing_scenario = mutated(scenario, failing(failed))
                yield Case(f"{name}, its step {number} of {steps} {what}", failing_scenario)


def mutants() -> Iterator[Case]:
    """Yield the protocols minus one thing each, and what that breaks."""
    calls = batch("call->call", "near")
    scenario = stop_machine_scenario(calls, 1)
    direct = mutated(scenario, without(Stop), without(Resume))
    yield Case("direct writes, CPUs running", direct, MIXED)
    yield Case("stop_machine, an NMI comes", with_nmis(scenario), MIXED)

    scenario = nmi_scenario(calls, 1)
    yield Case("nmi without the first wait", mutated(scenario, flag_without_wait), MIXED)
    yield Case("nmi without the second wait", mutated(scenario, without(WaitZero)), FOREIGN)
    nmi_of_2008 = partial(_transformed, flag_before_wait, partial(nmi.handler, _nothing))
    flag_first = mutated(scenario, flag_before_wait)._replace(nmi=nmi_of_2008)
    yield Case("nmi with the flag raised before the wait", flag_first, MIXED)
    at_once = mutated(scenario, failing({1}), flag_lowered_at_once)
    yield Case("nmi with the flag lowered as soon as a write has failed", at_once, MIXED)

    scenario = breakpoint_scenario(calls, 1)
    plain = mutated(scenario, plain_modifying)
    yield Case("breakpoint with a plain `modifying`", plain, UNHANDLED)
    for number, violation in ((1, MIXED), (2, MIXED), (3, UNHANDLED)):
        # A fence keeps the writer's own stores in order, so that only the missing sync matters.
        unsynced = mutated(scenario, without(Sync, number, Fence()))
        yield Case(f"breakpoint without sync {number}", unsynced, violation)
    heads_first = mutated(scenario, heads_before_tails(calls))
    yield Case("breakpoint, heads before tails", heads_first, MIXED)

    for name, scenario in (
        ("stop_machine", stop_machine_scenario(two_instructions(), 1)),
        ("nmi", nmi_scenario(two_instructions(), 1)),
        ("breakpoint", breakpoint_scenario(two_instructions(), 1)),
    ):
        unseen = mutated(scenario, without_look_inside)
        yield Case(f"{name}, a site of two instructions, without a look inside", unseen, MIXED)
