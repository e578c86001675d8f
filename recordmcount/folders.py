"""The files in a folder, and in those inside it, that are worth reading; by the order of names."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from recordmcount.elf import containers, filetype
from recordmcount.elf.open import open_file, reader
from recordmcount.errors import Error, reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# What is worth reading further.
KNOWN = (
    filetype.X86_ELF, filetype.ARCHIVE, filetype.THIN_ARCHIVE, filetype.KERNEL_IMAGE,
)  # fmt: skip


class Files:
    """The files that paths name: a folder's are all that are known, any other path is itself.

    When all were given, `skipped` tells how many files of folders are not known. What cannot be
    read is given as the Error that says so.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        self._paths = list(paths)
        self.skipped = 0

    def __iter__(self) -> Iterator[str | Error]:
        for path in self._paths:
            if os.path.isdir(path):
                walk = Walk(path)
                yield from walk
                self.skipped += walk.skipped
            else:
                yield path

    def count(self) -> int | None:
        """Tell how many there are; None where that is not known before folders are read."""
        return None if any(map(os.path.isdir, self._paths)) else len(self._paths)


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
            is_known = _is_known(path, os.fstat(fd).st_size, reader(fd))
        except OSError as error:
            yield Error(path, reason(error))
            return
        finally:
            os.close(fd)
        if is_known:
            yield path
        else:
            self.skipped += 1


def _is_known(path: str, size: int, read: Callable[[int, int], bytes]) -> bool:
    """Tell whether a file is worth reading further: of a compressed one, whether its content is.

    What says that it is compressed, and is broken, is: whoever reads it further will tell.
    """
    start = read(0, filetype.START)
    found = filetype.of(start)
    if found == filetype.COMPRESSED:
        try:
            found = filetype.of(containers.first(path, read, size, filetype.START))
        except Error:
            # lzma has no magic: anything may look like it.
            return containers.format_of(start) != containers.LZMA
    return found in KNOWN
