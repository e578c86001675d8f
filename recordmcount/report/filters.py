"""Which sites and functions of a file are shown, and how many there are without that choice."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import translate
from operator import itemgetter
from typing import NamedTuple

from recordmcount.sites import missing
from recordmcount.sites.joined import JoinedSites
from recordmcount.sites.linked import LinkedSites
from recordmcount.sites.mangling import spellings
from recordmcount.sites.select import select

TYPE_CHECKING = False
if TYPE_CHECKING:
    from recordmcount.elf.object import Object
    from recordmcount.sites.site import Site, SiteTable

    from .asked import Asked
    from .shapes import UntraceableFunction


class Chosen(NamedTuple):
    """The `sites` of a file that are shown, once; `total` is how many there are.

    `idle` are the globs that are like no function with a site, and `no_evidence` says why there may
    be calls without an entry that are not known.
    """

    sites: Iterable[Site]
    total: int
    idle: tuple[str, ...] = ()
    no_evidence: str = ""


def choose(obj: Object, table: SiteTable, asked: Asked) -> Chosen:
    """Choose of the sites of a file; of a linked one with a table also what that leaves out.

    Raises Error, as reading the file does.
    """
    numbers, idle = _like_functions(table, range(len(table)), asked)
    first = table.tables[0] if isinstance(table, JoinedSites) else table
    if not asked.unrecorded or not isinstance(first, LinkedSites) or first.are_returns:
        sites = table if len(numbers) == len(table) else map(table.__getitem__, numbers)
        return Chosen(_shown(sites, asked), len(table), tuple(sorted(idle)))
    others: list[int] = []
    if isinstance(table, JoinedSites):
        others += [vaddr for each in table.tables[1:] for vaddr in each.vaddrs]
    left_out, no_evidence = missing.read(obj, first, asked.symbols, others)
    total = len(table) + sum([len(numbers) for _, numbers in left_out])
    places: list[tuple[int, SiteTable, int]] = []
    for source, every in left_out:
        numbers, unlike = _like_functions(source, every, asked)
        idle &= unlike
        places += [(source.vaddrs[number], source, number) for number in numbers]
    places.sort(key=itemgetter(0))  # and no generator that merges: see document.paid
    sites = map(_site, places)
    return Chosen(_shown(sites, asked), total, tuple(sorted(idle)), no_evidence)


def _site(place: tuple[int, SiteTable, int]) -> Site:
    return place[1][place[2]]


def _like_functions(
    table: SiteTable, numbers: Sequence[int], asked: Asked
) -> tuple[Sequence[int], set[str]]:
    """Choose of `numbers` the sites in functions that are asked for; and the globs like none."""
    if not asked.functions:
        return numbers, set()
    wanted, idle = select(table, asked.functions)
    return sorted({*numbers}.intersection(wanted)), {*idle}


def _shown(sites: Iterable[Site], asked: Asked) -> Iterator[Site]:
    is_like = _like(asked.sections)
    return filter(
        lambda site: is_like(site.section) and not (asked.unrecorded and site.recorded), sites
    )


def untraceable(
    functions: Iterable[UntraceableFunction], asked: Asked
) -> list[UntraceableFunction]:
    """Choose of the functions without a site."""
    is_function, is_section = _like(asked.functions), _like(asked.sections)
    return [
        each
        for each in functions
        if any(map(is_function, _names(each["function"], asked)))
        and (not asked.sections or (each["section"] and is_section(each["section"])))
    ]


def _names(function: str, asked: Asked) -> Iterable[str]:
    return spellings(function) if asked.functions else (function,)


def _like(globs: Sequence[str]) -> Callable[[str], bool]:
    """Make what tells of a text whether it is like one of the globs; without any all are."""
    match = re.compile("|".join(map(translate, globs))).match
    return lambda text: not globs or text in globs or match(text) is not None
