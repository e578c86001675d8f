"""Files -> what is told of them: of an archive by objects, of a compressed one what is inside."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from recordmcount.budget import Budget
from recordmcount.elf import archive, filetype
from recordmcount.elf.object import Object
from recordmcount.elf.open import open_file, reader
from recordmcount.elf.unpack import unpacked
from recordmcount.errors import Error, reason
from recordmcount.sites import image

from .document import of_file

MEMBERS = (filetype.X86_ELF, filetype.OTHER_ELF, filetype.BITCODE)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .shapes import ReportedFile


class Asked(NamedTuple):
    """What is asked of files: further names of mcount, and what debug information tells."""

    symbols: tuple[str, ...] = ()
    lines: bool = False
    untraceable: bool = False


NOTHING_MORE = Asked()


def examine(path: str, asked: Asked = NOTHING_MORE) -> Iterator[ReportedFile | Error]:
    """Tell of a file or, for an archive, of each object in it; or why that cannot be."""
    try:
        fd = open_file(path)
        try:
            yield from _examine(path, fd, asked)
        finally:
            os.close(fd)
    except Error as error:
        yield error
    except OSError as error:
        yield Error(path, reason(error))
    except MemoryError:
        yield Error(path, "out of memory")
    except ImportError as error:  # what few files need is imported for them
        yield Error(path, str(error))


def _examine(path: str, fd: int, asked: Asked) -> Iterator[ReportedFile | Error]:
    found, size, read = unpacked(path, os.fstat(fd).st_size, reader(fd))
    if found == filetype.THIN_ARCHIVE:
        for file in archive.files(path, size, read):
            yield from _examine_named(path, file, asked)
        return
    if found != filetype.ARCHIVE:
        yield _examine_object(path, size, read, asked)
        return
    budget = Budget(path, size)
    for name, member in archive.members(path, size, read):
        inner = partial(_inner, read, member)
        if filetype.of(inner(0, filetype.START)) in MEMBERS:
            yield _examine_object(f"{path}({name})", member.size, inner, asked, budget)


def _inner(
    read: Callable[[int, int], bytes], member: archive.Member, offset: int, size: int
) -> bytes:
    return read(member.offset + offset, min(size, member.size - offset))


def _examine_named(path: str, file: str, asked: Asked) -> Iterator[ReportedFile | Error]:
    """Tell of a file that the thin archive `path` names, but of no archive: it may be the same."""
    fd = -1
    try:
        fd = open_file(file)
        read, size = reader(fd), os.fstat(fd).st_size
        found = filetype.of(read(0, filetype.START))
        if found in filetype.ARCHIVES:
            yield Error(file, f"{found} in {path}: report it by itself")
        elif found in MEMBERS:
            yield _examine_object(file, size, read, asked)
    except Error as error:
        yield error
    except OSError as error:
        yield Error(file, reason(error))
    finally:
        if fd >= 0:
            os.close(fd)


def _examine_object(
    path: str,
    size: int,
    read: Callable[[int, int], bytes],
    asked: Asked,
    budget: Budget | None = None,
) -> ReportedFile | Error:
    try:
        filetype.refuse(path, filetype.of(read(0, filetype.START)), filetype.ADVICE_ON_FILES)
        obj = Object(path, size, read, budget)
        sites = image.read(obj, asked.symbols)
        return of_file(obj, sites, asked.symbols, lines=asked.lines, untraceable=asked.untraceable)
    except Error as error:
        return error
