"""The code of an ELF file: by link-time virtual address, or by file offset in an object.

Changes are made to a copy, in memory, of what `spans` says may be changed. `commit` writes a new
file and renames it: a process that runs the old one keeps it. (What changes many sites at once
needs no such copy: `patcher.files.rewrite`.)
"""

from __future__ import annotations

import posix
from _bisect import bisect_right

from patcher.closing import Closing
from patcher.errors import NoSiteError, ReadError, WriteError
from recordmcount import replacement
from recordmcount.elf import filetype
from recordmcount.elf import object as elf
from recordmcount.elf.open import open_file, reader
from recordmcount.errors import NotRegularError, OutputError

from . import spans
from .spans import Span

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .early_copy import EarlyCopy

ADVICE = {
    **filetype.ADVICE_ON_FILES,
    filetype.ARCHIVE: "patch its members before they go in, or what is linked from it",
    filetype.THIN_ARCHIVE: "patch the objects it names, or what is linked from it",
    filetype.BITCODE: "patch what is linked from it",
    filetype.TEXT: "compile, record and link it first",
    filetype.COMPRESSED: filetype.ADVICE[filetype.COMPRESSED],
    filetype.KERNEL_IMAGE: "patch the vmlinux that it is made from",
}


class ElfFile(Closing):
    """A TextMemory over an executable, a shared or a relocatable object, open during its `with`.

    `object` is the file as ELF, `spans` are what may be changed, by file offset.
    With `to_read` it may be compressed, or the kernel in a kernel image; then nothing of it may be
    changed. Raises NoSiteError for a file of another type, recordmcount's FormatError for a broken
    one, OSError if it cannot be opened.
    """

    def __init__(self, path: str, *, to_read: bool = False) -> None:
        self._path = path
        try:
            self.fd = open_file(path)
        except NotRegularError as error:
            raise NoSiteError(path, error.what) from error
        try:
            read = reader(self.fd)
            self._status = posix.fstat(self.fd)
            size = self._status.st_size
            found = filetype.of(read(0, filetype.START))
            is_packed = to_read and found in (filetype.COMPRESSED, filetype.KERNEL_IMAGE)
            if is_packed:
                from recordmcount.elf.unpack import unpacked

                found, size, read = unpacked(path, size, read)
            if found != filetype.X86_ELF:
                raise NoSiteError(path, ": ".join(filter(None, (found, ADVICE.get(found)))))
            self.object = elf.Object(path, size, read)
            self.spans = [] if is_packed else spans.of(self.object)
            self._by_address = sorted(self.spans, key=lambda span: span.address)
            self._starts = [span.address for span in self._by_address]
        except BaseException:
            posix.close(self.fd)
            raise
        self._early: EarlyCopy | None = None
        self._texts: dict[Span, bytearray] = {}
        self._changed: set[Span] = set()

    def close(self) -> None:
        """Close the file."""
        if self._early:
            self._early.close()
        posix.close(self.fd)
        self.object.forget()

    @property
    def path(self) -> str:
        """The file, as it was named."""
        return self._path

    def read(self, address: int, size: int) -> bytes:
        """Read `size` bytes of code at `address`; ReadError outside of it."""
        span = self._span(address, size)
        if span is None:
            raise ReadError(self._path, "no code from the file", address=address)
        at = address - span.address
        return bytes(self._text(span)[at : at + size])

    def write(self, address: int, data: bytes) -> None:
        """Change the copy at `address`; WriteError outside of code."""
        span = self._span(address, len(data))
        if span is None:
            raise WriteError(self._path, "no code from the file", address=address)
        at = address - span.address
        self._text(span)[at : at + len(data)] = data
        self._changed.add(span)

    def gather(self, addresses: Sequence[int], sizes: Sequence[int]) -> list[bytes]:
        """Read each size at its address, as `read` does."""
        return list(map(self.read, addresses, sizes))

    def scatter(self, addresses: Sequence[int], data: Sequence[bytes]) -> None:
        """Write each data at its address, in order, as `write` does."""
        for address, each in zip(addresses, data, strict=True):
            self.write(address, each)

    def sync(self) -> None:
        """Do nothing: no processor executes the copy."""

    def commit(self, path: str | None = None) -> None:
        """Replace the file, or write `path` instead. Raises WriteError; then no file has changed.

        What becomes of mode, owner, attributes and links is told in `recordmcount.replacement`. A
        file that another program has changed or replaced since it was opened is not replaced.
        """
        edits = sorted((span.offset, bytes(self._texts[span])) for span in self._changed)
        whole = [(0, self.object.size)]
        self.replace(lambda target: replacement.copy(self.fd, target, whole, edits), path)

    def begin(self, path: str | None = None) -> None:
        """Start to copy the file, which takes its time, for one that `replace` will put there."""
        from .early_copy import begin  # not needed where nothing is written

        target = self._path if path is None else path
        self._early = begin(self.fd, self._status, target, is_output=path is not None)

    def replace(self, fill: Callable[[int], object], path: str | None = None) -> None:
        """Replace the file as `commit` does, by what `fill` writes to a descriptor.

        It is that of an empty file, or of a copy.
        """
        target = self._path if path is None else path
        put = replacement.replace if path is None else replacement.output
        early = self._early.take if self._early else None
        try:
            put(target, self.fd, fill, self._status, early)
        except (OutputError, NotRegularError) as error:
            raise WriteError(target, error.what) from error

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
