"""`tools/bench`: compare the recorder with its peers and print a table of ratios."""

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from tools.benchmark.comparison import Comparison
from tools.benchmark.comparisons import KERNEL, all_comparisons
from tools.benchmark.instructions import Counter
from tools.benchmark.measure import BenchmarkError, Sample

COLUMNS = "{:50}{:>16}{:>16}{:>8}  {:14}{}"
LEGEND = """\
Times and memory: the least of all rounds, and how far the median lies above it.
Ratios: of the least; with three digits, the median of those of single rounds.
Load average: {before} before, {after} after."""


def main(words: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 done, 1 a tool failed or (with --check) a target is missed."""
    options = parse(words)
    before = os.getloadavg()
    made: list[Comparison] = []
    try:
        with tempfile.TemporaryDirectory(prefix="bench.", dir=KERNEL.parents[1]) as scratch:
            comparisons = all_comparisons(Path(scratch), files=options.files, rounds=options.rounds)
            print_table(comparisons, made)
    except BenchmarkError as error:
        print(f"tools/bench: {error}", file=sys.stderr)
        return 1
    after = os.getloadavg()
    print(LEGEND.format(before=f"{before[0]:.1f}", after=f"{after[0]:.1f}"))
    with Counter() as counter:
        uncounted = counter.why_not
    if uncounted:
        print(f"Instructions are not counted by this machine: {uncounted}.")
    if options.json:
        document = {
            "version": 1,
            "machine": {
                "processors": len(os.sched_getaffinity(0)),
                "python": platform.python_version(),
                "system": platform.platform(),
                "load_average": {"before": before, "after": after},
                "counts_instructions": not uncounted,
            },
            "comparisons": [as_json(comparison) for comparison in made],
        }
        options.json.write_text(json.dumps(document, indent=2) + "\n")
    return int(options.check and any(comparison.met is False for comparison in made))


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """The options as attributes."""
    parser = argparse.ArgumentParser(prog="tools/bench", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE")
    parser.add_argument("--check", action="store_true", help="exit 1 if a target is missed")
    parser.add_argument(
        "--rounds",
        type=int,
        metavar="N",
        help="runs of each command (default: 40 of one object, 5 of the large one, 200 of programs "
        "whose sites are off, 10 of others)",
    )
    parser.add_argument(
        "--files", type=int, metavar="N", help="only N modules; targets then mean nothing"
    )
    return parser.parse_args(words)


def print_table(comparisons: Iterable[Comparison], made: list[Comparison]) -> None:
    """Print each comparison when it is made, under its subject; and collect it in `made`."""
    print(COLUMNS.format("", "ours", "peer", "ratio", "target", "met"))
    subject = ""
    for row in comparisons:
        if row.subject != subject:
            subject = row.subject
            print(f"\n{subject}")
        target = f"{row.target.bound} {row.target.number:g}" if row.target else ""
        met = {True: "yes", False: "NO", None: ""}[row.met]
        places = 3 if row.paired else 2
        more = f"{row.more:.{1 if row.measure == 'call' else 3}f}"
        figure = more if row.added else f"{row.ratio:.{places}f}"
        ours, peer = quantity(row.ours, row.measure), quantity(row.peer, row.measure)
        line = COLUMNS.format(f"  {row.what}", ours, peer, figure, target, met)
        print(line.rstrip(), flush=True)
        made.append(row)
    print()


def quantity(sample: Sample, measure: str) -> str:
    """The least value with its unit, and how far the median lies above it."""
    if measure == "call":
        return f"{sample.least:.1f} ns {sample.median - sample.least:>+5.1f}"
    above = f"+{100 * (sample.median / sample.least - 1):.0f}%"
    if measure == "instructions":
        return f"{sample.least / 1e6:.0f} M {above:>5}"
    if measure == "memory":
        return f"{sample.least / 1e6:.0f} MB {above:>5}"
    return f"{1000 * sample.least:.{1 if sample.least < 0.1 else 0}f} ms {above:>5}"


def as_json(row: Comparison) -> dict[str, object]:
    """One comparison; times in seconds, of calls in nanoseconds; memory in bytes."""
    return {
        "subject": row.subject,
        "what": row.what,
        "measure": row.measure,
        "ours": vars(row.ours),
        "peer": vars(row.peer),
        "ratio": row.ratio,
        "paired": row.paired,
        "added": row.more if row.added else None,
        "target": row.target and {row.target.bound.replace(" ", "_"): row.target.number},
        "met": row.met,
    }


if __name__ == "__main__":
    sys.exit(main())
