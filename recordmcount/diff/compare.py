"""Two documents of one file each -> what changed of the functions that can be traced.

Functions are matched by name, for addresses shift with every build. A name may be that of many
functions, static ones of several units, and a function may have many sites, so what is compared is
how many sites of each sort stand under a name, and in which section.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from recordmcount.sites.mangling import PARTS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from recordmcount.report.shapes import ReportedFile, ReportedSite

# Compilers number the parts and copies of a function anew in every build (gcc: cgraphclones.cc).
_NUMBERED = re.compile(rf"\.({PARTS})\.\d+")

GAINED, LOST, MOVED, CHANGED = "gained", "lost", "moved", "changed"


class Sort(NamedTuple):
    """What is compared of a site: its section, form of call, state, and whether it is recorded."""

    section: str
    kind: str
    state: str
    recorded: bool


class Change(NamedTuple):
    """So many sites of a function are otherwise now: `what`, from `old` to `new`."""

    what: str
    function: str
    old: Sort | None
    new: Sort | None
    number: int


def unnumbered(name: str) -> str:
    """Strip the numbers that differ from build to build from a function's name."""
    return _NUMBERED.sub(r".\1", name)


def compare(old: ReportedFile | None, new: ReportedFile | None) -> list[Change]:
    """Tell what changed from one file to the other, function by function in order of name."""
    before, after = _by_function(old), _by_function(new)
    changes: list[Change] = []
    for function in sorted({*before, *after}):
        gone = before[function] - after[function]
        come = after[function] - before[function]
        changes += _changes(function, gone, come)
    return changes


def _by_function(file: ReportedFile | None) -> defaultdict[str, Counter[Sort]]:
    functions: defaultdict[str, Counter[Sort]] = defaultdict(Counter)
    for site in file["sites"] if file else ():
        functions[unnumbered(site["function"] or f"({site['section']})")][_sort(site)] += 1
    return functions


def _sort(site: ReportedSite) -> Sort:
    return Sort(site["section"], site["kind"] or "-", site["state"], site["recorded"])


def _changes(function: str, gone: Counter[Sort], come: Counter[Sort]) -> Iterator[Change]:
    """Pair what is gone with what has come: first what only moved, then what is in its section."""
    yield from _paired(MOVED, function, gone, come, but_section=True)
    yield from _paired(CHANGED, function, gone, come, but_section=False)
    for sort in sorted(+gone):
        yield Change(LOST, function, sort, None, gone[sort])
    for sort in sorted(+come):
        yield Change(GAINED, function, None, sort, come[sort])


def _paired(
    what: str, function: str, gone: Counter[Sort], come: Counter[Sort], *, but_section: bool
) -> Iterator[Change]:
    """Pair sorts that are equal but for their section, or of one section, and take them out."""

    def key(sort: Sort) -> object:
        return sort[1:] if but_section else sort.section

    partners: defaultdict[object, list[Sort]] = defaultdict(list)
    for sort in sorted(+come, reverse=True):
        partners[key(sort)].append(sort)
    for old in sorted(+gone):
        found = partners[key(old)]
        while found and gone[old]:
            new = found[-1]
            count = min(gone[old], come[new])
            yield Change(what, function, old, new, count)
            gone[old] -= count
            come[new] -= count
            if not come[new]:
                found.pop()
