"""The dynamic symbols as the loader finds them: by the dynamic segment, without section headers.

How many there are only the hash table knows. (gABI, "Hash Table"; DT_GNU_HASH as all linkers write
it: buckets of first indices, and chains that end with an odd hash.)
"""

from __future__ import annotations

from _struct import unpack

from . import object as elf
from .segments import DT_STRSZ, DT_STRTAB, DT_SYMTAB

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from .segments import LoadView

    # (name, st_value, st_size, st_info, st_shndx)
    DynamicSymbol = tuple[bytes, int, int, int, int]

DT_HASH, DT_GNU_HASH = 4, 0x6FFFFEF5


def dynamic_symbols(view: LoadView) -> Iterator[DynamicSymbol]:
    """Return all dynamic symbols but the first, which is none; FormatError for a broken table."""
    layout, dynamic = view.obj.layout, view.dynamic
    count = _count(view)
    if DT_SYMTAB not in dynamic or DT_STRTAB not in dynamic or not count:
        return
    table = view.read(dynamic[DT_SYMTAB], count * layout.sym.size, "the dynamic symbols")
    strings = view.read(dynamic[DT_STRTAB], dynamic.get(DT_STRSZ, 0), "the dynamic strings")
    for fields in map(layout.sym_fields, layout.sym.iter_unpack(table[layout.sym.size :])):
        start, value, size, info, _other, shndx = fields
        yield strings[start : strings.find(b"\0", start)], value, size, info, shndx


def functions(view: LoadView) -> Iterator[tuple[int, int, str]]:
    """Return (link-time virtual address, size in bytes, name) of each function that has a symbol.

    The name is without a version.
    """
    for name, value, size, info, shndx in dynamic_symbols(view):
        if info & 0xF == elf.STT_FUNC and shndx and name:
            yield value, size, name.decode("utf-8", "backslashreplace").partition("@")[0]


def _count(view: LoadView) -> int:
    """Tell how many dynamic symbols there are, 0 where nothing tells."""
    if DT_HASH in view.dynamic:  # nbucket, nchain: as many as there are symbols
        return _words(view, view.dynamic[DT_HASH], 2)[1]
    if DT_GNU_HASH not in view.dynamic:
        return 0
    start = view.dynamic[DT_GNU_HASH]
    buckets, first, bloom, _shift = _words(view, start, 4)
    start += 16 + bloom * view.obj.layout.word
    last = max(_words(view, start, buckets), default=0)
    if last < first:
        return first
    start += 4 * (buckets - first)
    while not _words(view, start + 4 * last, 1)[0] & 1:
        last += 1
    return last + 1


def _words(view: LoadView, vaddr: int, count: int) -> tuple[int, ...]:
    content = view.read(vaddr, 4 * count, "the hash table of dynamic symbols")
    return unpack(f"<{count}I", content)
