"""The explorer: every protocol holds in every interleaving, every mutant breaks, and it is so.

What could make it pass in vain is tested too: that everything that should happen does somewhere,
that its shortcuts lose nothing, and that what it prints is true of the bytes.
"""

import re
from collections.abc import Iterator
from itertools import count
from typing import NamedTuple

import pytest

from patcher.modify import Batch, Change
from patcher.protocols import breakpoint as int3
from patcher.protocols import nmi
from patcher.protocols.steps import (
    Add,
    Exchange,
    Fence,
    Load,
    ReadBack,
    Resume,
    Step,
    Steps,
    Stop,
    Store,
    Sync,
    Verify,
    WaitZero,
    Write,
)
from recordmcount.x86_code import INT3, first_instruction
from tools.explorer.__main__ import main, try_case
from tools.explorer.model import MIXED, STALE, UNHANDLED, Model, Scenario
from tools.explorer.mutations import Transformation, changed, without
from tools.explorer.scenarios import (
    Case,
    batch,
    breakpoint_scenario,
    mutants,
    mutated,
    nmi_scenario,
    proofs,
    stop_machine_scenario,
    with_nmis,
)
from tools.explorer.schedule import lines
from tools.explorer.search import STUCK, Exploration, explore
from tools.explorer.state import Flight, State

PROOFS = {case.name: case for case in proofs()}
MUTANTS = {case.name: case for case in mutants()}
CALLS = batch("call->call", "near")


def executed(found: Exploration, *, in_nmi: bool) -> set[object]:
    """What was executed as a whole: (site, offset in it, bytes)."""
    return {what for inside, verb, what in found.acts if (inside, verb) == (in_nmi, "executes")}


def of_every_site(changes: Batch) -> set[object]:
    """Every instruction of the old and of the new code."""
    return {
        (number, start, instruction)
        for number, site in enumerate(changes)
        for code in (site.old, site.new)
        for start, instruction in instructions(code)
    }


def instructions(code: bytes) -> list[tuple[int, bytes]]:
    """The one or the two of a site, each with its offset."""
    first = first_instruction(code)
    return [(0, code[:first]), *([(first, code[first:])] if code[first:] else [])]


@pytest.mark.slow
@pytest.mark.parametrize("name", PROOFS)
def test_a_protocol_holds_and_everything_that_may_happen_does(name: str) -> None:
    scenario = PROOFS[name].scenario
    found = explore(Model(scenario))
    assert found.schedule is None
    if name.endswith((" fails", " fail")):
        return
    assert executed(found, in_nmi=False) == of_every_site(scenario.batch)
    if scenario.nmi:
        assert executed(found, in_nmi=True) == of_every_site(scenario.batch)
    if name.startswith("nmi"):
        assert (True, "does", Write) in found.acts
    if name.startswith("breakpoint"):
        for in_nmi in {False, scenario.nmi is not None}:
            for site in range(len(scenario.batch)):
                assert {(in_nmi, "hits", site), (in_nmi, "skips", site)} <= found.acts


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_breaks_and_its_schedule_can_be_replayed(name: str) -> None:
    case = MUTANTS[name]
    model = Model(case.scenario)
    schedule = explore(model).schedule
    assert schedule is not None
    assert case.violation in schedule.violation
    state = model.start
    for before, act in schedule.moves[:-1]:
        assert state == before
        (state,) = (move.state for move in model.moves(state) if move.act == act)
    violations = [move for move in model.moves(state) if move.violation == schedule.violation]
    assert schedule.moves[-1] in [(state, move.act) for move in violations]


@pytest.mark.parametrize("name", MUTANTS)
def test_a_printed_schedule_is_true_of_bytes(name: str) -> None:
    """By a reader that knows of the machine only that it has bytes."""
    case = MUTANTS[name]
    model = Model(case.scenario)
    schedule = explore(model).schedule
    assert schedule is not None
    sites = {site.symbol: site for site in case.scenario.batch}
    memory = {symbol: bytearray(site.old) for symbol, site in sites.items()}
    fetched: dict[str, bytearray] = {}
    text = lines(model, schedule)
    assert text[-1].strip() == f"=> {schedule.violation}"
    mixed = []
    for number, line in enumerate(text[:-1], 1):
        assert line.split(".")[0].strip() == str(number)
        if landed := re.search(r"visible: byte (\d) of (site .) = (..)$", line):
            memory[landed[2]][int(landed[1])] = int(landed[3], 16)
        who = line.split(". ")[1].split(" begins")[0].split(" fetches")[0].split(" executes")[0]
        if not (found := re.search(r"(begins|fetches|executes) (.*) at (site .)\+?(\d*)$", line)):
            continue
        verb, what, symbol, offset = found.groups()
        start = int(offset or 0)
        if verb == "begins":
            fetched[who] = bytearray(len(memory[symbol]) - start)
        elif verb == "fetches":
            for index, byte in enumerate(what.split()):
                if byte != "..":
                    assert memory[symbol][start + index] == int(byte, 16)
                    fetched[who][index] = int(byte, 16)
        else:
            code = INT3 if what == "int3" else bytes.fromhex(what)
            assert fetched[who].startswith(code)
            old, new = map(instructions, (sites[symbol].old, sites[symbol].new))
            mixed += [] if (start, code) in {(0, INT3), *old, *new} else [number]
    assert mixed == ([len(text) - 1] if case.violation == MIXED else [])


def test_what_the_design_wants_broken_is_among_the_mutants() -> None:
    assert list(MUTANTS) == [
        "direct writes, CPUs running",
        "stop_machine, an NMI comes",
        "nmi without the first wait",
        "nmi without the second wait",
        "nmi with the flag raised before the wait",
        "nmi with the flag lowered as soon as a write has failed",
        "breakpoint with a plain `modifying`",
        "breakpoint without sync 1",
        "breakpoint without sync 2",
        "breakpoint without sync 3",
        "breakpoint, heads before tails",
        "stop_machine, a site of two instructions, without a look inside",
        "nmi, a site of two instructions, without a look inside",
        "breakpoint, a site of two instructions, without a look inside",
    ]


@pytest.mark.parametrize(
    "besides",
    [
        without(ReadBack),  # as heads_before_tails must
        without(Sync, None, Sync(), Fence()),
        without(Verify),
    ],
)
def test_what_a_mutant_lacks_besides_is_not_what_breaks_it(besides: Transformation) -> None:
    for scenario in (
        stop_machine_scenario(CALLS, 1),
        nmi_scenario(CALLS, 1),
        breakpoint_scenario(CALLS, 1),
    ):
        assert explore(Model(mutated(scenario, besides))).schedule is None


# Fetching byte by byte

SHORT = Batch.of([Change(0x1000, b"\xe8\x01\x02", b"\x0f\x1f\x00", "short")])
PHASES = [{0: 0xCC}, {1: 0x1F, 2: 0x00}, {0: 0x0F}]  # of stores, each after the last has landed


def unsynced() -> Steps[None]:
    """The writes of the breakpoint protocol, in order, but without a sync."""
    for at, data in ((0x1000, b"\xcc"), (0x1001, b"\x1f\x00"), (0x1000, b"\x0f")):
        yield Write([at], [data])
        yield Fence()


class Literal(NamedTuple):
    """A memory of three bytes, and a CPU that has fetched some of them."""

    memory: bytes
    phase: int
    stores: frozenset[tuple[int, int]]
    fetched: tuple[int, ...]  # -1: not yet


def literal_moves(state: Literal) -> Iterator[Literal]:
    """One store lands, one byte is fetched, or the writer goes on."""
    for at, byte in state.stores:
        memory = state.memory[:at] + bytes([byte]) + state.memory[at + 1 :]
        yield state._replace(memory=memory, stores=state.stores - {(at, byte)})
    for at, byte in enumerate(state.fetched):
        if byte < 0:
            fetched = (*state.fetched[:at], state.memory[at], *state.fetched[at + 1 :])
            yield state._replace(fetched=fetched)
    if not state.stores and state.phase + 1 < len(PHASES):
        stores = frozenset(PHASES[state.phase + 1].items())
        yield state._replace(phase=state.phase + 1, stores=stores)


def literal_outcomes() -> set[bytes]:
    """What a CPU can execute that fetches the three bytes one by one, at any time, in any order."""
    states = [Literal(b"\xe8\x01\x02", 0, frozenset(PHASES[0].items()), (-1, -1, -1))]
    seen = set(states)
    for state in states:  # grows
        new = set(literal_moves(state)) - seen
        seen |= new
        states += new
    return {bytes(state.fetched) for state in states if min(state.fetched) >= 0}


def every_state(model: Model) -> Iterator[State]:
    """All states that can be reached without a violation."""
    states, seen = [model.start], {model.start}
    for state in states:  # grows
        yield state
        new = {move.state for move in model.moves(state) if not move.violation} - seen
        seen |= new
        states += new


def test_sets_of_seen_values_stand_for_every_order_of_fetches() -> None:
    model = Model(Scenario(SHORT, unsynced, cpus=1))
    outcomes = set()
    for state in every_state(model):
        context = model.cpu(state, 1).context
        if isinstance(context, Flight):
            outcome = model.code.outcome(context)
            outcomes |= {*outcome.whole, *outcome.mixes, *([INT3] if outcome.traps else [])}
    literal = {INT3 if code.startswith(INT3) else code for code in literal_outcomes()}
    assert outcomes == literal
    assert len(literal) > 3


def test_nothing_is_lost_by_taking_equal_cpus_for_one_another() -> None:
    model = Model(breakpoint_scenario(CALLS, 2))
    all_states = set(every_state(model))
    assert {model.normal(state) for state in all_states} < all_states
    assert explore(model).states == len({model.normal(state) for state in all_states})


# What it must see


def filled_after_the_flag(steps: Steps[None]) -> Steps[None]:
    """Let the NMI protocol fill its buffers when the flag is up already."""
    stores: list[Step] = []

    def change(step: Step) -> list[Step]:
        if isinstance(step, Store):
            stores.append(step)
            return []
        if isinstance(step, Exchange):
            return [step, *stores[-2:], Fence()]
        return [step]

    return changed(steps, change)


def flag_without_fence(steps: Steps[None]) -> Steps[None]:
    """Let the flag be lowered before the code is visible: the last byte may land later."""

    def change(step: Step) -> list[Step]:
        if isinstance(step, Write):
            held.append(step)
            return []
        return [step, *held] if step == Add(nmi.RUNNING, -nmi.FLAG) else [step]

    held: list[Step] = []
    return changed(steps, change)


def down_before_the_last_sync(steps: Steps[None]) -> Steps[None]:
    """Let `modifying` be counted down as soon as the first bytes are there."""
    syncs = count(1)

    def change(step: Step) -> list[Step]:
        if isinstance(step, Sync) and next(syncs) == 3:
            return [Add(int3.MODIFYING, -1), step, Add(int3.MODIFYING, 1)]
        return [step]

    return changed(steps, change)


def first_only(number: int) -> Transformation:
    """Let the write of this number reach the first site only."""

    def transform(steps: Steps[None]) -> Steps[None]:
        writes = count(1)

        def change(step: Step) -> list[Step]:
            if isinstance(step, Write) and next(writes) == number:
                return [Write(step.addresses[:1], step.data[:1])]
            return [] if isinstance(step, ReadBack) else [step]

        return changed(steps, change)

    return transform


def knows_the_first(address: int) -> Steps[int | None]:
    """The handler of a batch of one."""
    return int3.handler(Batch.of(list(CALLS)[:1]), address)


def knows_no_count(address: int) -> Steps[int | None]:
    """A handler that is gone before anybody needs it."""
    yield Add("asked", 0)
    return None


@pytest.mark.parametrize(
    ("scenario", "violation"),
    [
        (mutated(breakpoint_scenario(CALLS, 1), down_before_the_last_sync), UNHANDLED),
        (mutated(breakpoint_scenario(CALLS, 1), without(Write, 1)), "other bytes"),
        (mutated(breakpoint_scenario(CALLS, 1), first_only(1)), MIXED),
        (mutated(breakpoint_scenario(CALLS, 1), first_only(2)), "not what was planned"),
        (mutated(breakpoint_scenario(CALLS, 1), first_only(3)), "not what was planned"),
        (mutated(breakpoint_scenario(CALLS, 1), without(Add, 1), without(Add, 2)), UNHANDLED),
        (breakpoint_scenario(CALLS, 1)._replace(int3=knows_the_first), UNHANDLED),
        (breakpoint_scenario(CALLS, 1)._replace(int3=knows_no_count), UNHANDLED),
        (mutated(nmi_scenario(CALLS, 1), filled_after_the_flag), "never filled"),
        (mutated(nmi_scenario(CALLS, 1), flag_without_fence), MIXED),
        (mutated(nmi_scenario(CALLS, 1), without(Stop)), MIXED),
        (mutated(nmi_scenario(CALLS, 1), without(Write)), "other bytes"),
        (
            nmi_scenario(CALLS, 1)._replace(nmi=with_nmis(stop_machine_scenario(CALLS, 1)).nmi),
            MIXED,
        ),
        (mutated(stop_machine_scenario(CALLS, 1), without(Stop)), MIXED),
        (mutated(stop_machine_scenario(CALLS, 1), without(Resume, None, Fence())), "left stopped"),
    ],
)
def test_other_faults_of_a_protocol_are_found_too(scenario: Scenario, violation: str) -> None:
    assert violation in found_in(scenario)


def found_in(scenario: Scenario) -> str:
    schedule = explore(Model(scenario)).schedule
    assert schedule is not None
    return schedule.violation


def test_a_call_that_was_fetched_before_the_end_is_stale_after_it() -> None:
    changes = Batch.of([Change(0x1000, b"\xe8\x01\x00\x00\x00", b"\xe8\x02\x00\x00\x00", "a")])
    scenario = stop_machine_scenario(changes, 1)  # one byte changes: there is nothing to mix
    assert found_in(mutated(scenario, without(Stop), without(Resume, None, Fence()))) == STALE
    assert explore(Model(scenario)).schedule is None


def test_a_cpu_sees_its_own_stores_at_once_and_others_those_that_are_visible() -> None:
    def steps() -> Steps[None]:
        yield Store("own", 1)
        if not (yield Load("own")):
            yield Add("not seen", 1)

    def nmi_steps() -> Steps[None]:
        yield Store("seen" if (yield Load("own")) else "not yet", 1)
        yield Fence()

    same = Batch.of([Change(0x1000, SHORT.old[0], SHORT.old[0], "same")])
    for lowered in ("not seen", "seen", "not yet"):
        scenario = Scenario(same, steps, cpus=1, nmi=nmi_steps, zero_at_end=(lowered,))
        found = explore(Model(scenario)).schedule
        assert (found is None) == (lowered == "not seen")


def test_a_wait_that_never_ends_is_seen() -> None:
    def steps() -> Steps[None]:
        yield Add("lock", 1)
        yield WaitZero("lock", "waits")

    assert found_in(Scenario(CALLS, steps, cpus=1)) == STUCK


def test_code_that_is_not_as_planned_is_seen() -> None:
    scenario = mutated(breakpoint_scenario(CALLS, 1), without(Write, 3), without(ReadBack))
    assert found_in(scenario) == "the protocol has ended, and the code is not what was planned"


def test_a_count_that_is_left_up_is_seen() -> None:
    scenario = mutated(breakpoint_scenario(CALLS, 1), without(Add, 2))
    assert found_in(scenario) == f"the protocol has ended, and {int3.MODIFYING} is not 0"


def test_a_handler_that_skips_another_length_is_seen() -> None:
    def short(address: int) -> Steps[int | None]:
        length = yield from int3.handler(CALLS, address)
        return length and length - 1

    assert "int3 that nobody handles" in found_in(
        breakpoint_scenario(CALLS, 1)._replace(int3=short)
    )


# The command


def test_it_prints_what_holds_and_the_schedule_of_what_breaks(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert main(["breakpoint", "near", "6"]) == 0
    assert re.search(r"6 and 5 bytes, 2 CPUs +[\d,]+ +[\d.]+ s  holds\n$", capfd.readouterr().out)
    assert main(["plain"]) == 0
    out = capfd.readouterr().out
    assert "breaks\n      site A (0x1000): e8 30 12 00 00 -> e8 70 56 00 00\n" in out
    assert "CPU 1 executes int3 at site A\n" in out


def test_a_mutant_that_survives_and_a_protocol_that_breaks_are_failures(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert not try_case(Case("survivor", breakpoint_scenario(CALLS, 1), MIXED))
    assert not try_case(Case("broken", MUTANTS["breakpoint without sync 1"].scenario))
    out = capfd.readouterr().out
    assert "holds, and should break\n" in out
    assert "breaks, and should hold\n" in out


def test_words_that_no_name_has_are_a_usage_error(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["breakpoint", "sideways"])
    assert caught.value.code == 2
    assert "no scenario has all of these words in its name" in capfd.readouterr().err
