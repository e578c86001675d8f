"""A protocol's generator as a tree of steps, so that many explored states can share one run of it.

A generator cannot be copied. But a protocol is a function of what is sent into it: the answers it
has had so far determine where it stands. Each such place is a numbered node; the first time that it
is reached, the generator is run again from the start to find its step.
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
        """Return the step that comes next at a node."""
        return self._places[node]

    def after(self, node: int, answer: Any) -> int:
        """Return the node after the step at `node`, when the step has given `answer`."""
        if (node, answer) not in self._after:
            answers = (*self._answers[node], answer)
            self._after[node, answer] = len(self._places)
            self._answers.append(answers)
            self._places.append(self._run(answers))
        return self._after[node, answer]

    def _run(self, answers: tuple[Any, ...]) -> Step | End:
        steps = self._start()
        try:
            step = skip_counts(steps, next(steps))
            for answer in answers:
                step = skip_counts(steps, steps.send(answer))
        except StopIteration as end:
            return End(end.value, None)
        except PatchError as error:
            return End(None, error)
        discard(steps)
        return step


def skip_counts(steps: Steps[Any], step: Step) -> Step:
    """Return `step`, or the first after it that is no Count."""
    while isinstance(step, Count):
        step = steps.send(None)
    return step


def discard(steps: Generator[Any, Any, Any]) -> None:
    """End a generator that cleans up by further steps, without carrying them out."""
    while getgeneratorstate(steps) != GEN_CLOSED:
        with suppress(RuntimeError, PatchError):
            steps.close()
