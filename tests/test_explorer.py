"""The explorer: every protocol holds in every interleaving, every mutant breaks, and it is so.

What could make it pass in vain is tested too: that everything that should happen does somewhere,
that its shortcuts lose nothing, and that what it prints is true of the bytes.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from patcher.modify import Batch, Change
from patcher.protocols import breakpoint as int3
from patcher.protocols.steps import Add, Fence, ReadBack, Resume, Steps, Stop, WaitZero, Write
from recordmcount.x86 import INT3
from tools.explorer.__main__ import main, tell
from tools.explorer.model import MIXED, STALE, Model, Scenario
from tools.explorer.mutations import without
from tools.explorer.scenarios import (
    Case,
    batch,
    breaking,
    mutants,
    mutated,
    proofs,
    stopping,
)
from tools.explorer.schedule import lines
from tools.explorer.search import STUCK, Exploration, explore
from tools.explorer.state import Flight, State

PROOFS = {case.name: case for case in proofs()}
MUTANTS = {case.name: case for case in mutants()}
CALLS = batch("call->call", "near")


def executed(found: Exploration, *, in_nmi: bool) -> set[object]:
    """What was executed as a whole: (site, bytes)."""
    return {what for inside, kind, what in found.deeds if (inside, kind) == (in_nmi, "executes")}


def of_every_site(changes: Batch) -> set[object]:
    return {(n, code) for n, site in enumerate(changes) for code in (site.old, site.new)}


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
        assert (True, "does", Write) in found.deeds
    if name.startswith("breakpoint"):
        for in_nmi in {False, scenario.nmi is not None}:
            for site in range(len(scenario.batch)):
                assert {(in_nmi, "hits", site), (in_nmi, "skips", site)} <= found.deeds


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
    memory = {site.symbol: bytearray(site.old) for site in case.scenario.batch}
    fetched: dict[str, bytearray] = {}
    text = lines(model, schedule)
    assert text[-1].strip() == f"=> {schedule.violation}"
    mixed = []
    for number, line in enumerate(text[:-1], 1):
        assert line.split(".")[0].strip() == str(number)
        if landed := re.search(r"visible: byte (\d) of (site .) = (..)$", line):
            memory[landed[2]][int(landed[1])] = int(landed[3], 16)
        who = line.split(". ")[1].split(" begins")[0].split(" fetches")[0].split(" executes")[0]
        if begun := re.search(r"begins to fetch at (site .)$", line):
            fetched[who] = bytearray(len(memory[begun[1]]))
        elif some := re.search(r"fetches (.*) at (site .)$", line):
            for index, byte in enumerate(some[1].split()):
                if byte != "..":
                    assert memory[some[2]][index] == int(byte, 16)
                    fetched[who][index] = int(byte, 16)
        elif done := re.search(r"executes (.*) at (site .)$", line):
            code = INT3 if done[1] == "int3" else bytes.fromhex(done[1])
            assert fetched[who].startswith(code)
            site = next(site for site in case.scenario.batch if site.symbol == done[2])
            mixed += [] if code in {INT3, site.old, site.new} else [number]
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
    ]


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
    model = Model(breaking(CALLS, 2))
    all_states = set(every_state(model))
    assert {model.normal(state) for state in all_states} < all_states
    assert explore(model).states == len({model.normal(state) for state in all_states})


# What it must see


def found_in(scenario: Scenario) -> str:
    schedule = explore(Model(scenario)).schedule
    assert schedule is not None
    return schedule.violation


def test_a_call_that_was_fetched_before_the_end_is_stale_after_it() -> None:
    changes = Batch.of([Change(0x1000, b"\xe8\x01\x00\x00\x00", b"\xe8\x02\x00\x00\x00", "a")])
    scenario = stopping(changes, 1)  # one byte changes: there is nothing to mix
    assert found_in(mutated(scenario, without(Stop), without(Resume, None, Fence()))) == STALE
    assert explore(Model(scenario)).schedule is None


def test_a_wait_that_never_ends_is_seen() -> None:
    def steps() -> Steps[None]:
        yield Add("lock", 1)
        yield WaitZero("lock", "waits")

    assert found_in(Scenario(CALLS, steps, cpus=1)) == STUCK


def test_code_that_is_not_as_planned_is_seen() -> None:
    scenario = mutated(breaking(CALLS, 1), without(Write, 3), without(ReadBack))
    assert found_in(scenario) == "the protocol has ended, and the code is not what was planned"


def test_a_count_that_is_left_up_is_seen() -> None:
    scenario = mutated(breaking(CALLS, 1), without(Add, 2))
    assert found_in(scenario) == f"the protocol has ended, and {int3.MODIFYING} is not 0"


def test_a_handler_that_skips_another_length_is_seen() -> None:
    def short(address: int) -> Steps[int | None]:
        length = yield from int3.handler(CALLS, address)
        return length and length - 1

    assert "int3 that nobody handles" in found_in(breaking(CALLS, 1)._replace(int3=short))


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
    assert not tell(Case("survivor", breaking(CALLS, 1), MIXED))
    assert not tell(Case("broken", MUTANTS["breakpoint without sync 1"].scenario))
    out = capfd.readouterr().out
    assert "holds, and should break\n" in out
    assert "breaks, and should hold\n" in out


def test_words_that_no_name_has_are_a_usage_error(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["breakpoint", "sideways"])
    assert caught.value.code == 2
    assert "no scenario has all of these words in its name" in capfd.readouterr().err
