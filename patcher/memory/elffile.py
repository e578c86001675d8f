"""The code of an ELF file: by link-time virtual address, or by file offset in an object.

Changes are made to a copy of the executable segments in memory (`objectfile` says what takes
their part in an object). `commit` writes a new file and renames it: a process that runs the old one
keeps it. (What changes many sites at once needs no such copy: `patcher.files.rewrite`.)
"""

import posix
from _bisect import bisect_right

from patcher.errors import NoSiteError, ReadError, WriteError
from recordmcount import commit, x86
from recordmcount.elf import filetype
from recordmcount.elf import object as elf
from recordmcount.elf.segments import PF_X, PT_LOAD, LoadView, Segment
from recordmcount.errors import FormatError, OutputError, UnrecognizedError

from .objectfile import pieces

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType
    from typing import Self

# xz, zstd and gzip: how kernels may keep their modules.
COMPRESSED = (b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"\x1f\x8b")
# EI_CLASS and e_machine of x86-64, x32 and i386.
MACHINES = (
    (elf.ELFCLASS64, x86.EM_X86_64), (elf.ELFCLASS32, x86.EM_X86_64), (elf.ELFCLASS32, x86.EM_386),
)  # fmt: skip


class ElfFile:
    """A TextMemory over an executable, a shared or a relocatable object, open during its `with`.

    Raises NoSiteError for a file of another kind, recordmcount's FormatError for a broken one,
    OSError if it cannot be opened.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        # O_NONBLOCK: a FIFO must not make us wait.
        self.fd = posix.open(
            path, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NONBLOCK | posix.O_NOCTTY
        )
        try:
            self._status = posix.fstat(self.fd)
            _refuse_others(
                path, posix.pread(self.fd, 20, 0) if commit.is_file(self._status) else None
            )
            self.object = elf.Object(path, self._status.st_size, self._pread)
            is_object = self.object.type == elf.ET_REL
            found = (pieces if is_object else _executable_segments)(self.object)
            self._segments = sorted(found, key=lambda segment: segment.vaddr)
            self._starts = [segment.vaddr for segment in self._segments]
        except BaseException:
            posix.close(self.fd)
            raise
        self._texts: dict[Segment, bytearray] = {}
        self._changed: set[Segment] = set()

    def __enter__(self) -> "Self":
        return self

    def __exit__(
        self,
        kind: "type[BaseException] | None",
        error: "BaseException | None",
        traceback: "TracebackType | None",
    ) -> None:
        posix.close(self.fd)

    @property
    def path(self) -> str:
        """The file, as it was named."""
        return self._path

    @property
    def segments(self) -> "Sequence[Segment]":
        """What may be changed, in ascending order of file offset."""
        return sorted(self._segments, key=lambda segment: segment.offset)

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes of code at link-time virtual address `address`; ReadError outside of it."""
        segment = self._segment(address, size)
        if segment is None:
            raise ReadError(self._path, "no code from the file", address=address)
        at = address - segment.vaddr
        return bytes(self._text(segment)[at : at + size])

    def write(self, address: int, data: bytes) -> None:
        """Change the copy at link-time virtual address `address`; WriteError outside of code."""
        segment = self._segment(address, len(data))
        if segment is None:
            raise WriteError(self._path, "no code from the file", address=address)
        at = address - segment.vaddr
        self._text(segment)[at : at + len(data)] = data
        self._changed.add(segment)

    def gather(self, addresses: "Sequence[int]", sizes: "Sequence[int]") -> list[bytes]:
        """What `read` gives for each address and size."""
        return list(map(self.read, addresses, sizes))

    def scatter(self, addresses: "Sequence[int]", data: "Sequence[bytes]") -> None:
        """What `write` does with each address and data, in order."""
        for address, each in zip(addresses, data, strict=True):
            self.write(address, each)

    def sync(self) -> None:
        """Nothing: no processor executes the copy."""

    def commit(self, path: str | None = None) -> None:
        """Replace the file, or write `path` instead. Raises WriteError; then no file has changed.

        Mode, owner and extended attributes stay, a symlink is followed, a hard link is broken. A
        file that another program has changed or replaced since it was opened is not replaced.
        """
        edits = sorted((segment.offset, bytes(self._texts[segment])) for segment in self._changed)
        chunks = commit.patched(self.object, edits)
        self.replace(lambda target: commit.write_each(target, chunks), path)

    def replace(self, fill: "Callable[[int], object]", path: str | None = None) -> None:
        """The same with what `fill` writes: it is given the descriptor of the new file."""
        target = self._path if path is None else path
        try:
            commit.replace(target, self.fd, fill, owner=path is None, before=self._status)
        except OutputError as error:
            raise WriteError(target, error.what) from error
        except UnrecognizedError as error:
            raise WriteError(target, "not a regular file") from error

    def _segment(self, address: int, size: int) -> Segment | None:
        number = bisect_right(self._starts, address) - 1
        if number >= 0 and self._segments[number].holds(address, size):
            return self._segments[number]
        return None

    def _text(self, segment: Segment) -> bytearray:
        if segment not in self._texts:
            content = self.object.read(segment.offset, segment.filesz, "an executable segment")
            self._texts[segment] = bytearray(content)
        return self._texts[segment]

    def _pread(self, offset: int, size: int) -> bytes:
        return posix.pread(self.fd, size, offset)


def _executable_segments(obj: elf.Object) -> list[Segment]:
    """The PT_LOAD segments with code; FormatError if a byte of one is in another segment too."""
    loaded = [one for one in LoadView(obj).segments if one.type == PT_LOAD and one.filesz]
    loaded.sort(key=lambda segment: segment.offset)
    end = end_of_code = 0
    for segment in loaded:
        is_code = segment.flags & PF_X
        if segment.offset < (end if is_code else end_of_code):
            raise FormatError(obj.path, f"code is in two segments at {segment.offset:#x}")
        end = max(end, segment.offset + segment.filesz)
        end_of_code = end if is_code else end_of_code
    return [segment for segment in loaded if segment.flags & PF_X]


def _refuse_others(path: str, start: bytes | None) -> None:
    """NoSiteError for what is no x86 ELF file; `start` are the file's first 20 bytes."""
    machine = int.from_bytes((start or b"")[18:20], "little")
    if start is None:
        what = "not a regular file"
    elif start.startswith((filetype.ARCHIVE_MAGIC, filetype.THIN_ARCHIVE_MAGIC)):
        what = "an archive: patch its members before they go in, or what is linked from it"
    elif start.startswith(COMPRESSED):
        what = "compressed: decompress it first"
    elif start.startswith(filetype.BITCODE_MAGIC):
        what = "LLVM bitcode, which has no sites yet: patch what is linked from it"
    elif not start.startswith(b"\x7fELF") or len(start) < 20:
        what = "not an ELF file"
    elif start[5] != elf.ELFDATA2LSB or (start[4], machine) not in MACHINES:
        what = "not for x86: only such files are patched"
    else:
        return
    raise NoSiteError(path, what)
