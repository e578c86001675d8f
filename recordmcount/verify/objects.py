"""What is wrong with the tables of an object: compared with the calls that its relocations name.

Which calls are to have an entry is decided by the recorder's own rule (record.plan.Wanted). Whole
columns are looked at; a site is looked at alone only where something is odd.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from recordmcount import mcount_loc
from recordmcount.asked import Options
from recordmcount.columns import having
from recordmcount.elf import object as elf
from recordmcount.elf.symbols import Functions, names_locals
from recordmcount.record.file import is_tracer
from recordmcount.record.plan import Wanted, group_of, in_group
from recordmcount.sites import relocatable
from recordmcount.sites.entries import claims_of
from recordmcount.sites.state import State
from recordmcount.sites.words import sites_in_words
from recordmcount.x86 import ENDBR, LONGEST_SITE, RELOCATION_NONE

from . import rules
from .claims import Claims
from .finding import Finding, Found, off, off_by

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from recordmcount.elf.object import Object
    from recordmcount.sites.relocatable import Part

    from .asked import Asked
    from .rules import Rule

ENDBR_SIZE = len(ENDBR[0])  # bytes


def check(obj: Object, asked: Asked) -> Found:
    """Compare tables and calls. Raises FormatError where the object cannot be trusted."""
    return _Check(obj, asked).check()


class _Check:
    def __init__(self, obj: Object, asked: Asked) -> None:
        self._obj = obj
        self._claims = Claims(obj)
        self._sites = relocatable.read(obj, asked.symbols, self._claims.entries)
        self._wanted = Wanted(obj, Options(kernel=asked.kernel, all_sections=asked.all_sections))
        self._is_tracer = is_tracer(obj, kernel=asked.kernel)
        self._functions = Functions(obj)
        self._relocated: dict[int, list[int]] = {}  # section offsets, by section index
        self._starts: set[tuple[int, int]] | None = None

    def check(self) -> Found:
        found = Found(self._obj)
        found.has_table = self._sites.has_table
        every = range(len(self._sites))
        found.sites = len(every) - len(self._sites.where(every, State.FOREIGN))
        found.entries = self._claims.number
        found.dead = self._claims.dead
        if found.has_table:
            found.add(self._tables())
            found.add(self._words())
            for number, part in enumerate(self._sites.parts):
                found.add(self._part(part, self._sites.firsts[number]))
        elif not self._is_tracer:
            found.add(self._without_table())
        return found

    # --- tables and their words ---------------------------------------------------------------

    def _tables(self) -> Iterator[Finding]:
        word = self._obj.layout.word
        for index in [each for name in mcount_loc.NAMES for each in self._obj.named(name)]:
            section = self._obj.section(index)
            if section.size % word:
                what = f"{section.size} bytes, of {word} each"
                yield Finding(rules.TABLE_SIZE, what, section.name, section.size)
        recorded = [part.section for part in self._sites.parts if any(part.recorded)]
        if any(in_group(self._obj, each) for each in recorded):
            yield from self._groups()

    def _groups(self) -> Iterator[Finding]:
        """Find tables with entries for a section group that they are not of."""
        groups = group_of(self._obj)
        seen = set()
        for table, offset, claim in claims_of(self._obj):
            group = groups.get(claim[0], 0) if claim else 0
            if claim and group and groups.get(table) != group and (table, claim[0]) not in seen:
                seen.add((table, claim[0]))
                name = self._obj.section(table).name
                yield self._at(rules.GROUP, claim, "its table is not of its group", (name, offset))

    def _words(self) -> Iterator[Finding]:
        """Tell of words that name no code, or a place that another one names."""
        for section, offset in self._claims.outside:
            for word in self._claims.words(section, offset):
                what = self._why_outside(section)
                yield self._at(rules.NOT_CODE, (section, offset), what, word)
        for name, offset in self._claims.unknown:
            what = "a word that no relocation makes the address of code"
            yield Finding(rules.NOT_RELOCATED, what, table=name, entry=offset)
        for place, word in self._claims.repeated():
            if place not in self._claims.outside:
                yield self._at(rules.REPEATED_ENTRY, place, "named again", word)

    def _why_outside(self, section: int) -> str:
        if not 0 < section < len(self._obj.headers):
            return f"section {section}, which there is not"
        header = self._obj.headers[section]
        if not header[elf.SH_FLAGS] & elf.SHF_ALLOC:
            return "a section that is not loaded"
        if not header[elf.SH_FLAGS] & elf.SHF_EXECINSTR:
            return "a section that is not executable"
        return f"outside of the section, which has {header[elf.SH_SIZE]:#x} bytes"

    # --- sites --------------------------------------------------------------------------------

    def _without_table(self) -> Iterator[Finding]:
        """Tell, once, of the sites of an object that has no table."""
        numbers = [
            first + number
            for part, first in self._parts()
            if self._is_loaded(part.section)
            for number, _ in self._lacking(part, first, range(len(part.column.starts)))
        ]
        if numbers:
            site = self._sites[numbers[0]]
            yield Finding(
                rules.NO_TABLE, f"{sites_in_words(len(numbers))} without entry, the first here",
                site.section, site.position, site.function,
                None if site.function is None else site.function_offset,
            )  # fmt: skip

    def _parts(self) -> Iterator[tuple[Part, int]]:
        return zip(self._sites.parts, self._sites.firsts, strict=False)

    def _is_loaded(self, section: int) -> bool:
        return bool(self._obj.headers[section][elf.SH_FLAGS] & elf.SHF_ALLOC)

    def _state(self, part: Part, number: int, first: int) -> State:
        way = part.column.ways[number]
        return self._sites.ways[way - 1].state if way else self._sites.finding(first + number).state

    def _lacking(
        self, part: Part, first: int, numbers: Sequence[int]
    ) -> Iterator[tuple[int, Rule]]:
        """Choose those of a part's sites without an entry that break a rule, and tell which."""
        is_wanted = part.section in self._wanted
        for number in numbers:
            state = self._state(part, number, first)
            # What is foreign may be a call, and can have no entry.
            if state is State.CALL or (state is State.NOP and is_wanted):
                yield number, rules.MISSING_ENTRY if is_wanted else rules.CALL_LEFT

    def _part(self, part: Part, first: int) -> Iterator[Finding]:
        """Tell of the sites of one section, `first` being the number of its first."""
        obj, recorded = self._obj, part.recorded
        if any(recorded) and part.section not in self._wanted and not self._is_lost(part.section):
            yield from self._untraced(part, first)
        meant: set[int] = set()
        odd = having(bytes(part.column.ways), 0) if 0 in part.column.ways else ()
        for number in [number for number in odd if recorded[number]]:
            finding = self._unusual(part, number, first, meant)
            if finding:
                yield finding
        if not all(recorded) and self._is_loaded(part.section) and not self._is_tracer:
            for number, rule in self._lacking(part, first, having(recorded, 0)):
                if part.column.starts[number] not in meant:
                    yield self._of_site(rule, first + number, "no entry names it")
        if obj.symtab is not None:
            yield from self._overridden(part, first)

    def _is_lost(self, section: int) -> bool:
        """Tell whether a section would not be recorded, though nothing says that it is a kernel's.

        An entry is no mistake there.
        """
        return self._obj.section(section).name in self._wanted.lost

    def _untraced(self, part: Part, first: int) -> Iterator[Finding]:
        for number in having(part.recorded, 1):
            if self._state(part, number, first) is not State.FOREIGN:
                yield self._of_site(rules.UNTRACED_SECTION, first + number, "it has an entry")

    def _unusual(self, part: Part, number: int, first: int, meant: set[int]) -> Finding | None:
        """Tell what is wrong with an entry whose site was decided alone.

        The site that it was meant for goes into `meant`: it is not told of again.
        """
        found = self._sites.finding(first + number)
        place = part.section, part.column.starts[number]
        if found.state is not State.FOREIGN:
            if found.relocation is None and self._is_relocated(*place, found.length):
                what = "the relocation that stands in the NOP will change it"
                return self._of_site(rules.NOP_WITH_RELOCATION, first + number, what)
            return None
        near = {
            part.column.starts[each]: each
            for each in range(max(0, number - LONGEST_SITE), number + LONGEST_SITE)
            if each < len(part.column.starts)
            and self._state(part, each, first) is not State.FOREIGN
        }
        site = off(
            place[1], [*near],
            lambda start: self._sites.finding(first + near[start]).length,
            lambda start: not part.recorded[near[start]],
        )  # fmt: skip
        if site is None:
            return self._of_site(rules.NO_SITE, first + number, found.reason)
        if not part.recorded[near[site]]:
            meant.add(site)
        where = f"{self._obj.section(part.section).name}+{site:#x}"
        what = f"{off_by(place[1], site)} the {self._state(part, near[site], first)} at {where}"
        return self._of_site(rules.ENTRY_OFF, first + number, what)

    def _is_relocated(self, section: int, offset: int, length: int) -> bool:
        """Tell whether a relocation is for some bytes of a section."""
        if section not in self._relocated:
            self._relocated[section] = sorted(
                at
                for index in self._obj.of_type(elf.SHT_RELA, elf.SHT_REL)
                if self._obj.headers[index][elf.SH_INFO] == section
                for at, kind, _symbol, _addend in self._obj.relocations(index)
                if kind != RELOCATION_NONE
            )
        fields = self._relocated[section]
        return bisect_left(fields, offset) < bisect_left(fields, offset + length)

    # --- functions ----------------------------------------------------------------------------

    def _overridden(self, part: Part, first: int) -> Iterator[Finding]:
        """Tell of recorded sites that no symbol names, where functions have one."""
        starts, section = self._function_starts(), part.section
        for number, start in enumerate(part.column.starts):
            if (section, start) in starts or (section, start - ENDBR_SIZE) in starts:
                continue
            if not part.recorded[number] or self._state(part, number, first) is State.FOREIGN:
                continue
            if self._sites[first + number].function is None and self._obj.once(names_locals):
                what = "no symbol names the function of this site"
                yield self._of_site(rules.OVERRIDDEN_FUNCTION, first + number, what)

    def _function_starts(self) -> set[tuple[int, int]]:
        if self._starts is None:
            self._starts = {*self._obj.places(elf.STT_FUNC, elf.STT_GNU_IFUNC)}
        return self._starts

    # --- places -------------------------------------------------------------------------------

    def _of_site(self, rule: Rule, number: int, message: str) -> Finding:
        site = self._sites[number]
        part = self._sites.parts[bisect_right(self._sites.firsts, number) - 1]
        words = self._claims.words(part.section, site.position) if site.recorded else []
        word = words[0] if words else (None, None)
        distance = None if site.function is None else site.function_offset
        return Finding(rule, message, site.section, site.position, site.function, distance, *word)

    def _at(
        self, rule: Rule, place: tuple[int, int], message: str, word: tuple[str | None, int | None]
    ) -> Finding:
        """Make a finding of a place that may be anywhere."""
        section, offset = place
        is_there = 0 < section < len(self._obj.headers)
        name = self._obj.section(section).name if is_there else None
        function, inside = self._functions.at(section, offset) if is_there else (None, 0)
        return Finding(
            rule, message, name, offset, function, None if function is None else inside, *word
        )
