"""A path -> the ELF files in it, one by one: itself, what is compressed in it, or its members.

Whoever looks at files asks one question of each of these, and is given the answers, or what is
wrong, in order. No file is open for longer than it is asked, and nothing is raised.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

from recordmcount.errors import Error, reason

from . import archive, filetype
from .object import Budget, Object
from .open import open_file, reader
from .unpack import unpacked

Answer = TypeVar("Answer")
# How so many bytes are read at an offset, or less at the end.
Read = Callable[[int, int], bytes]

# The members of an archive that are looked at; of others, as of a text, nothing is said.
MEMBERS = (filetype.X86_ELF, filetype.OTHER_ELF, filetype.BITCODE)


def each(path: str, ask: Callable[[Object], Answer], folder: str = "") -> Iterator[Answer | Error]:
    """Ask of a file or, where it is an archive, of each object in it; or tell why that cannot be.

    `ask` may raise what it likes to: an Error is the answer for one object, and the next is asked.
    A relative path is one from `folder`, where that is not "", the working one.
    """
    return _opened(path, folder, partial(_file, path, folder, ask))


def _opened(
    path: str, folder: str, look: Callable[[int, Read], Iterator[Answer | Error]]
) -> Iterator[Answer | Error]:
    """Give what look(size in bytes, how it is read) gives of an open file, or what is wrong."""
    fd = -1
    try:
        fd = _open(path, folder)
        yield from look(os.fstat(fd).st_size, reader(fd))
    except Error as error:
        yield error
    except OSError as error:
        yield Error(path, reason(error))
    except MemoryError:
        yield Error(path, "out of memory")
    except ImportError as error:  # what few files need is imported for them
        yield Error(path, str(error))
    finally:
        if fd >= 0:
            os.close(fd)


def _open(path: str, folder: str) -> int:
    try:
        return open_file(os.path.join(folder, path))
    except Error as error:
        raise Error(path, error.what) from error


def _file(
    path: str, folder: str, ask: Callable[[Object], Answer], size: int, read: Read
) -> Iterator[Answer | Error]:
    found, size, read = unpacked(path, size, read)
    if found == filetype.THIN_ARCHIVE:
        for file in archive.files(path, size, read):
            yield from _opened(file, folder, partial(_named, path, file, ask))
    elif found == filetype.ARCHIVE:
        yield from _members(path, ask, size, read)
    else:
        yield _object(path, ask, size, read)


def _members(
    path: str, ask: Callable[[Object], Answer], size: int, read: Read
) -> Iterator[Answer | Error]:
    budget = Budget(path, size)
    for name, member in archive.members(path, size, read):
        inner = partial(_inner, read, member)
        if filetype.of(inner(0, filetype.START)) in MEMBERS:
            yield _object(f"{path}({name})", ask, member.size, inner, budget)


def _inner(read: Read, member: archive.Member, offset: int, size: int) -> bytes:
    return read(member.offset + offset, min(size, member.size - offset))


def _named(
    archive_path: str, file: str, ask: Callable[[Object], Answer], size: int, read: Read
) -> Iterator[Answer | Error]:
    """Ask of a file that a thin archive names, but of no archive: it may be the same."""
    found = filetype.of(read(0, filetype.START))
    if found in filetype.ARCHIVES:
        yield Error(file, f"{found} in {archive_path}: name it by itself")
    elif found in MEMBERS:
        yield _object(file, ask, size, read)


def _object(
    path: str, ask: Callable[[Object], Answer], size: int, read: Read, budget: Budget | None = None
) -> Answer | Error:
    try:
        filetype.refuse(path, filetype.of(read(0, filetype.START)), filetype.ADVICE_ON_FILES)
        obj = Object(path, size, read, budget)
        try:
            return ask(obj)
        finally:
            obj.forget()
    except Error as error:
        return error
