"""A protocol's generator as a tree of steps, so that many explored states can share one run of it.

A generator cannot be copied. But a protocol is a function of what is sent into it: where it stands
is told by the answers it got so far. Each such place is a node with a number, found by running the
generator once more, the first time that somebody comes there.
"""

from collections.abc import Callable, Generator
from contextlib import suppress
from inspect import GEN_CLOSED, getgeneratorstate
from typing import Any, NamedTuple

from patcher.errors import PatchError
from patcher.protocols.steps import Count, Step, Steps

START = 0


class End(NamedTuple):
    """The program is over, with a result or an error."""

    result: Any
    error: PatchError | None


class Program:
    """The steps of `start()`; node START is before the first. Counting is left out of the tree."""

    def __init__(self, start: Callable[[], Steps[Any]]) -> None:
        self._start = start
        self._answers: list[tuple[Any, ...]] = [()]
        self._places: list[Step | End] = [self._run(())]
        self._after: dict[tuple[int, Any], int] = {}

    def at(self, node: int) -> Step | End:
        """The step that comes next."""
        return self._places[node]

    def after(self, node: int, answer: Any) -> int:
        """The node behind the step at `node`, when the step has given `answer`."""
        if (node, answer) not in self._after:
            answers = (*self._answers[node], answer)
            self._after[node, answer] = len(self._places)
            self._answers.append(answers)
            self._places.append(self._run(answers))
        return self._after[node, answer]

    def _run(self, answers: tuple[Any, ...]) -> Step | End:
        steps = self._start()
        try:
            step = past_counts(steps, next(steps))
            for answer in answers:
                step = past_counts(steps, steps.send(answer))
        except StopIteration as end:
            return End(end.value, None)
        except PatchError as error:
            return End(None, error)
        discard(steps)
        return step


def past_counts(steps: Steps[Any], step: Step) -> Step:
    """`step`, or the first behind it that is more than a statistic."""
    while isinstance(step, Count):
        step = steps.send(None)
    return step


def discard(steps: Generator[Any, Any, Any]) -> None:
    """End a generator that cleans up by further steps; nobody carries them out."""
    while getgeneratorstate(steps) != GEN_CLOSED:
        with suppress(RuntimeError, PatchError):
            steps.close()
