"""Searches every interleaving: all states that a model can reach, nearest first."""

from __future__ import annotations

from array import array
from typing import NamedTuple

from .model import Model
from .state import Act, State

STUCK = "from here the protocol can never end"


class Schedule(NamedTuple):
    """The acts that lead from the start to a violation, each with the state before it."""

    moves: tuple[tuple[State, Act], ...]
    violation: str


class Exploration(NamedTuple):
    """The number of states and of moves, the acts of any CPU, and the schedule of a violation.

    An act is here (in an NMI, verb, detail), with the type of a step in place of the step.
    """

    states: int
    moves: int
    acts: frozenset[tuple[bool, str, object]]
    schedule: Schedule | None


def explore(model: Model) -> Exploration:
    """Visit every state until there is a violation, whose schedule is then a shortest one."""
    states = [model.normal(model.start)]
    numbers = {states[0]: 0}
    parents, sources, targets = array("l", [-1]), array("l"), array("l")
    acts: set[tuple[bool, str, object]] = set()

    def result(last: int, violation: str) -> Exploration:
        path = _path(states, parents, last)
        schedule = Schedule(_concrete(model, path, violation), violation) if violation else None
        return Exploration(len(states), len(sources), frozenset(acts), schedule)

    for number, state in enumerate(states):  # grows
        if fault := model.fault(state):
            return result(number, fault)
        for act, after, violation in model.moves(state):
            if violation:
                return result(number, violation)
            acts.add(_without_cpu(act))
            after = model.normal(after)
            target = numbers.setdefault(after, len(states))
            if target == len(states):
                states.append(after)
                parents.append(number)
            sources.append(number)
            targets.append(target)
    stuck = _stuck(model, states, sources, targets)
    return result(*((0, "") if stuck is None else (stuck, STUCK)))


def _without_cpu(act: Act) -> tuple[bool, str, object]:
    by_step = act.verb in {"does", "asks"}
    return act.in_nmi, act.verb, type(act.detail) if by_step else act.detail


def _path(states: list[State], parents: array[int], last: int) -> list[State]:
    path = []
    while last >= 0:
        path.append(states[last])
        last = parents[last]
    return path[::-1]


def _concrete(model: Model, path: list[State], violation: str) -> tuple[tuple[State, Act], ...]:
    """Return the acts along a path of normal states, by CPUs that keep their numbers."""
    state, moves = model.start, []
    for after in path[1:]:
        move = next(move for move in model.moves(state) if model.normal(move.state) == after)
        moves.append((state, move.act))
        state = move.state
    last = next((move for move in model.moves(state) if move.violation == violation), None)
    if last is not None:
        moves.append((state, last.act))
    return tuple(moves)


def _stuck(
    model: Model, states: list[State], sources: array[int], targets: array[int]
) -> int | None:
    """Find the first state from which the protocol can never reach its end."""
    ends = bytearray(model.end(state) is not None for state in states)
    changed = True
    while changed:
        changed = False
        for source, target in zip(reversed(sources), reversed(targets), strict=True):
            if ends[target] and not ends[source]:
                ends[source] = changed = True
    return ends.find(0) if 0 in ends else None
