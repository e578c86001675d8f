"""Symbols by names that are asked for in every linked file: all are found at once.

A search goes through all names of a file, and of a kernel with its modules these are ten megabytes.
"""

from __future__ import annotations

from recordmcount import x86
from recordmcount.elf import symbols

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from recordmcount.elf.object import Object

    # Name, st_value, st_info, st_shndx.
    Named = tuple[bytes, int, int, int]

# The names of a table's ends: of the kernel's linker script, and those that linkers make.
ENDS = (
    (b"__start_mcount_loc", b"__stop_mcount_loc"),
    (b"__start___mcount_loc", b"__stop___mcount_loc"),
)
ENDS_OF_RETURNS = ((b"__start___return_loc", b"__stop___return_loc"),)
NAMES = frozenset(
    [name.encode() for name in x86.KNOWN_NAMES]
    + [name for pair in (*ENDS, *ENDS_OF_RETURNS) for name in pair]
)


def named(obj: Object, names: Sequence[bytes]) -> Iterator[Named]:
    """Yield the symbols of these names in both tables, as symbols.named does."""
    yield from (symbol for symbol in obj.once(_known) if symbol[0] in names)
    others = [name for name in names if name not in NAMES]
    if others:
        yield from symbols.named(obj, others)


def _known(obj: Object) -> list[Named]:
    return [*symbols.named(obj, [*NAMES])]
