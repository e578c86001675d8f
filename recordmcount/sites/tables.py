"""Where the tables of a linked file are: by the name of a section, or between two symbols.

A linker script may gather `__mcount_loc` into another section, as the kernel's does: then only the
symbols at its ends tell. `__return_loc` is found in the same way.
"""

from __future__ import annotations

from recordmcount import mcount_loc
from recordmcount.elf import object as elf
from recordmcount.elf.segments import LoadView
from recordmcount.errors import FormatError

from .known_symbols import ENDS, ENDS_OF_RETURNS, named

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from recordmcount.elf.object import Object, Section


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
    """Find the tables of calls of mcount; what two of them would share is in the first alone.

    Raises FormatError where one cannot be a table of addresses. Into `odd`, if it is given, go the
    sections that end inside of an address, which is left out then.
    """
    return _find(obj, mcount_loc.NAME, ENDS, odd)


def find_returns(obj: Object, odd: list[Section] | None = None) -> list[Table]:
    """Find the tables of calls of `__return__`, as `find` does those of mcount."""
    return _find(obj, mcount_loc.RETURNS, ENDS_OF_RETURNS, odd)


def _find(
    obj: Object, name: bytes, ends: Sequence[tuple[bytes, bytes]], odd: list[Section] | None
) -> list[Table]:
    tables = []
    for index in obj.named(name):
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
    for start, whole in _between_symbols(obj, ends):
        view = obj.once(LoadView)
        for vaddrs in _rest(whole, [table.vaddrs for table in tables]):
            if vaddrs.start % obj.layout.word or vaddrs.stop % obj.layout.word:
                what = f"no table of addresses is from {vaddrs.start:#x} to {vaddrs.stop:#x}"
                raise FormatError(obj.path, what, start)
            size = vaddrs.stop - vaddrs.start  # `len` tells no size as large as a symbol may
            content = view.read(vaddrs.start, size, f"what begins at {start}")
            tables.append(Table(start, vaddrs, content))
    return tables


def _between_symbols(
    obj: Object, ends: Sequence[tuple[bytes, bytes]]
) -> Iterator[tuple[str, range]]:
    """Find (name of the first symbol, link-time virtual addresses) of what two symbols embrace."""
    found = obj.once(_values)
    for names in ends:
        if found.keys() >= {*names}:
            start, stop = (found[name] for name in names)
            if len(start) > 1 or len(stop) > 1:
                raise FormatError(
                    obj.path, "this symbol has more than one value", names[0].decode()
                )
            first, last = names[0].decode(), names[1].decode()
            if min(start) > min(stop):
                what = f"{min(start):#x} is behind {last}, {min(stop):#x}"
                raise FormatError(obj.path, what, first)
            yield first, range(min(start), min(stop))


def _values(obj: Object) -> dict[bytes, set[int]]:
    """Find the values of all symbols at the ends of tables, by name."""
    found: dict[bytes, set[int]] = {}
    names = [name for pair in (*ENDS, *ENDS_OF_RETURNS) for name in pair]
    for name, value, _info, shndx in named(obj, names):
        if shndx not in (elf.SHN_UNDEF, elf.SHN_COMMON):
            found.setdefault(name, set()).add(value)
    return found


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
