"""Files -> what is told of them: of an archive by objects, of a compressed one what is inside."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial

from recordmcount.elf import archive, filetype
from recordmcount.elf.object import Object
from recordmcount.elf.open import open_file, reader
from recordmcount.elf.unpack import part, unpacked
from recordmcount.errors import Error, reason
from recordmcount.sites import image

from .document import of_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .shapes import ReportedFile


def examine(path: str, names: tuple[str, ...] = ()) -> Iterator[ReportedFile | Error]:
    """Tell of a file or, for an archive, of each object in it; or why that cannot be."""
    try:
        fd = open_file(path)
        try:
            yield from _examine(path, fd, names)
        finally:
            os.close(fd)
    except Error as error:
        yield error
    except OSError as error:
        yield Error(path, reason(error))
    except MemoryError:
        yield Error(path, "out of memory")


def _examine(path: str, fd: int, names: tuple[str, ...]) -> Iterator[ReportedFile | Error]:
    found, size, read = unpacked(path, os.fstat(fd).st_size, reader(fd))
    if found != filetype.ARCHIVE:
        yield _examine_object(path, size, read, names)
        return
    for name, member in archive.members(path, read(0, size)):
        if filetype.of(member) in (filetype.X86_ELF, filetype.OTHER_ELF, filetype.BITCODE):
            yield _examine_object(f"{path}({name})", len(member), partial(part, member), names)


def _examine_object(
    path: str, size: int, read: Callable[[int, int], bytes], names: tuple[str, ...]
) -> ReportedFile | Error:
    try:
        filetype.refuse(path, filetype.of(read(0, filetype.START)), filetype.ADVICE)
        obj = Object(path, size, read)
        return of_file(obj, image.read(obj, names))
    except Error as error:
        return error
