"""Tracing one function: an event of ours and those of others, in nanoseconds of what is traced.

An event of ours is of an entry. uftrace and LTTng record the return of each call as well; a uprobe
only counts here, and others would have to write something yet.
"""

import sys
from collections.abc import Iterator

from tools.benchmark import calls, trace
from tools.benchmark.builds import PURE
from tools.benchmark.comparison import Comparison, Target
from tools.benchmark.measure import BenchmarkError, Sample
from tools.benchmark.setting import Setting

SUBJECT = "one call of a traced function"
# Peers of an event, and which part of the peer's cost it may have.
PEERS = {
    "uftrace": ("uftrace record, entry and return", Target("at most", round(1 / 6, 3))),
    "LTTng": ("LTTng, entry and return", Target("at most", 0.1)),
    "optimized uprobe": ("an optimized uprobe that counts", Target("at most", 0.1)),
    "trapping uprobe": ("a trapping uprobe that counts", None),
}


def comparisons(setting: Setting) -> Iterator[Comparison]:
    """All ways in the same rounds; a peer that cannot be measured here is told of, and left out."""
    programs = calls.build(setting.scratch)
    ours = trace.ours(programs, setting.scratch)
    peers = trace.peers(programs, setting.scratch)
    samples, why_not = trace.measure([*ours, *peers], setting.rounds())
    for way in (*ours, *peers[:2]):
        if way.name in why_not:
            raise BenchmarkError(f"{way.name}: {why_not[way.name]}")
    for name, why in why_not.items():
        print(f"tools/bench: {name} is not measured: {why}", file=sys.stderr)
    bare, event = samples["bare return"], samples["event"]
    yield _more("a bare return", bare, samples["NOP"], None)
    yield _more("an event", event, samples["NOP"], Target("at most", 12))
    yield _more("a count", samples["count"], samples["NOP"], Target("at most", 2))
    for name, (what, target) in PEERS.items():
        if name in samples:
            yield _part(f"an event, of {what}", event, samples[name], target)
    contended = samples["contended event"]
    what = "an event on all processors, of one on one"
    yield _part(what, contended, event, Target("at most", 1.2))


def _more(what: str, ours: Sample, peer: Sample, target: Target | None) -> Comparison:
    what = f"{what}, ns more than a NOP"
    return _row(what, ours, peer, added=True, target=target)


def _part(what: str, ours: Sample, peer: Sample, target: Target | None) -> Comparison:
    return _row(what, ours, peer, added=False, target=target)


def _row(
    what: str, ours: Sample, peer: Sample, *, added: bool, target: Target | None
) -> Comparison:
    return Comparison(
        SUBJECT, what, PURE, "call", ours, peer, inverse=True, added=added, target=target
    )
