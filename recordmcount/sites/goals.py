"""All ways to mcount in a linked image, those too that no section header tells of.

`Targets` knows what symbols, relocations and the sections of stubs tell. Here are added stubs
wherever they stand, found by what they must be: a jump through a slot of mcount's.
"""

from __future__ import annotations

from collections import Counter

from recordmcount import x86
from recordmcount.elf import object as elf
from recordmcount.elf import symbols
from recordmcount.elf.dynamic_symbols import dynamic_symbols
from recordmcount.elf.segments import LoadView

from .search import LoadedCode, Search, pieces
from .targets import Targets, Words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from recordmcount.elf.object import Object, Section

PT_GNU_RELRO = 0x6474E552


class Goals:
    """The ways to mcount in an image, and what finding them took.

    `targets` has them all; `definitions` are those of its code that are no stubs. `words` are
    what the loader does to the words of the `tables` asked for, and to code.
    """

    def __init__(self, obj: Object, names: list[bytes], tables: Sequence[Section]) -> None:
        self.view = LoadView(obj)
        self.code = LoadedCode(self.view)
        gots = [obj.section(index) for name in (b".got", b".got.plt") for index in obj.named(name)]
        fixed = [] if obj.headers else list(_relocated_once(self.view))
        self.words = Words(self.view, [*tables, *gots, *fixed], names)
        self.targets = Targets(self.view, self.words, gots, names)
        self.definitions = frozenset(_defined(self.view, names))
        if not obj.headers:
            self.targets.code.update(_defined_by_loader(self.view, names))
            for slot, value in self.words.values.items():
                if value in self.targets.code:
                    self.targets.slots.setdefault(slot, self.targets.code[value])
        if obj.machine == x86.EM_386 and self.targets.slots:
            base = _usual_base(self.code)
            self.targets.got_bases = self.targets.got_bases[:1] if base is None else [base]
            stubs = self.targets.code.keys() - self.definitions  # counted from other bases, too
            self.targets.code = {
                vaddr: name for vaddr, name in self.targets.code.items() if vaddr not in stubs
            }
        for start, slot in self._stubs():
            self.targets.code.setdefault(start, self.targets.slots[slot])
        self.targets.code = dict(sorted(self.targets.code.items()))

    def _stubs(self) -> Iterator[tuple[int, int]]:
        """Find (link-time virtual address of a stub's first instruction, slot it jumps through).

        Each instruction that leads to the jump is one, for a call of any gets there.
        """
        slots, machine = list(self.targets.slots), self.view.obj.machine
        if not slots:
            return
        patterns = x86.Patterns.of_jumps(machine, slots, self.targets.got_bases)
        for jump, slot in Search(self.view, patterns).through(self.code):
            for start in self._leading_to(jump):
                yield start, slot

    def _leading_to(self, jump: int) -> Iterator[int]:
        """Return the addresses of the instructions of a stub, its jump's first."""
        yield jump
        part = self.code.at(jump)
        first = max(part.vaddr, jump - x86.LONGEST_STUB_BEGIN) if part else jump
        code = self.code.read(first, jump)
        for size, begins in x86.stub_begins(self.view.obj.machine):
            if len(code) >= size and code.startswith(begins, len(code) - size):
                code = code[: len(code) - size]
                jump -= size
                yield jump


def _defined(view: LoadView, names: list[bytes]) -> Iterator[int]:
    """Return the addresses of the symbols of these names, where the image defines them."""
    for _name, value, _info, shndx in symbols.named(view.obj, names):
        if elf.SHN_UNDEF < shndx < elf.SHN_LORESERVE:
            yield value
    yield from _defined_by_loader(view, names) if not view.obj.headers else ()


def _defined_by_loader(view: LoadView, names: list[bytes]) -> dict[int, str]:
    """Map link-time virtual addresses to names: of mcount, by the dynamic symbols alone."""
    return {
        value: name.decode("utf-8", "backslashreplace")
        for name, value, _size, info, shndx in dynamic_symbols(view)
        if name in names
        and elf.SHN_UNDEF < shndx < elf.SHN_LORESERVE
        and info & 0xF != elf.STT_GNU_IFUNC
        and view.file_offset(value, 1, executable=True) is not None
    }


def _relocated_once(view: LoadView) -> Iterator[Section]:
    """Return what the loader makes read-only: the GOT is in it, and what it holds stays there."""
    flags = elf.SHF_ALLOC | elf.SHF_WRITE
    for one in view.segments:
        if one.type == PT_GNU_RELRO:
            header = (0, elf.SHT_PROGBITS, flags, one.vaddr, one.offset, one.filesz, 0, 0, 1, 0)
            yield elf.Section(0, "", header)


def _usual_base(code: LoadedCode) -> int | None:
    """Tell what i386 code has in its GOT register: what most of it computes, None if none does.

    No table of the file tells it for all linkers, and with two at once other calls would be taken
    for those of mcount.
    """
    bases: Counter[int] = Counter()
    for vaddr, piece in pieces(code, x86.LONGEST_GOT_BASE):
        bases.update(x86.got_bases(piece, vaddr))
    return max(bases, key=lambda base: (bases[base], base)) if bases else None
