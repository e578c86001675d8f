"""The auxiliary vector: what the kernel told the program when it started (getauxval(3))."""

from __future__ import annotations

from struct import Struct

AT_PHDR, AT_PHENT, AT_PHNUM, AT_BASE, AT_ENTRY = 3, 4, 5, 7, 9


def parse(content: bytes, *, is_64: bool) -> dict[int, int]:
    """Return the values by type, from /proc/PID/auxv; a pair is two words of the program's."""
    pair = Struct("<QQ" if is_64 else "<II")
    whole = len(content) - len(content) % pair.size
    values: dict[int, int] = {}
    for kind, value in pair.iter_unpack(content[:whole]):
        if not kind:
            break
        values[kind] = value
    return values
