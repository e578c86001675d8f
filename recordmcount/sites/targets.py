"""The ways to mcount in a linked image: its definitions, the PLT stubs and the GOT slots.

All are known from the symbols and from what the loader will do, before any call is looked at. What
no segment loads is none.
"""

from __future__ import annotations

from _bisect import bisect_left
from _operator import ge
from itertools import compress, pairwise

from recordmcount import mcount_loc, x86
from recordmcount.elf import object as elf
from recordmcount.elf import symbols
from recordmcount.elf.segments import (
    DT_PLTGOT,
    PF_X,
    PT_LOAD,
    R_GLOB_DAT,
    R_JUMP_SLOT,
    R_RELATIVE,
    DynamicRelocations,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from recordmcount.elf.object import Object, Section
    from recordmcount.elf.segments import LoadView

WIDEST_WORD = 8  # bytes that one dynamic relocation may change


class Words:
    """What the loader will have put into the words that matter here.

    `values` are link-time virtual addresses, by slot, of words in `wanted` sections; `names` are
    slots that the loader fills with the address of a symbol of these names; `in_code` the sorted
    addresses of relocations that touch executable segments.
    """

    def __init__(self, view: LoadView, wanted: Sequence[Section], names: list[bytes]) -> None:
        self.view = view
        self.values: dict[int, int] = {}
        self.names: dict[int, str] = {}
        self.in_code: list[int] = []
        self._wanted = [(section.vaddr, section.vaddr + section.size) for section in wanted]
        code = [
            (segment.vaddr - WIDEST_WORD + 1, segment.vaddr + segment.filesz)
            for segment in view.segments
            if segment.type == PT_LOAD and segment.flags & PF_X
        ]
        for relocations in view.relocations():
            self._add_names(relocations, names)
            for run in _ascending_runs(relocations):
                for start, end in self._wanted:
                    self._add_values(_between(run, start, end))
                for start, end in code:
                    self.in_code += _between(run, start, end).slots
        self.in_code.sort()

    def _add_names(self, relocations: DynamicRelocations, names: list[bytes]) -> None:
        layout = self.view.obj.layout
        named = {}
        for info in set(relocations.infos):
            if layout.type_of(info) in (R_GLOB_DAT, R_JUMP_SLOT) and layout.symbol_of(info):
                name = self.view.symbol(layout.symbol_of(info))[0]
                if name in names:
                    named[info] = name.decode("utf-8", "backslashreplace")
        if named:
            for slot, info in zip(relocations.slots, relocations.infos, strict=True):
                if info in named and self.view.file_offset(slot, layout.word) is not None:
                    self.names[slot] = named[info]

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


def _ascending_runs(relocations: DynamicRelocations) -> Iterator[DynamicRelocations]:
    """Return the relocations, cut where slots do not ascend: linkers sort all or most of them."""
    slots, infos, addends = relocations.slots, relocations.infos, relocations.addends
    cuts = compress(range(1, len(slots)), map(ge, slots, slots[1:]))
    for start, end in pairwise([0, *cuts, len(slots)]):
        yield DynamicRelocations(slots[start:end], infos[start:end], addends and addends[start:end])


def _between(run: DynamicRelocations, start: int, end: int) -> DynamicRelocations:
    """Cut ascending relocations to those whose slots are from `start` to before `end`."""
    first, last = bisect_left(run.slots, start), bisect_left(run.slots, end)
    addends = run.addends
    return DynamicRelocations(
        run.slots[first:last], run.infos[first:last], addends and addends[first:last]
    )


class Targets:
    """Every way to mcount: `code` addresses (definitions and PLT stubs) and GOT `slots`.

    Each is a link-time virtual address, with the name of the function that is reached. They
    ascend. `got_bases` are the addresses that i386 code may have in its GOT register.
    """

    def __init__(
        self, view: LoadView, words: Words, gots: Sequence[Section], names: list[bytes]
    ) -> None:
        obj = view.obj
        self.code = _definitions(view, names)
        self.slots = dict(words.names)
        self.got_bases = _got_bases(view, gots)
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
        self._add_stubs(view)
        self.code = dict(sorted(self.code.items()))
        self.slots = dict(sorted(self.slots.items()))

    def _add_stubs(self, view: LoadView) -> None:
        obj = view.obj
        for index in range(len(obj.headers)):
            section = obj.section(index)
            if not section.name.startswith(".plt") or not view.loads(section, executable=True):
                continue
            content = obj.content(index)
            for at in range(0, len(content), 8):  # no linker aligns its stubs to less
                jump = x86.plt_jump(obj.machine, content[at : at + x86.LONGEST_STUB])
                if jump is not None:
                    size, modrm, displacement = jump
                    end = section.vaddr + at + size
                    for slot in self._stub_slots(obj, end, modrm, displacement):
                        if slot in self.slots:
                            self.code.setdefault(section.vaddr + at, self.slots[slot])

    def _stub_slots(self, obj: Object, end: int, modrm: int, displacement: int) -> Iterable[int]:
        if obj.machine == x86.EM_X86_64:
            return [end + displacement]
        bases = [0] if modrm == x86.NO_REGISTER else self.got_bases
        return [base + displacement & obj.layout.highest for base in bases]


def _got_bases(view: LoadView, gots: Sequence[Section]) -> list[int]:
    """List the tables, that of the loader first: it is what most linkers mean."""
    of_the_loader = [view.dynamic[DT_PLTGOT]] if DT_PLTGOT in view.dynamic else []
    by_name = sorted(gots, key=lambda section: section.name != ".got.plt")
    return list(dict.fromkeys(of_the_loader + [section.vaddr for section in by_name]))


def _definitions(view: LoadView, names: list[bytes]) -> dict[int, str]:
    """Map link-time virtual addresses to names: of mcount, where the image defines it."""
    found: dict[int, bytes] = {}
    for name, value, info, shndx in symbols.named(view.obj, names):
        if (
            elf.SHN_UNDEF < shndx < elf.SHN_LORESERVE
            and info & 0xF != elf.STT_GNU_IFUNC
            and view.file_offset(value, 1, executable=True) is not None
        ):
            found[value] = min(found.get(value, name), name, key=names.index)
    return {value: name.decode("utf-8", "backslashreplace") for value, name in found.items()}
