"""`tools/explore`: try the protocols of patcher in every interleaving, and break their mutants."""

import argparse
import sys
import time
from collections.abc import Sequence

from recordmcount.console import say
from tools.explorer.model import Model
from tools.explorer.scenarios import Case, mutants, proofs
from tools.explorer.schedule import lines
from tools.explorer.search import explore

LEGEND = """\
CPU 0 runs the protocol, the others execute the sites; NMIs arrive on any. Each byte and variable
that a CPU stores becomes visible to the others at a time of its own. Fetched bytes are kept until
they are executed or dropped; `..` stands for a byte fetched at another time. nmi_running is the
number of NMIs, plus 0x80000000 while the flag is up.
"""
LINE = "{:55}{:>10}{:>8}  {}"


def main(words: Sequence[str] | None = None) -> int:
    """Return the exit status: 0 if every protocol holds and every mutant breaks, else 1."""
    parser = argparse.ArgumentParser(
        prog="tools/explore",
        description=__doc__,
        epilog="exit status: 0 every protocol holds and every mutant breaks; 1 otherwise; 2 usage",
    )
    parser.add_argument(
        "words", nargs="*", metavar="WORD", help="only scenarios whose name has all of these words"
    )
    wanted = parser.parse_args(words).words
    cases = [*proofs(), *mutants()]
    cases = [case for case in cases if all(word in case.name for word in wanted)]
    if not cases:
        parser.error("no scenario has all of these words in its name")
    say(1, [LEGEND, LINE.format("", "states", "", "").rstrip()])
    good = True
    for case in cases:
        good &= try_case(case)
    return 0 if good else 1


def try_case(case: Case) -> bool:
    """Explore one scenario, print what is found, and return whether it is as it should be."""
    model = Model(case.scenario)
    before = time.monotonic()
    found = explore(model)
    took = f"{time.monotonic() - before:.1f} s"
    violated = found.schedule.violation if found.schedule else ""
    good = case.violation in violated if case.violation else not violated
    verdict = "breaks" if violated else "holds"
    if not good:
        verdict += f", and should {'break' if case.violation else 'hold'}"
    told = [LINE.format(case.name, f"{found.states:,}", took, verdict)]
    if found.schedule:
        told += [f"      {site}" for site in case.scenario.batch]
        told += [f"      {line}" for line in lines(model, found.schedule)]
    return say(1, told) and good


if __name__ == "__main__":
    sys.exit(main())
