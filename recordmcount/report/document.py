"""What is told of files and their sites, as plain values: how it looks is decided elsewhere.

A document is made of dicts, lists, strings, numbers and None, as the schemas beside this file have
it. Other commands build their own of the same parts.
"""

from __future__ import annotations

from functools import partial

from recordmcount import x86
from recordmcount.elf import filetype
from recordmcount.elf.object import ROW
from recordmcount.sites.evidence import RELOCATION, TABLE

from .names import demangle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Literal

    from recordmcount.elf.object import Budget, Object
    from recordmcount.sites.site import Site, SiteTable

    from .asked import Asked
    from .shapes import Identity, Place, ReportedFile, ReportedSite


def of_file(obj: Object, sites: SiteTable, asked: Asked) -> ReportedFile:
    """Tell of one file; with the lines of sites in the source, and functions without a site.

    Raises FormatError where it would be too much for a file of this size.
    """
    told: ReportedFile = {
        **identity(obj),  # type: ignore[typeddict-item]  # what may be left out is
        "has_table": sites.has_table,
        "no_evidence": sites.no_evidence or None,
        "dead_entries": sites.dead,
        "repeated_entries": sites.repeated,
        "sites": [],
    }
    shown: Iterable[Site] = sites
    if asked.is_filtered:
        from .filters import choose

        chosen = choose(obj, sites, asked)
        shown, told["total_sites"], told["idle"] = chosen.sites, chosen.total, chosen.idle
        told["no_evidence"] = told["no_evidence"] or chosen.no_evidence or None
    places = []
    for site in paid(obj, shown):
        told["sites"].append(of_site(site))
        places.append((site.file_offset - site.position, site.position))
    if asked.lines or asked.untraceable:
        _add(told, obj, places if asked.lines else [], sites, asked)
    if asked.demangle:
        demangle([*told["sites"], *told.get("untraceable", ())])
    return told


def _add(
    told: ReportedFile,
    obj: Object,
    places: Sequence[tuple[int, int]],
    sites: SiteTable,
    asked: Asked,
) -> None:
    """Add what debug information tells."""
    from .sources import Debug
    from .untraceable import functions

    debug = Debug(obj, asked.folder)
    try:
        for site, line in zip(told["sites"], debug.lines(places), strict=False):
            site["source"], site["line"] = line or (None, None)
            obj.budget.tell(site["source"] or "")
        if asked.untraceable:
            every = told["sites"]
            if asked.is_filtered:  # a function with a site has it, shown or not
                every = [of_site(site) for site in paid(obj, sites)]
            told["untraceable"] = functions(obj, every, debug, asked.symbols)
    finally:
        debug.close()
    if asked.is_filtered and asked.untraceable:
        from .filters import untraceable

        told["total_untraceable"] = len(told["untraceable"])
        told["untraceable"] = untraceable(told["untraceable"], asked)


def paid(obj: Object, sites: Iterable[Site]) -> Iterator[Site]:
    """Give the sites of a file, each after it was paid for what will be told of it.

    This is no generator: one that ends because memory does writes a traceback of its own.
    """
    return map(partial(_pay, obj.budget), sites)


def _pay(budget: Budget, site: Site) -> Site:
    codes = len(site.code) + sum(map(len, site.expected))
    budget.tell(site.function or "", site.section, site.target, site.reason, more=ROW + 2 * codes)
    return site


def of_site(site: Site) -> ReportedSite:
    """Tell of one site."""
    return {
        **place(site),  # type: ignore[typeddict-item]  # as above
        "bytes": site.code.hex(),
        "state": site.state,
        "target": site.target or None,
        "recorded": site.recorded,
        "evidence": site.evidence or (TABLE if site.recorded else RELOCATION),
        "reason": site.reason or None,
    }


def place(site: Site) -> Place:
    """Tell where a site is, and the form of its call."""
    where: Place = {
        "function": site.function,
        "function_offset": None if site.function is None else site.function_offset,
        "section": site.section,
    }
    where["offset" if site.in_object else "address"] = site.position
    where["kind"] = site.form or None
    return where


def identity(obj: Object) -> Identity:
    """Tell which file it is; FormatError for one that is neither an object nor linked."""
    bits: Literal[32, 64] = 64 if obj.layout.is_64 else 32
    is_i386 = obj.machine == x86.EM_386
    return {
        "path": obj.path,
        "type": filetype.kind(obj),
        "bits": bits,
        "machine": "i386" if is_i386 else "x86-64" if bits == 64 else "x32",
    }
