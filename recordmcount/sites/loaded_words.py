"""What the loader will have put into the words of a linked image, by its dynamic relocations."""

from __future__ import annotations

from _bisect import bisect_left
from _operator import itemgetter, ne
from _struct import unpack
from itertools import repeat

from recordmcount import mcount_loc, x86
from recordmcount.elf import object as elf
from recordmcount.elf.segments import (
    PF_X,
    PT_LOAD,
    R_GLOB_DAT,
    R_IRELATIVE,
    R_JUMP_SLOT,
    R_RELATIVE,
    DynamicRelocations,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from recordmcount.elf.segments import LoadView

    from .definitions import Definitions

WIDEST_WORD = 8  # bytes that one dynamic relocation may change
UNKNOWN = -1  # no address
MOST_RUNS = 16  # a sound file has a few tables


class Values:
    """The link-time virtual addresses that the loader puts into words, by slot.

    `runs` are those of words that stand one behind the other, by their slots: nearly all tables are
    one. `others` has each of all other words.
    """

    def __init__(self) -> None:
        self.runs: dict[range, Sequence[int]] = {}
        self.others: dict[int, int] = {}

    def __bool__(self) -> bool:
        return bool(self.runs or self.others)

    def get(self, slot: int, default: int) -> int:
        """Return what is in the word at `slot`, or `default` if the loader leaves it alone."""
        for slots, values in self.runs.items():
            if slot in slots:
                return values[slots.index(slot)]
        return self.others.get(slot, default)

    def items(self) -> Iterator[tuple[int, int]]:
        """Yield (slot, value) of each word."""
        for slots, values in self.runs.items():
            yield from zip(slots, values, strict=True)
        yield from self.others.items()


class Words:
    """What the loader will have put into the words that matter here.

    `values` are link-time virtual addresses, by slot, of words in `wanted` ranges of such; `names`
    are slots that the loader fills with the address of a function in `definitions`, or of a symbol
    of that name in another image; `in_code` the sorted addresses of relocations that touch
    executable segments.
    """

    def __init__(self, view: LoadView, wanted: Sequence[range], definitions: Definitions) -> None:
        self.view = view
        self.values = Values()
        self.names: dict[int, str] = {}
        self.in_code: list[int] = []
        code = [
            range(segment.vaddr - WIDEST_WORD + 1, segment.vaddr + segment.filesz)
            for segment in view.segments
            if segment.type == PT_LOAD and segment.flags & PF_X
        ]
        parts = []
        for relocations in view.relocations():
            relative, rest = _parted(relocations)
            self._add_names(rest, definitions)
            parts += [_ordered(relative), _ordered(rest)]
        for each in _joined(wanted):
            self._add_values(each, [_between(part, each) for part in parts])
        for each in code:
            for part in parts:
                self.in_code += _between(part, each).slots
        self.in_code.sort()

    def _add_names(self, relocations: DynamicRelocations, definitions: Definitions) -> None:
        layout = self.view.obj.layout
        named = {}
        for info in set(relocations.infos):
            if layout.type_of(info) in (R_GLOB_DAT, R_JUMP_SLOT) and layout.symbol_of(info):
                name = self.view.symbol(layout.symbol_of(info))[0]
                if name in definitions.names:
                    named[info] = definitions.told(name)
        if named:
            for slot, info in zip(relocations.slots, relocations.infos, strict=True):
                if info in named and self.view.file_offset(slot, layout.word) is not None:
                    self.names[slot] = named[info]
        if definitions.resolvers:
            self._add_resolved(relocations, definitions.resolvers)

    def _add_resolved(self, relocations: DynamicRelocations, resolvers: dict[int, str]) -> None:
        """Add the slots that hold what a resolver of an STT_GNU_IFUNC symbol returns."""
        layout, view = self.view.obj.layout, self.view
        irelative = R_IRELATIVE[view.obj.machine]
        for at, info in enumerate(relocations.infos):
            slot = relocations.slots[at]
            if (
                layout.type_of(info) == irelative
                and view.file_offset(slot, layout.word) is not None
            ):
                addend = relocations.addends[at] if relocations.addends else view.word(slot)
                if addend & layout.highest in resolvers:
                    self.names[slot] = resolvers[addend & layout.highest]

    def _add_values(self, wanted: range, parts: list[DynamicRelocations]) -> None:
        """Add the values of wanted words, of which parts of several tables fill some.

        Where two relocations fill one, the later counts.
        """
        parts = [part for part in parts if part.slots]
        slots = wanted[:: self.view.obj.layout.word]
        is_one = len(parts) == 1 and len(self.values.runs) < MOST_RUNS
        if is_one and len(parts[0].slots) == len(slots) and _is_run(parts[0], slots):
            self.values.runs[slots] = self._relative_values(parts[0], wanted)
            return
        for part in parts:
            if _are_relative(part):
                values = self._relative_values(part)
                self.values.others.update(zip(part.slots, values, strict=True))
            else:
                self._add_one_by_one(part)

    def _relative_values(
        self, relocations: DynamicRelocations, run: range | None = None
    ) -> Sequence[int]:
        """Return what relative relocations make of the words at their slots, which are a `run`."""
        view, addends = self.view, relocations.addends
        layout = view.obj.layout
        count = len(relocations.slots)
        size = count * layout.word
        if addends is None and run is not None and view.file_offset(run.start, size) is not None:
            content = view.read(run.start, size, "a table")
            return unpack(f"<{count}{'Q' if layout.is_64 else 'I'}", content)
        if addends is None:
            return [*map(view.word, relocations.slots)]
        return addends if min(addends) >= 0 else [addend & layout.highest for addend in addends]

    def _add_one_by_one(self, relocations: DynamicRelocations) -> None:
        slots, infos, addends = relocations.slots, relocations.infos, relocations.addends
        highest = self.view.obj.layout.highest
        if addends is None:
            addends = [*map(self.view.word, slots)]
        for slot, info, addend in zip(slots, infos, addends, strict=True):
            base = self._base(info)
            if base is not None:
                self.values.others[slot] = base + addend & highest

    def _base(self, info: int) -> int | None:
        """Tell what a relocation with this r_info adds its addend to, None if it cannot be told."""
        view, layout = self.view, self.view.obj.layout
        absolute = x86.R_386_32 if view.obj.machine == x86.EM_386 else x86.R_X86_64_64
        known = (R_RELATIVE, absolute, mcount_loc.word_relocation(view.obj))
        if layout.type_of(info) not in known:
            return None
        symbol = layout.symbol_of(info)
        _, value, shndx = view.symbol(symbol) if symbol else (b"", 0, 1)
        return value if shndx != elf.SHN_UNDEF else None

    def value(self, slot: int, content: int) -> int:
        """Return the link-time address in the word at `slot`, of which the file has `content`.

        UNKNOWN where the loader decides.
        """
        is_fixed = self.view.obj.type == elf.ET_EXEC
        return self.values.get(slot, content if is_fixed else UNKNOWN)


def _are_relative(relocations: DynamicRelocations) -> bool:
    return relocations.infos.count(R_RELATIVE) == len(relocations.infos)


def _is_run(relocations: DynamicRelocations, slots: range) -> bool:
    return _are_relative(relocations) and relocations.slots == [*slots]


def _parted(run: DynamicRelocations) -> tuple[DynamicRelocations, DynamicRelocations]:
    """Part a table behind the relative relocations that it begins with: linkers put them there."""
    count = len(run.infos)
    if run.infos.count(R_RELATIVE) == count:
        return run, _cut(run, count, count)
    at = bytes(map(ne, run.infos, repeat(R_RELATIVE))).find(1)
    return _cut(run, 0, at), _cut(run, at, count)


def _ordered(run: DynamicRelocations) -> DynamicRelocations:
    """Order relocations by their slots; of several for one slot the order stays."""
    slots, infos, addends = run.slots, run.infos, run.addends
    if sorted(slots) == slots:  # as linkers sort them
        return run
    chosen = itemgetter(*sorted(range(len(slots)), key=slots.__getitem__))
    return DynamicRelocations([*chosen(slots)], [*chosen(infos)], addends and [*chosen(addends)])


def _between(run: DynamicRelocations, vaddrs: range) -> DynamicRelocations:
    """Cut ascending relocations to those whose slots are in a range."""
    slots = run.slots
    return _cut(run, bisect_left(slots, vaddrs.start), bisect_left(slots, vaddrs.stop))


def _cut(run: DynamicRelocations, first: int, last: int) -> DynamicRelocations:
    addends = run.addends
    if not first and last == len(run.slots):
        return run
    return DynamicRelocations(
        run.slots[first:last], run.infos[first:last], addends and addends[first:last]
    )


def _joined(ranges: Sequence[range]) -> list[range]:
    """Join ranges that overlap: nothing in them is looked at twice."""
    joined: list[range] = []
    for each in sorted(ranges, key=lambda one: one.start):
        if joined and each.start < joined[-1].stop:
            each = range(joined[-1].start, max(joined.pop().stop, each.stop))
        joined.append(each)
    return joined
