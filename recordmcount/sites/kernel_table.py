"""The `__mcount_loc` table of a kernel without a symbol table, by the symbols it has for itself.

The table has no section of its own there: the kernel's linker script puts it among initial data,
between __start_mcount_loc and __stop_mcount_loc. Kernels with CONFIG_KALLSYMS_ALL know these two.
In others it is looked for: it is the longest run of words that are all addresses of calls of
mcount, ascending, and it names more than half of these calls. Tables of functions, as that of
system calls, are such runs too where nothing stands before a function's call, but short ones.
"""

from __future__ import annotations

import re
from _struct import unpack

from recordmcount import x86
from recordmcount.columns import is_ascending
from recordmcount.elf import object as elf
from recordmcount.elf.segments import PT_LOAD
from recordmcount.errors import FormatError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from recordmcount.elf.kallsyms import Kallsyms
    from recordmcount.elf.segments import LoadView

START, STOP = "__start_mcount_loc", "__stop_mcount_loc"


class KernelTable:
    """A kernel's table, at link-time virtual address `vaddr`, and what its sites call.

    `entries` are its words in their order: link-time virtual addresses of sites, and 0 for what the
    build has taken out (weak functions that another one overrides). `targets` are the link-time
    virtual addresses of mcount, with its name. `is_marked` where the kernel's symbols tell where
    the table is; else its ends were found, and words of 0 in front of it are not known.
    """

    __slots__ = ("vaddr", "entries", "targets", "is_marked")

    def __init__(
        self, vaddr: int, entries: Sequence[int], targets: dict[int, str], *, is_marked: bool
    ) -> None:
        self.vaddr = vaddr
        self.entries = entries
        self.targets = targets
        self.is_marked = is_marked


def find(view: LoadView, symbols: Kallsyms, names: Sequence[bytes]) -> KernelTable | None:
    """Find the table of a kernel with these symbols; None where it has none.

    `names` are those of mcount. Raises FormatError where the symbols name no table of words.
    """
    told = [name.decode("utf-8", "surrogateescape") for name in names]
    targets = {vaddr: name for name in told for vaddr in symbols.named(name)}
    starts, stops = symbols.named(START), symbols.named(STOP)
    if starts and stops:
        start, size = starts[0], stops[0] - starts[0]
        if size < 0 or size % view.obj.layout.word:
            raise FormatError(view.obj.path, f"no table from {START} to {STOP}")
        entries = _words(view, view.read(start, size, "the table"))
        return KernelTable(start, entries, targets, is_marked=True)
    found = set(calls(view, [*targets]))
    start, entries = _longest_run(view, found)
    if len(entries) * 2 <= len(found) or not is_ascending(entries):
        return None
    return KernelTable(start, entries, targets, is_marked=False)


def _words(view: LoadView, content: bytes) -> tuple[int, ...]:
    word = view.obj.layout.word
    return unpack(f"<{len(content) // word}{'Q' if word == 8 else 'I'}", content)


def calls(view: LoadView, targets: Sequence[int]) -> Iterator[int]:
    """Yield the link-time virtual addresses of what looks like a direct call of a target."""
    flags = elf.SHF_ALLOC | elf.SHF_EXECINSTR
    for index, header in enumerate(view.obj.headers):
        section = view.obj.section(index)
        if header[elf.SH_FLAGS] & flags != flags or not view.loads(section):
            continue
        content = view.obj.content(index)
        at = -1
        while (at := content.find(x86.CALL.prefix, at + 1)) >= 0:
            operand = int.from_bytes(content[at + 1 : at + 5], "little", signed=True)
            if section.vaddr + at + 5 + operand & view.obj.layout.highest in targets:
                yield section.vaddr + at


def _longest_run(view: LoadView, calls: set[int]) -> tuple[int, tuple[int, ...]]:
    """Find the most words in a row that are addresses of calls: (where, the words)."""
    word = view.obj.layout.word
    longest: tuple[int, tuple[int, ...]] = (0, ())
    for segment in view.segments:
        if segment.type != PT_LOAD or segment.vaddr % word:
            continue
        size = segment.filesz - segment.filesz % word
        words = _words(view, view.obj.read(segment.offset, size, "a segment"))
        is_call = bytes(map(calls.__contains__, words))
        for run in re.finditer(b"\1+", is_call):
            if run.end() - run.start() > len(longest[1]):
                longest = segment.vaddr + word * run.start(), words[run.start() : run.end()]
    return longest
