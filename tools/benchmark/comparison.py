"""One row of the table: how ours compares with a peer, and what the design wants of it."""

from statistics import median
from typing import NamedTuple

from tools.benchmark.measure import Sample


class Target(NamedTuple):
    """What a ratio must be: "at least" or "at most" a number."""

    bound: str
    number: float

    def met(self, ratio: float) -> bool:
        """Whether the ratio keeps to the bound."""
        return ratio >= self.number if self.bound == "at least" else ratio <= self.number


class Comparison(NamedTuple):
    """One row: how ours compares with a peer by one measure, on one input.

    Time ratios are how many times as fast ours is; with `inverse`, how much of the peer's cost
    ours has. With `added`, the target is for what ours takes more than the peer: in seconds, or by
    the measure "call" in nanoseconds. With `paired`, the ratio is the median of those of all
    rounds: it may be nearer to 1 than the least of many runs are to each other.
    """

    subject: str
    what: str
    measure: str
    ours: Sample
    peer: Sample
    inverse: bool = False
    target: Target | None = None
    added: bool = False
    paired: bool = False

    @property
    def more(self) -> float:
        """What the least of ours lies above the least of the peer."""
        return self.ours.least - self.peer.least

    @property
    def ratio(self) -> float:
        """The least of ours against the least of the peer, or with `paired` of one round."""
        pairs = [(self.ours.least, self.peer.least)]
        if self.paired:
            pairs = list(zip(self.ours.values, self.peer.values, strict=True))
        return median(ours / peer if self.inverse else peer / ours for ours, peer in pairs)

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where there is none."""
        return self.target and self.target.met(self.more if self.added else self.ratio)
