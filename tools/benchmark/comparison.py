"""One row of the table: how ours compares with a peer, and what the design wants of it."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tools.benchmark.measure import Cost, Sample, sample

MIB = 1 << 20


class Target(NamedTuple):
    """What a figure must be: "at least" or "at most" a number."""

    bound: str
    number: float

    def met(self, figure: float) -> bool:
        """Whether the figure keeps to the bound."""
        return figure >= self.number if self.bound == "at least" else figure <= self.number


class Comparison(NamedTuple):
    """One row: how ours compares with a peer by one measure, on one input, in the same rounds.

    `build` says which of our builds it is; it is empty where none of them ran. `measure` is an
    attribute of Cost, or "call": nanoseconds.
    """

    subject: str
    what: str
    build: str
    measure: str
    ours: Sample
    peer: Sample
    inverse: bool = False
    added: bool = False
    target: Target | None = None

    @property
    def figures(self) -> Sample:
        """What is told of each round.

        The ratio: how many times as fast ours is; with `inverse`, how much of the peer's cost ours
        has. With `added`, what ours takes more than the peer: seconds, nanoseconds or MiB.
        """
        pairs = zip(self.ours.values, self.peer.values, strict=True)
        if self.added:
            unit = MIB if self.measure == "memory" else 1
            return Sample([(ours - peer) / unit for ours, peer in pairs])
        return Sample([ours / peer if self.inverse else peer / ours for ours, peer in pairs])

    @property
    def met(self) -> bool | None:
        """Whether the usual round meets the target; None where there is none."""
        return self.target and self.target.met(self.figures.median)


class Pair(NamedTuple):
    """What ours and a peer cost in the same rounds, from which rows are made by each measure."""

    subject: str
    build: str
    ours: Sequence[Cost]
    peer: Sequence[Cost]

    def faster(self, what: str, target: Target | None = None) -> Comparison:
        """How many times as fast ours is."""
        return self._row(what, "wall", target, inverse=False)

    def part(self, what: str, measure: str = "wall", target: Target | None = None) -> Comparison:
        """How much of the peer's cost ours has."""
        return self._row(what, measure, target, inverse=True)

    def instructions(self, what: str, target: Target | None = None) -> Iterator[Comparison]:
        """How many of the peer's instructions ours has; nothing if the machine counts none."""
        if all(cost.instructions for cost in (*self.ours, *self.peer)):
            yield self.part(f"{what}instructions of the same", "instructions", target)

    def _row(self, what: str, measure: str, target: Target | None, *, inverse: bool) -> Comparison:
        ours, peer = sample(self.ours, measure), sample(self.peer, measure)
        return Comparison(
            self.subject, what, self.build, measure, ours, peer, inverse=inverse, target=target
        )
