"""The call sites of a linked image that has no table, each with what proves it.

A call is one of mcount because its operand leads there: to a definition, to a stub of the PLT, or
to a slot of the GOT (`goals`). The code is searched for such operands (`search`), and an
instruction must begin where one was found (`boundaries`). Relocations that linkers kept or left to
the loader are better evidence, and need no operand to be resolved (`named_calls`).

So all depends on a name: that of an imported function, or of a symbol. Where an image has neither,
as after `strip` of a static one, nothing proves a call, and none is reported.
"""

from __future__ import annotations

from _bisect import bisect_right

from recordmcount import x86, x86_nops, x86_patterns

from . import evidence, patchable
from .decoder import Decoder
from .goals import Goals
from .linked import Entries, LinkedSites
from .named_calls import named_calls
from .search import Search
from .starts import LIKELY, NO, Starts
from .state import State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Literal

    from recordmcount.elf.object import Object, Section

    from .decoder import Found, Way
    from .named_calls import NamedCall
    from .site import Site

PREFIXED = "a call behind a prefix, which cannot be recorded"
NO_CALLS = "mcount is imported, but no call could be followed to it"
NO_SYMBOLS = "no symbols, and nothing that is imported is mcount"


class FoundSites:
    """The SiteTable of a linked file without a table.

    `vaddrs` are the link-time virtual addresses of the sites, ascending, and `evidence` tells of
    each how it is known (sites.evidence). `no_evidence` says why calls could not be found, if
    that is so: then there may be some. `prefixed` are calls behind a prefix that no entry can name.
    """

    in_object: Literal[False] = False
    has_table = False
    repeated = 0
    loose: Mapping[int, str] = {}

    def __init__(
        self,
        linked: LinkedSites,
        goals: Goals,
        found: _Found,
        *,
        dead: int,
        no_evidence: str,
    ) -> None:
        self.vaddrs = linked.vaddrs
        self.evidence = [found.evidence[vaddr] for vaddr in self.vaddrs]
        self.dead = dead
        self.no_evidence = no_evidence
        self.targets = linked.targets
        self.slots = linked.slots
        self.has_headers = bool(goals.view.obj.headers)
        self._linked = linked
        self._named = found.named
        self.prefixed = found.prefixed
        self._undoubted = found.undoubted
        self._functions = goals.functions
        self._code = goals.code
        self._area: int | None = None  # bytes of NOPs at each entry, when they are known

    @property
    def proven(self) -> list[int]:
        """The link-time virtual addresses of the calls of which nothing is only likely."""
        known = zip(self.vaddrs, self.evidence, strict=True)
        return [
            vaddr
            for vaddr, how in known
            if how != evidence.PATCHABLE_ENTRY and not evidence.is_likely(how)
        ]

    def __len__(self) -> int:
        return len(self.vaddrs)

    def __getitem__(self, number: int) -> Site:
        site = self._linked[number]._replace(recorded=False, evidence=self.evidence[number])
        if site.position in self.prefixed:
            code = self._code.read(site.position, site.position + 1 + x86.CALL.length)
            return site._replace(code=code, reason=PREFIXED, expected=())
        if site.state is State.FOREIGN and site.position in self._named:
            named = self._named[site.position]
            return site._replace(
                state=State.CALL, form=named.form.name, target=named.name, expected=(),
                code=self._code.read(site.position, site.position + named.form.length),
            )  # fmt: skip
        if site.state is State.FOREIGN and site.position in self._undoubted:
            return self._call(site, *self._undoubted[site.position])
        if site.evidence == evidence.PATCHABLE_ENTRY and site.state is not State.CALL:
            return self._patchable(site)
        return site

    def _call(self, site: Site, way: Way, found: Found) -> Site:
        return site._replace(
            state=way.state, form=way.form.name, code=found.code, target=way.name, expected=(),
            call=way.call(site.position), nop=way.nop,
            reason=site.reason if evidence.is_likely(site.evidence) else found.reason,
        )  # fmt: skip

    def _patchable(self, site: Site) -> Site:
        if self._area is None:
            entries = zip(self.vaddrs, self.evidence, strict=True)
            areas = [self._nops(vaddr) for vaddr, how in entries if how == evidence.PATCHABLE_ENTRY]
            self._area = min(filter(None, map(len, areas)), default=0)
        code = self._nops(site.position)[: self._area]
        if not code:
            return site._replace(state=State.FOREIGN, reason=patchable.NO_NOP, expected=())
        return site._replace(
            state=State.NOP, form=patchable.KIND, code=code, call=None, nop=None, target="",
            reason="", expected=(),
        )  # fmt: skip

    def _nops(self, vaddr: int) -> bytes:
        """Return the NOPs at an entry, up to the next site or function."""
        end = vaddr + patchable.LONGEST
        end = min([end, *self.vaddrs[bisect_right(self.vaddrs, vaddr) :][:1]])
        found = patchable.nops(self._functions.machine, self._code.read(vaddr, end))
        begins = self._functions.begins_function
        return next((found[:at] for at in range(1, len(found)) if begins(vaddr + at)), found)

    def __iter__(self) -> Iterator[Site]:
        return map(self.__getitem__, range(len(self)))

    def names(self, number: int) -> tuple[str, ...]:
        """Give all names of the function that a site is in, the best first."""
        return self._linked.names(number)

    def returns(self, _: Sequence[int]) -> Sequence[int]:
        """Choose none: calls of `__return__` are known by their table alone."""
        return []

    def where(self, numbers: Sequence[int], state: State) -> Sequence[int]:
        """Choose those of ascending `numbers` whose sites are in `state`."""
        return [number for number in numbers if self[number].state is state]


class _Found:
    """What was found, by the link-time virtual address of its first byte.

    `evidence` is of everything, `named` are the calls that a relocation names, and `prefixed` those
    behind a prefix that no table entry can name; `undoubted` are those that would be doubted if a
    table named them.
    """

    def __init__(self, goals: Goals, names: Sequence[bytes], entries: Sequence[int]) -> None:
        self.evidence: dict[int, str] = dict.fromkeys(entries, evidence.PATCHABLE_ENTRY)
        self.named: dict[int, NamedCall] = {}
        self.prefixed: set[int] = set()
        self.undoubted: dict[int, tuple[Way, Found]] = {}
        self._code = goals.code
        self._starts = Starts(goals.view, goals.code)
        targets = goals.targets
        patterns = x86_patterns.Patterns.of_calls(
            goals.view.obj.machine, [*targets.code], [*targets.slots], goals.bases
        )
        resolved = dict(Search(goals.view, patterns).through(goals.code))
        named = {call.vaddr: call for call in named_calls(goals, names)}
        begun = [self._first_byte(opcode) for opcode in sorted({*resolved, *named})]
        # One linker puts NOPs before calls; elsewhere it is padding, which others may jump to.
        has_nops = 2 * sum(call.has_nop for call in begun) > len(begun)
        for call in begun:
            start = call.opcode if call.has_nop and not has_nops else call.start
            if call.certainty == NO:
                continue
            if call.is_odd:
                self.prefixed.add(start)
            if call.opcode in named:
                self.named[start] = named[call.opcode]
                self.evidence[start] = named[call.opcode].evidence
                continue
            goal = resolved[call.opcode]
            how = evidence.DIRECT if goal in goals.definitions else evidence.PLT
            how = evidence.GOT if goal in targets.slots else how
            self.evidence[start] = evidence.likely(how) if call.certainty == LIKELY else how

    def _first_byte(self, opcode: int) -> _Begun:
        """Tell where the call with this opcode begins: before e8 there may be a prefix or a NOP."""
        before = self._before(opcode)
        if before:
            certainty = self._starts.at(opcode - 1)
            if certainty != NO:
                return _Begun(opcode, opcode - 1, certainty, has_nop=before == x86_nops.NOPS[1])
        certainty = self._starts.at(opcode)
        if certainty == NO and self._code.read(opcode - 1, opcode) in x86_patterns.OTHER_PREFIXES:
            certainty = self._starts.at(opcode - 1)
            return _Begun(opcode, opcode - 1, certainty, is_odd=True)
        return _Begun(opcode, opcode, certainty)

    def _before(self, opcode: int) -> bytes:
        """Return the byte before an opcode that may be part of the site, if there is one.

        Of NOPs only a single one: more are an area for patches, or padding.
        """
        code = self._code.read(opcode - 2, opcode + 1)
        before = code[1:2]
        is_relative = code[2:] == x86.CALL.prefix
        if not self._starts.is_inside(opcode) or (
            before == x86_patterns.CALL_PREFIXES[0] and not is_relative
        ):
            return b""
        if before == x86_nops.NOPS[1] and is_relative:
            is_first = not self._starts.is_inside(opcode - 1)
            is_area = opcode - 1 in self.evidence or (code[:1] == before and not is_first)
            return b"" if is_area else before
        return before if before in x86_patterns.CALL_PREFIXES else b""


class _Begun:
    """A call whose opcode is at a link-time virtual address, and its first byte at `start`.

    `is_odd` tells that this is a prefix that no table entry can name.
    """

    __slots__ = ("opcode", "start", "certainty", "has_nop", "is_odd")

    def __init__(
        self,
        opcode: int,
        start: int,
        certainty: int,
        *,
        has_nop: bool = False,
        is_odd: bool = False,
    ) -> None:
        self.opcode = opcode
        self.start = start
        self.certainty = certainty
        self.has_nop = has_nop
        self.is_odd = is_odd


def read(obj: Object, extra_names: Sequence[str] = ()) -> FoundSites:
    """Find the calls of mcount in an executable or a shared object, whatever its tables say.

    And the entries of `__patchable_function_entries`. `extra_names` are further names of mcount, as
    given to gcc's -mfentry-name. Raises FormatError for a file that is not sound, and Error where
    capstone is needed and not to be had.
    """
    return find(obj, x86.mcount_names(extra_names), patchable.tables(obj))


def find_returns(obj: Object) -> FoundSites:
    """Find the calls of `__return__`, as `read` does those of mcount."""
    return find(obj, [x86.RETURN_NAME])


def find(obj: Object, names: list[bytes], tables: Sequence[Section] = ()) -> FoundSites:
    """Find the calls of functions with these names, and the entries of patchable `tables`."""
    goals = Goals(obj, names, [range(one.vaddr, one.vaddr + one.size) for one in tables])
    entries, dead, _ = patchable.entries(goals.view, tables, goals.words.values)
    found = _Found(goals, names, entries)
    functions = goals.functions
    are_returns = names == [x86.RETURN_NAME]
    in_code = goals.words.in_code
    decoder = Decoder(obj, goals.targets, functions, in_code, are_returns=are_returns)

    def decoded(vaddrs: list[int]) -> LinkedSites:
        return LinkedSites(Entries(vaddrs, obj.layout.highest), functions, decoder, goals.targets)

    linked = decoded(sorted(found.evidence))
    foreign = [linked.vaddrs[number] for number in linked.where(range(len(linked)), State.FOREIGN)]
    others = {*foreign} - {*entries, *found.named, *found.prefixed}
    for vaddr in sorted(others):  # here it is known better than there where functions start
        stands = decoder.decode(vaddr, *functions.around(vaddr))
        if stands.way is not None:
            found.undoubted[vaddr] = stands.way, stands
    # Where the loader changes an operand, it does not lead where it seems to.
    others -= found.undoubted.keys()
    if others:
        linked = decoded([vaddr for vaddr in linked.vaddrs if vaddr not in others])
    ways = goals.targets.code or goals.targets.slots or found.named
    why = NO_SYMBOLS if obj.symtab is None and not ways else ""
    if goals.targets.slots and not found.evidence:
        why = NO_CALLS
    return FoundSites(linked, goals, found, dead=dead, no_evidence=why)
