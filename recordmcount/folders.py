"""The files in a folder, and in those inside it, that are worth reading; by the order of names."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from recordmcount.elf import filetype
from recordmcount.elf.open import open_file, reader
from recordmcount.errors import Error, reason

# What is worth reading further.
KNOWN = (filetype.X86_ELF, filetype.ARCHIVE, filetype.THIN_ARCHIVE)


def files(paths: Iterable[str]) -> Iterator[str | Error]:
    """Give the files that paths name: a folder's are all that are known, any other is itself."""
    for path in paths:
        if os.path.isdir(path):
            yield from Walk(path)
        else:
            yield path


class Walk:
    """The files of a folder that are known, `path` before each; `skipped` counts the others.

    A symbolic link to a folder is not followed, so no loop is without end; one to a file is. What
    cannot be read is yielded as the Error that says so. The order is that of the names' bytes.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.skipped = 0

    def __iter__(self) -> Iterator[str | Error]:
        folders = [self.path]
        while folders:
            inner: list[str] = []
            for entry in self._entries(folders.pop()):
                if isinstance(entry, Error):
                    yield entry
                elif entry.is_dir(follow_symlinks=False):
                    inner.append(entry.path)
                else:
                    yield from self._known(entry.path)
            folders += reversed(inner)

    @staticmethod
    def _entries(folder: str) -> Iterator[os.DirEntry[str] | Error]:
        try:
            with os.scandir(folder) as entries:
                yield from sorted(entries, key=lambda entry: os.fsencode(entry.name))
        except OSError as error:
            yield Error(folder, reason(error))

    def _known(self, path: str) -> Iterator[str | Error]:
        try:
            fd = open_file(path)
        except Error:
            self.skipped += 1
            return
        except OSError as error:
            yield Error(path, reason(error))
            return
        try:
            is_known = filetype.of(reader(fd)(0, filetype.START)) in KNOWN
        except OSError as error:
            yield Error(path, reason(error))
            return
        finally:
            os.close(fd)
        if is_known:
            yield path
        else:
            self.skipped += 1
