"""What `recordmcount report` tells of files, as plain values; how it looks is decided elsewhere."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from recordmcount import x86
from recordmcount.elf import archive, filetype, segments
from recordmcount.elf import object as elf
from recordmcount.elf.object import Object
from recordmcount.elf.open import open_file, reader
from recordmcount.errors import FormatError, RecordError
from recordmcount.sites import image
from recordmcount.sites.site import Site

# An executable that can be loaded anywhere is a shared object that says so (since glibc 2.26).
DT_FLAGS_1, DF_1_PIE = 0x6FFFFFFB, 0x08000000


@dataclass(frozen=True, slots=True)
class FileReport:
    """One file, or one member of an archive.

    `type` is "object", "executable", "PIE" or "shared object"; `bits` 32 or 64; `machine`
    "x86-64", "x32" or "i386". `sites` are in the order of section and offset, or of address.
    `dead` counts table entries that name no place, `repeated` those beyond the first for one.
    """

    path: str
    type: str
    bits: int
    machine: str
    has_table: bool
    sites: tuple[Site, ...] = ()
    dead: int = 0
    repeated: int = 0

    @property
    def position(self) -> str:
        """What a site's position is: "offset" (in the section) or "address" (link-time)."""
        return "offset" if self.type == "object" else "address"


def examine(path: str, names: tuple[str, ...] = ()) -> Iterator[FileReport | RecordError]:
    """The report of a file or, for an archive, of each object in it; or why there is none."""
    try:
        fd = open_file(path)
        try:
            yield from _examine(path, fd, names)
        finally:
            os.close(fd)
    except RecordError as error:
        yield error
    except OSError as error:
        yield RecordError(path, error.strerror or str(error))


def _examine(path: str, fd: int, names: tuple[str, ...]) -> Iterator[FileReport | RecordError]:
    read, size = reader(fd), os.fstat(fd).st_size
    found = filetype.of(read(0, filetype.START))
    if found != filetype.ARCHIVE:
        yield _examine_object(path, size, read, names)
        return
    for name, member in archive.members(path, read(0, size)):
        if filetype.of(member) in (filetype.X86_ELF, filetype.OTHER_ELF, filetype.BITCODE):
            yield _examine_object(f"{path}({name})", len(member), partial(_part, member), names)


def _part(content: bytes, offset: int, size: int) -> bytes:
    return content[offset : offset + size]


def _examine_object(
    path: str, size: int, read: Callable[[int, int], bytes], names: tuple[str, ...]
) -> FileReport | RecordError:
    try:
        filetype.refuse(path, filetype.of(read(0, filetype.START)), filetype.ADVICE)
        return _report(Object(path, size, read), names)
    except RecordError as error:
        return error


def _report(obj: Object, names: tuple[str, ...]) -> FileReport:
    identity = (obj.path, *identify(obj))
    sites = image.read(obj, names)
    if sites is None:
        return FileReport(*identity, has_table=False)
    return FileReport(*identity, sites.has_table, tuple(sites), sites.dead, sites.repeated)


def identify(obj: Object) -> tuple[str, int, str]:
    """The `type`, `bits` and `machine` of a FileReport; FormatError for what has no such type."""
    bits = 64 if obj.layout.is_64 else 32
    machine = "i386" if obj.machine == x86.EM_386 else "x86-64" if bits == 64 else "x32"
    return _type(obj), bits, machine


def _type(obj: Object) -> str:
    if obj.type == elf.ET_REL:
        return "object"
    if obj.type == elf.ET_EXEC:
        return "executable"
    if obj.type == elf.ET_DYN:
        flags = segments.LoadView(obj).dynamic.get(DT_FLAGS_1, 0)
        return "PIE" if flags & DF_1_PIE else "shared object"
    raise FormatError(obj.path, "neither an object nor a linked file")
