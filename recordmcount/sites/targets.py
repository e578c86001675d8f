"""The ways to mcount in a linked image: its definitions, the PLT stubs and the GOT slots.

All are known from the symbols and from what the loader will do, before any call is looked at. What
no segment loads is none.
"""

from __future__ import annotations

from recordmcount import x86, x86_stubs
from recordmcount.elf.segments import DT_PLTGOT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from recordmcount.elf.object import Section
    from recordmcount.elf.segments import LoadView

    from .definitions import Definitions
    from .linked_code import LinkedCode
    from .loaded_words import Words
    from .stubs import Follower

STUBS = (".plt", ".iplt")  # how the names of sections of stubs begin
STUB_ALIGNMENT = 8  # bytes; no linker aligns its stubs to less
MOST_FOLLOWED = 1024  # places; a sound file has a few
LONGEST_STUB = 32  # bytes up to the end of which a stub names its slot


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
