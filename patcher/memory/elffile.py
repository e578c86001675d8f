"""The code of an ELF file: by link-time virtual address, or by file offset in an object.

Changes are made to a copy, in memory, of what `spans` says may be changed. `commit` writes a new
file and renames it: a process that runs the old one keeps it. (What changes many sites at once
needs no such copy: `patcher.files.rewrite`.)
"""

import posix
from _bisect import bisect_right

from patcher.errors import NoSiteError, ReadError, WriteError
from recordmcount import commit, x86
from recordmcount.elf import filetype
from recordmcount.elf import object as elf
from recordmcount.errors import OutputError, UnrecognizedError

from . import spans
from .spans import Span

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

    `object` is the file as ELF, `spans` are what may be changed, by file offset.
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
            self.spans = spans.of(self.object)
            self._by_address = sorted(self.spans, key=lambda span: span.address)
            self._starts = [span.address for span in self._by_address]
        except BaseException:
            posix.close(self.fd)
            raise
        self._texts: dict[Span, bytearray] = {}
        self._changed: set[Span] = set()

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

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes of code at link-time virtual address `address`; ReadError outside of it."""
        span = self._span(address, size)
        if span is None:
            raise ReadError(self._path, "no code from the file", address=address)
        at = address - span.address
        return bytes(self._text(span)[at : at + size])

    def write(self, address: int, data: bytes) -> None:
        """Change the copy at link-time virtual address `address`; WriteError outside of code."""
        span = self._span(address, len(data))
        if span is None:
            raise WriteError(self._path, "no code from the file", address=address)
        at = address - span.address
        self._text(span)[at : at + len(data)] = data
        self._changed.add(span)

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
        edits = sorted((span.offset, bytes(self._texts[span])) for span in self._changed)
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

    def _span(self, address: int, size: int) -> Span | None:
        number = bisect_right(self._starts, address) - 1
        if number >= 0 and self._by_address[number].holds(address, size):
            return self._by_address[number]
        return None

    def _text(self, span: Span) -> bytearray:
        if span not in self._texts:
            content = self.object.read(span.offset, span.size, "executable code")
            self._texts[span] = bytearray(content)
        return self._texts[span]

    def _pread(self, offset: int, size: int) -> bytes:
        return posix.pread(self.fd, size, offset)


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
