"""Where the tables of a linked file are: by the name of a section, or between two symbols.

A linker script may gather `__mcount_loc` into another section, as the kernel's does: then only the
symbols at its ends tell.
"""

from __future__ import annotations

from recordmcount import mcount_loc
from recordmcount.elf import object as elf
from recordmcount.elf import symbols
from recordmcount.elf.segments import LoadView
from recordmcount.errors import FormatError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from recordmcount.elf.object import Object, Section

# The names of a table's ends: of the kernel's linker script, and those that linkers make.
ENDS = (
    (b"__start_mcount_loc", b"__stop_mcount_loc"),
    (b"__start___mcount_loc", b"__stop___mcount_loc"),
)


class Table:
    """A table: `content` at the link-time virtual addresses `vaddrs`; `name` is what it is by.

    One that is not loaded, as a post-link step writes it, is at none.
    """

    __slots__ = ("name", "vaddrs", "content")

    def __init__(self, name: str, vaddrs: range, content: bytes) -> None:
        self.name = name
        self.vaddrs = vaddrs
        self.content = content


def find(obj: Object, odd: list[Section] | None = None) -> list[Table]:
    """Find the tables of a linked file; what two of them would share is in the first alone.

    Raises FormatError where one cannot be a table of addresses. Into `odd`, if it is given, go the
    sections that end inside of an address, which is left out then.
    """
    tables = []
    for index in obj.named(mcount_loc.NAME):
        section = obj.section(index)
        rest = section.size % obj.layout.word
        if section.type == elf.SHT_NOBITS or (rest and odd is None):
            raise FormatError(obj.path, "not a table of addresses", section.name)
        if rest and odd is not None:
            odd.append(section)
        size = section.size - rest
        is_loaded = section.flags & elf.SHF_ALLOC
        vaddrs = range(section.vaddr, section.vaddr + size) if is_loaded else range(0)
        tables.append(Table(section.name, vaddrs, obj.content(index)[:size]))
    for name, whole in _between_symbols(obj):
        view = obj.once(LoadView)
        for vaddrs in _rest(whole, [table.vaddrs for table in tables]):
            content = view.read(vaddrs.start, len(vaddrs), f"what begins at {name}")
            tables.append(Table(name, vaddrs, content))
    return tables


def _between_symbols(obj: Object) -> Iterator[tuple[str, range]]:
    """Find (name of the first symbol, link-time virtual addresses) of what two symbols embrace."""
    found: dict[bytes, set[int]] = {}
    for name, value, _info, shndx in symbols.named(obj, [name for pair in ENDS for name in pair]):
        if shndx not in (elf.SHN_UNDEF, elf.SHN_COMMON):
            found.setdefault(name, set()).add(value)
    for names in ENDS:
        if found.keys() >= {*names}:
            start, stop = (found[name] for name in names)
            if len(start) > 1 or len(stop) > 1:
                raise FormatError(
                    obj.path, "this symbol has more than one value", names[0].decode()
                )
            yield names[0].decode(), _words(obj, names, start.pop(), stop.pop())


def _words(obj: Object, names: tuple[bytes, bytes], start: int, stop: int) -> range:
    name, end = (each.decode() for each in names)
    if start > stop:
        raise FormatError(obj.path, f"{start:#x} is behind {end}, {stop:#x}", name)
    if start % obj.layout.word or stop % obj.layout.word:
        what = f"no table of addresses is from {start:#x} to {stop:#x}"
        raise FormatError(obj.path, what, name)
    return range(start, stop)


def _rest(whole: range, taken: list[range]) -> Iterator[range]:
    """Cut from `whole` what is taken; an empty one is a table too where there is no other."""
    at = whole.start
    for each in sorted(taken, key=lambda each: each.start):
        if each.stop > at and each.start < whole.stop:
            if each.start > at:
                yield range(at, each.start)
            at = each.stop
    if at < whole.stop or not taken:
        yield range(at, whole.stop)
