"""What is wrong with the tables of a linked file: compared with the calls that its code proves.

A scan finds these calls whatever the tables say. It tells of a missing entry only where a call is
proven, and of a wrong one only where it is known what mcount is: in a static image without symbols
nothing tells. Entries of 0 and -1 are what linkers leave for code that they dropped, and several
for one place are right where the linker has folded as many functions into one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from typing import NamedTuple

from recordmcount import x86
from recordmcount.elf import object as elf
from recordmcount.elf.symbols import names_locals
from recordmcount.sites import (
    boundaries,
    decoder,
    kernel,
    kernel_table,
    linked_entries,
    missing,
    scan,
    tables,
)
from recordmcount.sites.linked import Image
from recordmcount.sites.proven import ENDBR_SIZE, Begun, Scanned
from recordmcount.sites.words import sites_in_words

from . import rules
from .finding import Finding, Found, off, off_by

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from recordmcount.elf.object import Object
    from recordmcount.sites.linked import LinkedSites
    from recordmcount.sites.scan import FoundSites
    from recordmcount.sites.site import Site
    from recordmcount.sites.tables import Table

    from .asked import Asked
    from .rules import Rule

# What does not tell whether there is a site.
UNPROVEN = (decoder.OF_AN_OBJECT, decoder.RELOCATED, boundaries.NO_START)


def check(obj: Object, asked: Asked) -> Found:
    """Compare tables and code. Raises FormatError where the file cannot be trusted."""
    names = x86.mcount_names(asked.symbols)
    calls = _named(obj, tables.find, names) if obj.headers else None
    returns = _named(obj, tables.find_returns, [x86.RETURN_NAME]) if obj.headers else None
    if calls:
        scanned = Scanned(scan.read(obj, asked.symbols))
        checked = _Check(obj, calls.image, calls.words, scanned, _live(returns))
        checked.found.add(_odd(obj, calls))
        found = checked.check()
    else:
        found = _without_entries(obj, asked)
    if returns:
        scanned = Scanned(scan.find_returns(obj))
        found.add(_odd(obj, returns))
        _Check(obj, returns.image, returns.words, scanned, _live(calls), found).check()
    return found


class _Named(NamedTuple):
    """What the tables of one kind name, and the sections that end inside of a word."""

    image: Image
    words: Sequence[Words]
    odd: Sequence[elf.Section]


def _named(
    obj: Object, find: Callable[[Object, list[elf.Section]], list[Table]], names: list[bytes]
) -> _Named | None:
    """Read the words of the tables of one kind; None if there are none."""
    odd: list[elf.Section] = []
    found = find(obj, odd)
    if not found:
        return None
    image = Image.of_tables(obj, names, found)
    words = [
        Words(
            one.name,
            one.vaddrs,
            linked_entries.words(obj, one.vaddrs, one.content, image.relocated),
        )
        for one in found
    ]
    return _Named(image, words, odd)


def _live(named: _Named | None) -> set[int]:
    """Return what the words of a kind of table name, as link-time virtual addresses."""
    return {value for one in (named.words if named else ()) for value in one.values}


def _without_entries(obj: Object, asked: Asked) -> Found:
    """Check a file without a table of mcount's calls, but perhaps a kernel's."""
    kernels = kernel.find(obj, asked.symbols) if obj.headers else None
    if kernels:
        image, table = kernels
        start = range(table.vaddr, table.vaddr + len(table.entries) * obj.layout.word)
        words = [Words(kernel_table.START, start, table.entries)]
        return _Check(obj, image, words, Begun(obj, image.sites([]))).check()
    return _without_table(obj, scan.read(obj, asked.symbols))


class Words(NamedTuple):
    """A table: its name, the link-time virtual addresses it is at, and its words in order."""

    table: str
    vaddrs: range
    values: Sequence[int]


def _odd(obj: Object, named: _Named) -> Iterator[Finding]:
    """Tell of tables that have no whole number of words, or not where words can be."""
    word = obj.layout.word
    for section in named.odd:
        what = f"{section.size} bytes, of {word} each"
        yield Finding(rules.TABLE_SIZE, what, section.name, section.vaddr + section.size)
    for one in named.words:
        if one.vaddrs and one.vaddrs.start % word:
            what = f"it begins at {one.vaddrs.start:#x}, and has words of {word} bytes"
            yield Finding(rules.TABLE_ALIGNMENT, what, one.table, one.vaddrs.start)


def _without_table(obj: Object, sites: FoundSites) -> Found:
    """Tell, once, of the calls of a file without a table."""
    found = Found(obj)
    calls = Scanned(sites)
    found.sites = len(calls.positions)
    found.no_evidence = sites.no_evidence
    if calls.positions and not sites.has_headers:
        found.no_evidence = "no section headers, by which a table is found"
    elif calls.positions:
        what = f"{sites_in_words(found.sites)} without entry, the first here"
        found.add([_of_site(rules.NO_TABLE, calls.site(calls.positions[0]), what)])
    return found


def _of_site(
    rule: Rule, site: Site, message: str, word: tuple[str | None, int | None] = (None, None)
) -> Finding:
    distance = None if site.function is None else site.function_offset
    return Finding(rule, message, site.section, site.position, site.function, distance, *word)


class _Check:
    """One linked file with tables of one kind; `calls` are those that its code proves.

    `others` are what tables of the other kind name. What was `found` there is added to.
    """

    def __init__(
        self,
        obj: Object,
        image: Image,
        words: Sequence[Words],
        calls: Scanned | Begun,
        others: Collection[int] = (),
        found: Found | None = None,
    ) -> None:
        self._obj = obj
        self._image = image
        self._words = words
        self._calls = calls
        self._others = others
        self._proven = {*calls.positions}.difference(others)
        self._is_kernel = any(one.table == kernel_table.START for one in words)
        self._places: dict[int, list[tuple[str, int]]] | None = None
        self.found = found or Found(obj)
        self.found.has_table = True

    def check(self) -> Found:
        """Compare what the words name with the calls."""
        found, highest = self.found, self._obj.layout.highest
        values = [value for one in self._words for value in one.values]
        live = [value for value in values if 0 < value < highest]
        distinct = sorted({*live})
        found.entries += len(values)
        found.add(self._not_relocated() if linked_entries.NOT_RELOCATED in values else ())
        found.dead += sum(value in (0, highest) for value in values)
        outside = self._image.code.outside(distinct)
        for vaddr in outside:
            found.add(self._outside(vaddr))
        inside = sorted({*distinct}.difference(outside)) if outside else distinct
        sites = self._image.sites(inside)
        foreign, meant = self._foreign(sites)
        named = {*inside}.difference(foreign)
        left_out = missing.find(self._obj, sites, self._calls, self._others)
        calls = [self._calls.site(vaddr) for vaddr in left_out.calls if vaddr not in meant]
        found.add(
            _of_site(rules.MISSING_ENTRY, site, "no entry names it")
            for site in (*calls, *self._image.sites(left_out.nops))
        )
        if len(live) != len(distinct):
            found.add(self._repeated(sites, Counter(live)))
        found.add(self._overridden(sites, foreign))
        found.sites += len(named.union(self._proven, left_out.nops))
        return found

    def _word(self, vaddr: int) -> tuple[str | None, int | None]:
        return self._words_of(vaddr)[0]

    def _words_of(self, vaddr: int) -> list[tuple[str, int]]:
        """Give the words with a value: (name of the table, offset therein in bytes)."""
        if self._places is None:
            self._places = defaultdict(list)
            for one in self._words:
                for number, value in enumerate(one.values):
                    self._places[value].append((one.table, number * self._obj.layout.word))
        return self._places[vaddr]

    def _not_relocated(self) -> Iterator[Finding]:
        for word in self._words_of(linked_entries.NOT_RELOCATED):
            what = "nothing makes this word an address when the file is loaded"
            yield Finding(rules.NOT_RELOCATED, what, None, None, None, None, *word)

    def _outside(self, vaddr: int) -> Iterator[Finding]:
        for word in self._words_of(vaddr):
            where = next(
                (
                    self._obj.section(index).name
                    for index, header in enumerate(self._obj.headers)
                    if header[elf.SH_FLAGS] & elf.SHF_ALLOC
                    and header[elf.SH_ADDR] <= vaddr < header[elf.SH_ADDR] + header[elf.SH_SIZE]
                ),
                None,
            )
            what = "a section that is not executable" if where else "in no section"
            yield Finding(rules.NOT_CODE, what, where, vaddr, None, None, *word)

    # --- entries ------------------------------------------------------------------------------

    def _foreign(self, sites: LinkedSites) -> tuple[set[int], set[int]]:
        """Tell of entries that name no site: (their addresses, those of sites that were meant)."""
        entries = missing.foreign(sites, self._proven)
        foreign = {*entries}
        near = sorted(self._proven.union(sites.vaddrs).difference(foreign)) if foreign else []
        named = {*sites.vaddrs}.difference(foreign) if foreign else set()
        meant: set[int] = set()

        def is_free(at: int) -> bool:
            return at not in named

        for vaddr in entries:
            site, word = sites.at(vaddr), self._word(vaddr)
            right = off(vaddr, near, lambda at: len(self._site(sites, at).code), is_free)
            if right is not None:
                meant.add(right)
                other = self._site(sites, right)
                what = f"{off_by(vaddr, right)} the {other.state} at {right:#x}"
                self.found.add([_of_site(rules.ENTRY_OFF, site, what, word)])
            elif self._is_unproven(site):
                self.found.unproven += 1
            else:
                self.found.add([_of_site(rules.NO_SITE, site, site.reason, word)])
        return foreign, meant

    def _site(self, sites: LinkedSites, vaddr: int) -> Site:
        """Return what stands at a place, by the entry or the call there."""
        return self._calls.site(vaddr) if vaddr in self._proven else sites.at(vaddr)

    def _is_unproven(self, site: Site) -> bool:
        """Tell whether nothing tells what stands at an entry: there may be a site."""
        if site.reason == decoder.NEITHER:
            return False
        if not self._image.targets.code and not self._image.targets.slots:
            return True
        is_first = site.function is not None and site.function_offset in (0, ENDBR_SIZE)
        return site.reason in UNPROVEN or (site.reason == decoder.UNMARKED and is_first)

    def _repeated(self, sites: LinkedSites, number: Counter[int]) -> Iterator[Finding]:
        """Tell of places that are named more often than the linker has folded functions there."""
        for vaddr, times in sorted(number.items()):
            index = bisect_left(sites.vaddrs, vaddr)
            if times < 2 or sites.vaddrs[index : index + 1] != [vaddr]:
                continue
            folded = 1 if self._is_kernel else len(sites.names(index))
            for word in self._words_of(vaddr)[max(1, folded) :]:
                yield _of_site(rules.REPEATED_ENTRY, sites[index], "named again", word)

    def _overridden(self, sites: LinkedSites, foreign: set[int]) -> Iterator[Finding]:
        """Tell of sites that no symbol names, where functions have one."""
        if not names_locals(self._obj):
            return
        starts = self._image.code.beginnings()
        for number, vaddr in enumerate(sites.vaddrs):
            if vaddr in starts or vaddr - ENDBR_SIZE in starts or vaddr in foreign:
                continue
            if not sites.names(number):
                site = sites[number]
                if site.function is None:
                    what = "no symbol names the function of this site"
                    yield _of_site(rules.OVERRIDDEN_FUNCTION, site, what, self._word(vaddr))
