"""Find the file that has the debug information which was split from another one.

By its build ID (`/usr/lib/debug/.build-id/ab/cdef.debug`), else by its name and checksum in
`.gnu_debuglink`. (GDB manual, "Debugging Information in Separate Files".)
"""

from __future__ import annotations

import os
import zlib

from recordmcount.errors import Error

from . import notes
from . import object as elf
from .open import open_file, reader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from .object import Object

ROOT = "/usr/lib/debug"
PIECE = 1 << 20


def of(obj: Object, root: str = ROOT, folder: str = "") -> tuple[Object, int] | None:
    """Open what has the debug information of a file: (it, its descriptor, to be closed).

    None where there is no such file, or none that belongs to this one. Where that one's path is
    relative, it is so to `folder`, or where that is "", the working one.
    """
    build_id = notes.build_id_by_section(obj)
    link, checksum = _debuglink(obj)
    for path in _candidates(os.path.join(folder, obj.path), build_id, link, root):
        try:
            fd = open_file(path)
        except (Error, OSError):
            continue
        found = _matching(path, fd, obj, build_id, checksum)
        if found is not None:
            return found, fd
        os.close(fd)
    return None


def _candidates(path: str, build_id: bytes, link: str, root: str) -> Iterator[str]:
    if len(build_id) > 1:
        name = build_id.hex()
        yield f"{root}/.build-id/{name[:2]}/{name[2:]}.debug"
    if link:
        folder = os.path.dirname(os.path.realpath(path))
        yield from (f"{folder}/{link}", f"{folder}/.debug/{link}", f"{root}{folder}/{link}")


def _debuglink(obj: Object) -> tuple[str, int | None]:
    """Read `.gnu_debuglink`: (name of a file, CRC-32 of its contents)."""
    for index in obj.named(b".gnu_debuglink"):
        content = obj.content(index)
        name = os.fsdecode(content.partition(b"\0")[0])
        if name and "/" not in name and len(content) >= 4:
            return name, int.from_bytes(content[-4:], "little")
    return "", None


def _matching(
    path: str, fd: int, obj: Object, build_id: bytes, checksum: int | None
) -> Object | None:
    """Open a candidate as an ELF file, if it belongs to `obj`: by build ID, or by checksum."""
    try:
        size = os.fstat(fd).st_size
        found = elf.Object(path, size, reader(fd))
        same_id = bool(build_id) and notes.build_id_by_section(found) == build_id
        if found.machine != obj.machine or not (same_id or _checksum(fd, size) == checksum):
            return None
    except (Error, OSError):
        return None
    return found


def _checksum(fd: int, size: int) -> int:
    value = 0
    for at in range(0, size, PIECE):
        value = zlib.crc32(os.pread(fd, PIECE, at), value)
    return value
