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

from recordmcount import x86

from . import evidence, patchable
from .boundaries import LIKELY, NO, Boundaries
from .decoder import Decoder
from .goals import Goals
from .linked import Entries, LinkedSites
from .linked_code import LinkedCode
from .named_calls import named_calls
from .search import Search
from .segment_code import SegmentCode
from .state import State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Literal

    from recordmcount.elf.object import Object

    from .named_calls import NamedCall
    from .search import LoadedCode
    from .site import Site

NO_SYMBOLS = "no symbols, and nothing that is imported is mcount"


class FoundSites:
    """The SiteTable of a linked file without a table.

    `vaddrs` are the link-time virtual addresses of the sites, ascending, and `evidence` tells of
    each how it is known (sites.evidence). `no_evidence` says why calls could not be found, if
    that is so: then there may be some.
    """

    in_object: Literal[False] = False
    has_table = False
    repeated = 0
    loose: Mapping[int, str] = {}

    def __init__(
        self,
        linked: LinkedSites,
        functions: LinkedCode,
        code: LoadedCode,
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
        self._linked = linked
        self._named = found.named
        self._functions = functions
        self._code = code

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
        if site.state is State.FOREIGN and site.position in self._named:
            named = self._named[site.position]
            return site._replace(
                state=State.CALL, form=named.form.name, target=named.name, expected=(),
                code=self._code.read(site.position, site.position + named.form.length),
            )  # fmt: skip
        if site.evidence == evidence.PATCHABLE_ENTRY and site.state is not State.CALL:
            return self._patchable(site)
        return site

    def _patchable(self, site: Site) -> Site:
        code = self._nops(site)
        if not code:
            return site._replace(state=State.FOREIGN, reason=patchable.NO_NOP, expected=())
        return site._replace(
            state=State.NOP, form=patchable.KIND, code=code, call=None, nop=None, target="",
            reason="", expected=(),
        )  # fmt: skip

    def _nops(self, site: Site) -> bytes:
        """Return the NOPs at an entry, up to the next site or function."""
        end = site.position + patchable.LONGEST
        end = min([end, *self.vaddrs[bisect_right(self.vaddrs, site.position) :][:1]])
        found = patchable.nops(site.machine, self._code.read(site.position, end))
        begins = self._functions.begins_function
        return next(
            (found[:at] for at in range(1, len(found)) if begins(site.position + at)), found
        )

    def __iter__(self) -> Iterator[Site]:
        return map(self.__getitem__, range(len(self)))

    def names(self, number: int) -> tuple[str, ...]:
        """Give all names of the function that a site is in, the best first."""
        return self._linked.names(number)

    def where(self, numbers: Sequence[int], state: State) -> Sequence[int]:
        """Choose those of ascending `numbers` whose sites are in `state`."""
        return [number for number in numbers if self[number].state is state]


class _Found:
    """What was found, by the link-time virtual address of its first byte.

    `evidence` is of everything, and `named` are the calls that a relocation names.
    """

    def __init__(self, goals: Goals, names: Sequence[bytes], entries: Sequence[int]) -> None:
        self.evidence: dict[int, str] = dict.fromkeys(entries, evidence.PATCHABLE_ENTRY)
        self.named: dict[int, NamedCall] = {}
        self._code = goals.code
        self._boundaries = Boundaries(goals.view, goals.code)
        targets = goals.targets
        patterns = x86.call_patterns(
            goals.view.obj.machine, [*targets.code], [*targets.slots], targets.got_bases
        )
        resolved = dict(Search(goals.view, *patterns).through(goals.code))
        named = {call.vaddr: call for call in named_calls(goals, names)}
        for opcode in sorted({*resolved, *named}):
            start, certainty = self._first_byte(opcode)
            if certainty == NO:
                continue
            if opcode in named:
                self.named[start] = named[opcode]
                self.evidence[start] = named[opcode].evidence
                continue
            goal = resolved[opcode]
            how = evidence.DIRECT if goal in goals.definitions else evidence.PLT
            how = evidence.GOT if goal in targets.slots else how
            self.evidence[start] = evidence.likely(how) if certainty == LIKELY else how

    def _first_byte(self, opcode: int) -> tuple[int, int]:
        """Return (link-time virtual address of a call's first byte, how certain it is a call).

        Before e8 a linker may have put a prefix, which is part of the instruction, or a NOP, which
        is part of the site. One NOP alone: several are an area for patches, or padding.
        """
        certainty = NO
        if self._may_begin_before(opcode):
            certainty = self._boundaries.at(opcode - 1)
        if certainty != NO:
            return opcode - 1, certainty
        return opcode, self._boundaries.at(opcode)

    def _may_begin_before(self, opcode: int) -> bool:
        code = self._code.read(opcode - 2, opcode + 1)
        if code[2:] != x86.CALL.prefix or not self._boundaries.is_inside(opcode):
            return False
        if code[1:2] == x86.NOPS[1]:
            return code[0] != code[1] or not self._boundaries.is_inside(opcode - 1)
        return code[1] in x86.PREFIX_BYTES


def read(obj: Object, extra_names: Sequence[str] = ()) -> FoundSites:
    """Find the calls of mcount in an executable or a shared object, whatever its tables say.

    And the entries of `__patchable_function_entries`. `extra_names` are further names of mcount, as
    given to gcc's -mfentry-name. Raises FormatError for a file that is not sound, and Error where
    capstone is needed and not to be had.
    """
    names = x86.mcount_names(extra_names)
    tables = patchable.tables(obj)
    goals = Goals(obj, names, tables)
    entries, dead = patchable.entries(goals.view, tables, goals.words.values)
    found = _Found(goals, names, entries)
    functions = LinkedCode(goals.view) if obj.headers else SegmentCode(goals.view, goals.code)
    decoder = Decoder(obj, goals.targets, functions, goals.words.in_code)

    def decoded(vaddrs: list[int]) -> LinkedSites:
        return LinkedSites(Entries(vaddrs, obj.layout.highest), functions, decoder, goals.targets)

    linked = decoded(sorted(found.evidence))
    # Where the loader changes an operand, it does not lead where it seems to.
    others = {linked.vaddrs[number] for number in linked.where(range(len(linked)), State.FOREIGN)}
    others -= {*entries, *found.named}
    if others:
        linked = decoded([vaddr for vaddr in linked.vaddrs if vaddr not in others])
    unnamed = obj.symtab is None and not goals.targets.code and not goals.targets.slots
    return FoundSites(
        linked, functions, goals.code, found, dead=dead, no_evidence=NO_SYMBOLS if unnamed else ""
    )
