"""The dynamic linker's list of what it has loaded: struct r_debug, to which DT_DEBUG leads.

Everything here is read from the memory of another process and may be anything: what cannot be read
ends the list, what never ends is cut, and nothing is decided by it alone.
(link.h; r_version 2 and `r_next`, which leads to the list of the next namespace, glibc 2.35.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import IntEnum
from struct import Struct
from typing import NamedTuple

from patcher.errors import ReadError
from recordmcount.elf.segments import PT_DYNAMIC

from .auxiliary_vector import AT_PHDR, AT_PHNUM

PT_PHDR = 6
DT_NULL, DT_DEBUG = 0, 21
MOST_HEADERS, MOST_TAGS, MOST_OBJECTS, MOST_NAMESPACES, LONGEST_NAME = 512, 4096, 65536, 64, 4096

Read = Callable[[int, int], bytes]


class LinkState(IntEnum):
    """Whether the list is complete, or the dynamic linker is at work on it."""

    CONSISTENT = 0
    ADD = 1
    DELETE = 2


class LoadedObject(NamedTuple):
    """One link_map: its load bias `l_addr`, its name as bytes, where its dynamic segment is."""

    bias: int
    name: bytes
    dynamic: int


class LinkMap(NamedTuple):
    """One r_debug, at run-time address `address`.

    `notify` is the run-time address of the function that is called before and after a change. A
    `state` that is none of LinkState's is None.
    """

    address: int
    notify: int
    state: LinkState | None
    objects: tuple[LoadedObject, ...]


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


def link_maps(read: Read, address: int, *, is_64: bool) -> Iterator[LinkMap]:
    """Return the lists of all namespaces, from the r_debug at run-time address `address` on."""
    for at, _, first, notify, state in _r_debugs(read, address, is_64=is_64):
        known = LinkState(state) if state in [*LinkState] else None
        yield LinkMap(at, notify, known, tuple(_objects(read, first, is_64=is_64)))


def at_rest(read: Read, address: int, *, is_64: bool) -> int:
    """Return the `notify` of the r_debug at run-time address `address`, 0 if it is not at rest.

    It is at rest once it has been filled in, while the lists of all namespaces are CONSISTENT.
    """
    notifies = []
    for _, version, _, notify, state in _r_debugs(read, address, is_64=is_64):
        if version < 1 or state != LinkState.CONSISTENT:
            return 0
        notifies.append(notify)
    return notifies[0] if notifies else 0


def _r_debugs(read: Read, address: int, *, is_64: bool) -> Iterator[tuple[int, int, int, int, int]]:
    """Return where each r_debug is, its version, and where its list begins, `notify`, the state."""
    r_debug = Struct("<i4xQQi4xQQ" if is_64 else "<iIIiII")
    seen: set[int] = set()
    while address and address not in seen and len(seen) < MOST_NAMESPACES:
        seen.add(address)
        try:
            fields = r_debug.unpack(_padded(read, address, r_debug.size))
        except ReadError:
            return
        version, first, notify, state, _base, following = fields
        yield address, version, first, notify, state
        address = following if version >= 2 else 0


def _padded(read: Read, address: int, size: int) -> bytes:
    """Read a struct r_debug; before version 2 it has no last word."""
    try:
        return read(address, size)
    except ReadError:
        word = 8 if size > 32 else 4
        return read(address, size - word) + bytes(word)


def _objects(read: Read, address: int, *, is_64: bool) -> Iterator[LoadedObject]:
    link_map = Struct("<QQQQ" if is_64 else "<IIII")
    seen: set[int] = set()
    while address and address not in seen and len(seen) < MOST_OBJECTS:
        seen.add(address)
        try:
            bias, name, dynamic, address = link_map.unpack(read(address, link_map.size))
        except ReadError:
            return
        yield LoadedObject(bias, _string(read, name), dynamic)


def _string(read: Read, address: int) -> bytes:
    """Read a string up to its end, or as far as it can be read."""
    found = b""
    while address and len(found) < LONGEST_NAME and b"\0" not in found:
        size = 64 - (address + len(found)) % 64  # never into a page that need not be there
        try:
            found += read(address + len(found), size)
        except ReadError:
            break
    return found.partition(b"\0")[0]
