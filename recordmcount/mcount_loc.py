"""The `__mcount_loc` table, encoded: one word for each site.

A word is 8 bytes in ELF64 and 4 in ELF32 (x32 included). In an object a relocation gives it its
value, the address of a symbol's section and an offset therein: RELA objects keep zeros in the table
and the value in the addend; REL objects (i386) keep the value in the table. A value is a section
offset minus the base symbol's st_value. (Layout as the kernel's recordmcount writes it and its
linker script collects it between __start_mcount_loc and __stop_mcount_loc.) In a linked file a word
is a link-time virtual address, or has a dynamic relocation that says which.
"""

from _struct import pack

from . import x86

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .elf.object import Object

NAME = b"__mcount_loc"
# The table of calls of `__return__`, which is alike: gcc -mrecord-return names it so.
RETURNS = b"__return_loc"
NAMES = NAME, RETURNS
# Entries are encoded in blocks of this many, so that no list of them all is made.
BLOCK = 4096


def word_relocation(obj: "Object") -> int:
    """Return the relocation type that fills a table word with an absolute address."""
    if obj.machine == x86.EM_386:
        return x86.R_386_32
    return x86.R_X86_64_64 if obj.layout.is_64 else x86.R_X86_64_32


def uses_rela(obj: "Object") -> bool:
    """Tell whether the object's machine keeps addends in relocations (i386 keeps them in place)."""
    return obj.machine != x86.EM_386


def encode(obj: "Object", runs: list[tuple[int, list[int]]]) -> tuple[bytes, bytes]:
    """Return (table bytes, relocation bytes) for runs of (base symbol index, values), in order."""
    layout, relocation_type, rela = obj.layout, word_relocation(obj), uses_rela(obj)
    words: list[bytes] = []
    relocations: list[bytes] = []
    code = "q" if layout.is_64 else "I"
    at = 0
    for symbols, values in _blocks(runs):
        count = len(values)
        if not layout.is_64:  # negative values too must fit an unsigned format
            values = [value & 0xFFFFFFFF for value in values]
        end = at + count * layout.word
        infos: list[int] = []
        for symbol, number in symbols:
            info = layout.info(symbol, relocation_type)
            infos += [info - (info >> 63 << 64)] * number  # signed, as what is packed with it
        columns = (range(at, end, layout.word), infos, values)
        relocations.append(_interleave(code, columns if rela else columns[:2]))
        words.append(bytes(end - at) if rela else pack(f"<{count}{code}", *values))
        at = end
    return b"".join(words), b"".join(relocations)


def _blocks(
    runs: list[tuple[int, list[int]]],
) -> "Iterator[tuple[list[tuple[int, int]], list[int]]]":
    """Join short runs and cut long ones: (how many values of which symbol, values), BLOCK or so."""
    symbols: list[tuple[int, int]] = []
    values: list[int] = []
    for symbol, run in runs:
        for start in range(0, len(run), BLOCK):
            some = run[start : start + BLOCK]
            symbols.append((symbol, len(some)))
            values += some
            if len(values) >= BLOCK:
                yield symbols, values
                symbols, values = [], []
    if values:
        yield symbols, values


def _interleave(code: str, columns: "Sequence[Sequence[int]]") -> bytes:
    """Pack columns of words row by row; `code` tells the size of a word to `struct`."""
    rows = [0] * (len(columns) * len(columns[0]))
    for i, column in enumerate(columns):
        rows[i :: len(columns)] = column
    return pack(f"<{len(rows)}{code}", *rows)
