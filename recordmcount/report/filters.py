"""Which sites and functions of a file are shown, and how many there are without that choice."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import translate
from heapq import merge
from typing import NamedTuple

from recordmcount.sites import missing
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
    sources: list[tuple[SiteTable, Sequence[int]]] = [(table, range(len(table)))]
    no_evidence = ""
    if asked.unrecorded and isinstance(table, LinkedSites):
        left_out, no_evidence = missing.read(obj, table, asked.symbols)
        sources += left_out
    total = sum(len(numbers) for _, numbers in sources)
    idle = set(asked.functions)
    each = []
    for source, numbers in sources:
        if asked.functions:
            wanted, unlike = select(source, asked.functions)
            idle.intersection_update(unlike)
            numbers = sorted({*numbers}.intersection(wanted))
        each.append(_shown(source, numbers, asked))
    sites = merge(*each, key=lambda site: site.position) if len(each) > 1 else each[0]
    return Chosen(sites, total, tuple(sorted(idle)), no_evidence)


def _shown(table: SiteTable, numbers: Sequence[int], asked: Asked) -> Iterator[Site]:
    is_like = _like(asked.sections)
    sites = table if len(numbers) == len(table) else map(table.__getitem__, numbers)
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
