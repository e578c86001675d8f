"""Whether the dynamic linker is at work on its lists: struct r_debug, to which DT_DEBUG leads.

Everything here is read from the memory of another process and may be anything: what cannot be read
ends it, what never ends is cut, and nothing is decided by it alone.
(link.h; r_version 2 and `r_next`, which leads to that of the next namespace, glibc 2.35.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from struct import Struct

from patcher.errors import ReadError
from recordmcount.elf.segments import PT_DYNAMIC

from .auxiliary_vector import AT_PHDR, AT_PHNUM

PT_PHDR = 6
DT_NULL, DT_DEBUG = 0, 21
CONSISTENT = 0  # r_state: no list is being changed
MOST_HEADERS, MOST_TAGS, MOST_NAMESPACES = 512, 4096, 64

Read = Callable[[int, int], bytes]


def find(read: Read, auxiliary: dict[int, int], *, is_64: bool) -> int:
    """Return where the program's r_debug is, by its program headers; 0 if it has none (yet).

    `read` raises ReadError. A program that is linked statically never has one.
    """
    header = Struct("<IIQQQQQQ" if is_64 else "<8I")
    at_vaddr = 3 if is_64 else 2
    table = auxiliary.get(AT_PHDR, 0)
    count = min(auxiliary.get(AT_PHNUM, 0), MOST_HEADERS)
    try:
        headers = list(header.iter_unpack(read(table, count * header.size)))
        bias = next((table - each[at_vaddr] for each in headers if each[0] == PT_PHDR), 0)
        for each in headers:
            if each[0] == PT_DYNAMIC:
                return _debug_tag(read, each[at_vaddr] + bias, is_64=is_64)
    except ReadError:
        pass
    return 0


def _debug_tag(read: Read, address: int, *, is_64: bool) -> int:
    pair = Struct("<QQ" if is_64 else "<II")
    for number in range(MOST_TAGS):
        tag, value = pair.unpack(read(address + number * pair.size, pair.size))
        if tag == DT_NULL:
            break
        if tag == DT_DEBUG:
            return int(value)
    return 0


def at_rest(read: Read, address: int, *, is_64: bool) -> int:
    """Return the `notify` of the r_debug at run-time address `address`, 0 if it is not at rest.

    It is at rest once it has been filled in, while the lists of all namespaces are CONSISTENT.
    """
    notifies = []
    for version, notify, state in _r_debugs(read, address, is_64=is_64):
        if version < 1 or state != CONSISTENT:
            return 0
        notifies.append(notify)
    return notifies[0] if notifies else 0


def _r_debugs(read: Read, address: int, *, is_64: bool) -> Iterator[tuple[int, int, int]]:
    """Give of the r_debug of each namespace its version, `notify` and state."""
    r_debug = Struct("<i4xQQi4xQQ" if is_64 else "<iIIiII")
    seen: set[int] = set()
    while address and address not in seen and len(seen) < MOST_NAMESPACES:
        seen.add(address)
        try:
            fields = r_debug.unpack(_padded(read, address, r_debug.size))
        except ReadError:
            return
        version, _first, notify, state, _base, following = fields
        yield version, notify, state
        address = following if version >= 2 else 0


def _padded(read: Read, address: int, size: int) -> bytes:
    """Read a struct r_debug; before version 2 it has no last word."""
    try:
        return read(address, size)
    except ReadError:
        word = 8 if size > 32 else 4
        return read(address, size - word) + bytes(word)
