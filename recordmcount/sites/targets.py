"""The ways to mcount in a linked image: its definitions, the PLT stubs and the GOT slots.

All are known from the symbols and from what the loader will do, before any call is looked at. What
no segment loads is none.
"""

from __future__ import annotations

from _bisect import bisect_left
from _operator import itemgetter, le
from itertools import islice

from recordmcount import mcount_loc, x86, x86_stubs
from recordmcount.elf import object as elf
from recordmcount.elf import symbols
from recordmcount.elf.segments import (
    DT_PLTGOT,
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
    from collections.abc import Iterator, Mapping, Sequence

    from recordmcount.elf.object import Section
    from recordmcount.elf.segments import LoadView

    from .linked_code import LinkedCode
    from .stubs import Follower

WIDEST_WORD = 8  # bytes that one dynamic relocation may change
STUBS = (".plt", ".iplt")  # how the names of sections of stubs begin
STUB_ALIGNMENT = 8  # bytes; no linker aligns its stubs to less
MOST_FOLLOWED = 1024  # places; a sound file has a few
LONGEST_STUB = 32  # bytes up to the end of which a stub names its slot


class Words:
    """What the loader will have put into the words that matter here.

    `values` are link-time virtual addresses, by slot, of words in `wanted` ranges of such; `names`
    are slots that the loader fills with the address of a function in `definitions`, or of a symbol
    of that name in another image; `in_code` the sorted addresses of relocations that touch
    executable segments.
    """

    def __init__(self, view: LoadView, wanted: Sequence[range], definitions: Definitions) -> None:
        self.view = view
        self.values: dict[int, int] = {}
        self.names: dict[int, str] = {}
        self.in_code: list[int] = []
        code = [
            range(segment.vaddr - WIDEST_WORD + 1, segment.vaddr + segment.filesz)
            for segment in view.segments
            if segment.type == PT_LOAD and segment.flags & PF_X
        ]
        for relocations in view.relocations():
            self._add_names(relocations, definitions)
            ordered = _ordered(relocations)
            for each in _joined(wanted):
                self._add_values(_between(ordered, each))
            for each in code:
                self.in_code += _between(ordered, each).slots
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

    def _add_values(self, relocations: DynamicRelocations) -> None:
        """Add the values of wanted slots; where two relocations fill one, the later counts."""
        slots, infos, addends = relocations.slots, relocations.infos, relocations.addends
        highest = self.view.obj.layout.highest
        if addends is None:
            addends = list(map(self.view.word, slots))
        if set(infos) == {R_RELATIVE}:  # nearly always
            values = [addend & highest for addend in addends]
            self.values.update(zip(slots, values, strict=True))
            return
        for slot, info, addend in zip(slots, infos, addends, strict=True):
            base = self._base(info)
            if base is not None:
                self.values[slot] = base + addend & highest

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

    def value(self, slot: int, content: int) -> int | None:
        """Return the link-time address in the word at `slot`, of which the file has `content`."""
        fixed = content if self.view.obj.type == elf.ET_EXEC else None
        return self.values.get(slot, fixed)


def _ordered(relocations: DynamicRelocations) -> DynamicRelocations:
    """Order relocations by their slots; of several for one slot the order stays."""
    slots, infos, addends = relocations.slots, relocations.infos, relocations.addends
    if all(map(le, slots, islice(slots, 1, None))):  # linkers sort all or most of them
        return relocations
    chosen = itemgetter(*sorted(range(len(slots)), key=slots.__getitem__))
    return DynamicRelocations(
        list(chosen(slots)), list(chosen(infos)), addends and list(chosen(addends))
    )


def _joined(ranges: Sequence[range]) -> list[range]:
    """Join ranges that overlap: nothing in them is looked at twice."""
    joined: list[range] = []
    for each in sorted(ranges, key=lambda one: one.start):
        if joined and each.start < joined[-1].stop:
            each = range(joined[-1].start, max(joined.pop().stop, each.stop))
        joined.append(each)
    return joined


def _between(run: DynamicRelocations, vaddrs: range) -> DynamicRelocations:
    """Cut ascending relocations to those whose slots are in a range."""
    first, last = bisect_left(run.slots, vaddrs.start), bisect_left(run.slots, vaddrs.stop)
    addends = run.addends
    return DynamicRelocations(
        run.slots[first:last], run.infos[first:last], addends and addends[first:last]
    )


class Definitions:
    """Where the image defines mcount, by the symbols of these `names`.

    `code` are link-time virtual addresses of functions that are loaded, with the name of each, and
    `resolvers` those of STT_GNU_IFUNC symbols: a call does not go there, but where they say.
    """

    def __init__(
        self, view: LoadView, names: list[bytes], code: Mapping[int, str] | None = None
    ) -> None:
        self.names = names
        if code is not None:  # a kernel's, by symbols of its own
            self.code, self.resolvers = dict(code), {}
            return
        found: tuple[dict[int, bytes], dict[int, bytes]] = ({}, {})
        for name, value, info, shndx in symbols.named(view.obj, names):
            if (
                elf.SHN_UNDEF < shndx < elf.SHN_LORESERVE
                and view.file_offset(value, 1, executable=True) is not None
            ):
                known = found[info & 0xF == elf.STT_GNU_IFUNC]
                known[value] = min(known.get(value, name), name, key=names.index)
        self.code, self.resolvers = (
            {value: self.told(name) for value, name in each.items()} for each in found
        )

    @staticmethod
    def told(name: bytes) -> str:
        """Give a name as it is told."""
        return name.decode("utf-8", "backslashreplace")


class Targets:
    """Every way to mcount: `code` addresses (definitions and PLT stubs) and GOT `slots`.

    Each is a link-time virtual address, with the name of the function that is reached. They
    ascend. `got_base` is the address that i386 code has in its GOT register, one of `got_tables`;
    None where there are none.
    """

    def __init__(
        self, code: LinkedCode, words: Words, gots: Sequence[Section], definitions: Definitions
    ) -> None:
        view = words.view
        obj = view.obj
        self._view = view
        self._code = code
        self._machine = obj.machine
        self._follower: Follower | None = None
        self._followed: dict[int, int | None] = {}
        self.code = dict(definitions.code)
        self.slots = dict(words.names)
        self.got_tables = _got_tables(view, gots) if obj.machine == x86.EM_386 else []
        self.got_base = _got_base(code, self.got_tables)
        size = 4 if obj.machine == x86.EM_386 else 8
        for section in gots:
            if not view.loads(section):
                continue
            content = obj.content(section.index)
            for at in range(0, len(content) - size + 1, size):
                slot = section.vaddr + at
                value = words.value(slot, int.from_bytes(content[at : at + size], "little"))
                if value in self.code and slot not in self.slots:
                    self.slots[slot] = self.code[value]
        for slot, start in self._stubs():
            self.code.setdefault(start, self.slots[slot])
        self.code = dict(sorted(self.code.items()))
        self.slots = dict(sorted(self.slots.items()))

    def _stubs(self) -> Iterator[tuple[int, int]]:
        """Find (slot of mcount, link-time virtual address of a stub that jumps through it).

        A stub names its slot: so only those few that name one of mcount's are looked at.
        """
        obj = self._view.obj
        for index in range(len(obj.headers)):
            section = obj.section(index)
            if not section.name.startswith(STUBS) or not self._view.loads(section, executable=True):
                continue
            content = obj.content(index)
            for field in x86_stubs.slot_fields(
                self._machine, content, section.vaddr, self.slots, self.got_base
            ):
                found = self._stub(section, content, field)
                if found is not None:
                    yield found

    def _stub(self, section: Section, content: bytes, field: int) -> tuple[int, int] | None:
        """Find the stub that names a slot in the field there: (slot, its own address), or None."""
        nearest = field - field % STUB_ALIGNMENT
        starts = range(nearest, max(-1, nearest - LONGEST_STUB), -STUB_ALIGNMENT)
        for at in starts:
            code, vaddr = content[at : field + 4], section.vaddr + at
            slot = x86_stubs.plt_slot(self._machine, code, vaddr, self.got_base)
            if slot in self.slots:
                return slot, vaddr
        for vaddr in [section.vaddr + at for at in starts]:
            slot = self.follow(vaddr)
            if slot in self.slots:
                return slot, vaddr
        return None

    def follow(self, vaddr: int) -> int | None:
        """Return the slot through which the code at `vaddr` jumps, by what it does; else None.

        So of MOST_FOLLOWED places, and of more it is not understood.
        """
        from .stubs import Follower  # slow to import, rarely needed

        if self._follower is None:
            self._follower = Follower(self._machine, self._code.some, self.got_base)
        if vaddr not in self._followed:
            is_one_more = len(self._followed) < MOST_FOLLOWED
            self._followed[vaddr] = self._follower.slot(vaddr) if is_one_more else None
        return self._followed[vaddr]


def _got_tables(view: LoadView, gots: Sequence[Section]) -> list[int]:
    """List where i386 code may take the GOT to be, the loader's table first."""
    of_the_loader = [view.dynamic[DT_PLTGOT]] if DT_PLTGOT in view.dynamic else []
    by_name = sorted(gots, key=lambda section: section.name != ".got.plt")
    return list(dict.fromkeys(of_the_loader + [section.vaddr for section in by_name]))


def _got_base(code: LinkedCode, tables: Sequence[int]) -> int | None:
    """Choose the table that i386 code has in its GOT register: the one that most of it computes.

    Nothing else tells that for all linkers: the code of mold counts from .got, that of others from
    .got.plt, which is DT_PLTGOT's, or from .got where that is all there is.
    """
    counts = dict.fromkeys(tables, 0)
    for vaddr, content in code.contents() if len(tables) > 1 else ():
        for base in x86_stubs.got_bases(content, vaddr):
            if base in counts:
                counts[base] += 1
    return max(counts, key=counts.__getitem__, default=None)
