"""`tools/bench`: compare the recorder and the patcher with their peers, in ratios.

Every round runs ours and the peer side by side; a ratio is of one round, and told are the least,
the median and the greatest of all rounds. Targets are for medians.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from tools.benchmark.builds import MAKERS
from tools.benchmark.comparison import MIB, Comparison
from tools.benchmark.comparisons import COMPARISONS, compare
from tools.benchmark.instructions import Counter
from tools.benchmark.measure import BenchmarkError, Sample
from tools.benchmark.setting import ENOUGH, KERNEL, Setting

COLUMNS = "{:58}{:9}{:>10}{:>10}{:>9}{:>9}{:>9}  {:14}{}"
LEGEND = """\
Ours and the peer: the median of all rounds. Ratios, or what ours takes more: of single rounds.
Load average: {before} before, {after} after."""
FEW = f"Of so few files, or of fewer than {ENOUGH} rounds: what is told of targets means nothing."


def main(words: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 done, 1 a tool failed or (with --check) a target is missed."""
    options = parse(words)
    before = os.getloadavg()
    made: list[Comparison] = []
    try:
        with tempfile.TemporaryDirectory(prefix="bench.", dir=KERNEL.parents[1]) as scratch:
            builds = [make() for make in MAKERS[options.build]]
            setting = Setting(Path(scratch), builds, files=options.files, rounds=options.rounds)
            print_table(compare(setting, options.names), made)
    except BenchmarkError as error:
        print(f"tools/bench: {error}", file=sys.stderr)
        return 1
    after = os.getloadavg()
    print(LEGEND.format(before=f"{before[0]:.1f}", after=f"{after[0]:.1f}"))
    if options.files or (options.rounds or ENOUGH) < ENOUGH:
        print(FEW)
    with Counter() as counter:
        uncounted = counter.why_not
    if uncounted:
        print(f"Instructions are not counted by this machine: {uncounted}.")
    if options.json:
        document = {
            "version": 2,
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
    """The options as attributes; `names` are those of the comparisons to make."""
    parser = argparse.ArgumentParser(
        prog="tools/bench", description=__doc__, epilog=f"Comparisons: {', '.join(COMPARISONS)}."
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE")
    parser.add_argument("--check", action="store_true", help="exit 1 if a target is missed")
    parser.add_argument(
        "--only",
        action="append",
        metavar="GLOB",
        help="only comparisons whose name matches: 'switch-*'; may be given several times",
    )
    parser.add_argument(
        "--build",
        choices=MAKERS,
        default="both",
        help="which build of ours works on files: the checkout, what tools/build makes of it with "
        "compiled modules, or (default) both in the same rounds",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        metavar="N",
        help="runs of each command (default: 40 of one object, 200 of programs whose sites are "
        f"off, {ENOUGH} of others; targets mean nothing for fewer)",
    )
    parser.add_argument(
        "--files", type=int, metavar="N", help="only N modules; targets then mean nothing"
    )
    options = parser.parse_args(words)
    globs = options.only or ["*"]
    for glob in globs:
        if not any(fnmatchcase(name, glob) for name in COMPARISONS):
            parser.error(f"no comparison is named {glob}: there are {', '.join(COMPARISONS)}")
    options.names = [name for name in COMPARISONS if any(fnmatchcase(name, glob) for glob in globs)]
    return options


def print_table(comparisons: Iterable[Comparison], made: list[Comparison]) -> None:
    """Print each comparison when it is made, under its subject; and collect it in `made`."""
    head = ("", "build", "ours", "peer", "least", "median", "greatest", "target", "met")
    print(COLUMNS.format(*head))
    subject = ""
    for row in comparisons:
        if row.subject != subject:
            subject = row.subject
            print(f"\n{subject}")
        target = f"{row.target.bound} {row.target.number:g}" if row.target else ""
        met = {True: "yes", False: "NO", None: ""}[row.met]
        costs = [quantity(sample, row.measure) for sample in (row.ours, row.peer)]
        line = COLUMNS.format(f"  {row.what}", row.build, *costs, *figures(row), target, met)
        print(line.rstrip(), flush=True)
        made.append(row)
    print()


def figures(row: Comparison) -> list[str]:
    """What is told of its rounds."""
    places = 1 if row.added and row.measure != "wall" else 3
    told = row.figures
    return [f"{figure:.{places}f}" for figure in (told.least, told.median, told.greatest)]


def quantity(sample: Sample, measure: str) -> str:
    """The median with its unit."""
    if measure == "call":
        return f"{sample.median:.1f} ns"
    if measure == "instructions":
        return f"{sample.median / 1e6:.0f} M"
    if measure == "memory":
        return f"{sample.median / MIB:.0f} MiB"
    return f"{1000 * sample.median:.{1 if sample.median < 0.1 else 0}f} ms"


def as_json(row: Comparison) -> dict[str, object]:
    """One comparison; times in seconds, of calls in nanoseconds; memory in bytes, added in MiB."""
    return {
        "subject": row.subject,
        "what": row.what,
        "build": row.build or None,
        "measure": row.measure,
        "ours": vars(row.ours),
        "peer": vars(row.peer),
        "added" if row.added else "ratio": vars(row.figures),
        "target": row.target and {row.target.bound.replace(" ", "_"): row.target.number},
        "met": row.met,
    }


if __name__ == "__main__":
    sys.exit(main())
