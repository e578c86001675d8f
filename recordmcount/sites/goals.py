"""All ways to mcount in a linked image, those too that no section header tells of.

`Targets` knows what symbols, relocations and the sections of stubs tell. Here are added stubs
wherever they stand, found by what they must be: a jump through a slot of mcount's. And without
section headers, what the loader is told by the dynamic segment.
"""

from __future__ import annotations

from collections import Counter

from recordmcount import x86, x86_patterns, x86_stubs
from recordmcount.elf import object as elf
from recordmcount.elf.dynamic_symbols import dynamic_symbols
from recordmcount.elf.segments import LoadView

from .definitions import Definitions
from .linked_code import LinkedCode
from .loaded_words import Words
from .search import LoadedCode, Search
from .segment_code import SegmentCode
from .targets import Targets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from recordmcount.elf.object import Object

PT_GNU_RELRO = 0x6474E552


class Goals:
    """The ways to mcount in an image, and what finding them took.

    `targets` has them all; `definitions` are those of its code that are no stubs. `words` are
    what the loader does to the words of the `tables` asked for, link-time virtual addresses, and
    to code; `functions` are those of the code.
    """

    def __init__(self, obj: Object, names: list[bytes], tables: Sequence[range]) -> None:
        self.view = obj.once(LoadView)
        self.code = LoadedCode(self.view)
        has_sections = bool(obj.headers)
        gots = [obj.section(index) for name in (b".got", b".got.plt") for index in obj.named(name)]
        known = Definitions(self.view, names)
        if not has_sections:
            known.code.update(_defined_by_loader(self.view, known))
        wanted = [range(got.vaddr, got.vaddr + got.size) for got in gots]
        wanted += tables if has_sections else _relocated_once(self.view)
        self.words = Words(self.view, wanted, known)
        self.functions = (
            LinkedCode(self.view) if has_sections else SegmentCode(self.view, self.code)
        )
        self.targets = Targets(self.functions, self.words, gots, known)
        self.definitions = frozenset(known.code)
        if not has_sections:
            self._add_slots()
            if obj.machine == x86.EM_386:
                self.targets.got_base = _usual_base(self.functions)
        for start, slot in self._stubs():
            self.targets.code.setdefault(start, self.targets.slots[slot])
        self.targets.code = dict(sorted(self.targets.code.items()))

    @property
    def bases(self) -> list[int]:
        """What i386 code has in its GOT register."""
        return [] if self.targets.got_base is None else [self.targets.got_base]

    def _add_slots(self) -> None:
        """Add the words that the loader makes addresses of definitions."""
        slots = self.targets.slots
        for slot, value in self.words.values.items():
            if value in self.definitions:
                slots.setdefault(slot, self.targets.code[value])
        self.targets.slots = dict(sorted(slots.items()))

    def _stubs(self) -> Iterator[tuple[int, int]]:
        """Find (link-time virtual address of a stub's first instruction, slot it jumps through).

        Each instruction that leads to the jump is one, for a call of any gets there. A retpoline is
        followed to where it leads.
        """
        slots, machine = list(self.targets.slots), self.view.obj.machine
        if not slots:
            return
        patterns = x86_patterns.Patterns.of_jumps(machine, slots, self.bases)
        for jump, slot in Search(self.view, patterns).through(self.code):
            for start in self._leading_to(jump):
                yield start, slot
        patterns = x86_patterns.Patterns.of_retpolines(machine, slots, self.bases)
        for start, slot in Search(self.view, patterns).through(self.code):
            if self.targets.follow(start) == slot:
                yield start, slot

    def _leading_to(self, jump: int) -> Iterator[int]:
        """Return the addresses of the instructions of a stub, its jump's first."""
        yield jump
        part = self.code.at(jump)
        first = max(part.vaddr, jump - x86_stubs.LONGEST_STUB_BEGIN) if part else jump
        code = self.code.read(first, jump)
        for size, begins in x86_stubs.stub_begins(self.view.obj.machine):
            if len(code) >= size and code.startswith(begins, len(code) - size):
                code = code[: len(code) - size]
                jump -= size
                yield jump


def _defined_by_loader(view: LoadView, known: Definitions) -> dict[int, str]:
    """Map link-time virtual addresses to names: of mcount, by the dynamic symbols alone."""
    return {
        value: known.told(name)
        for name, value, _size, info, shndx in dynamic_symbols(view)
        if name in known.names
        and elf.SHN_UNDEF < shndx < elf.SHN_LORESERVE
        and info & 0xF != elf.STT_GNU_IFUNC
        and view.file_offset(value, 1, executable=True) is not None
    }


def _relocated_once(view: LoadView) -> list[range]:
    """List what the loader makes read-only: the GOT is in it, and what it holds stays there."""
    return [
        range(one.vaddr, one.vaddr + one.filesz)
        for one in view.segments
        if one.type == PT_GNU_RELRO
    ]


def _usual_base(code: LinkedCode) -> int | None:
    """Tell what i386 code has in its GOT register: what most of it computes, None if none does.

    With section headers there are tables to choose among; here any address may be one.
    """
    bases: Counter[int] = Counter()
    for vaddr, content in code.contents():
        bases.update(x86_stubs.got_bases(content, vaddr))
    return max(bases, key=lambda base: (bases[base], base)) if bases else None
