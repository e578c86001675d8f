"""A file whose code a process has mapped: opened, and proven to be what is mapped.

The name of a mapping proves nothing: the file may be deleted or replaced, and the process may see
another file system. What is mapped is what /proc/PID/map_files leads to, for whoever may follow it.
Everybody else opens the name and compares device and inode with those of the mapping. Some file
systems (btrfs, overlayfs) have other numbers in mappings than in stat(2); then the opened file is
mapped here as well, and both mappings must have the same numbers.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from _operator import add
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import chain

from patcher.closing import Closing
from patcher.errors import ModuleError, ReadError, StateError
from patcher.ftrace.mappings import Mapping, Range, why_not_text
from recordmcount.elf import object as elf
from recordmcount.elf.notes import PT_NOTE, build_id
from recordmcount.elf.open import FLAGS, is_regular, reader
from recordmcount.elf.segments import PF_X, PT_LOAD, LoadView
from recordmcount.errors import FormatError, reason
from recordmcount.x86 import ADDRESS_BITS
from recordmcount.x86_relocations import WIDEST_FIELD

from . import maps
from .memory import ProcessMemory
from .pages import PAGE
from .proc import Proc, is_missing

DT_TEXTREL, DT_FLAGS, DF_TEXTREL = 22, 30, 4


def may_be_module(proc: Proc, mapping: Mapping) -> bool:
    """Tell whether this may be code that was loaded from a file, before that is opened.

    To open a device may do what nobody asked for.
    """
    if not mapping.inode or mapping.protection[2:] != "xp" or mapping.path.startswith("/memfd:"):
        return False
    for name in (_map_file(mapping), f"root{mapping.path}"):
        try:
            return is_regular(proc.file_status(name))
        except OSError:  # it has no name any more, or this user may not look there
            continue
    return True


class OpenedFile(Closing):
    """The file behind a mapping, open during its `with`. Raises PatchError if it cannot be opened.

    ModuleError if what can be opened is another file, StateError if the mapping is gone.
    """

    def __init__(self, proc: Proc, mapping: Mapping) -> None:
        self._proc = proc
        self.path = mapping.path.removesuffix(maps.DELETED)
        self.fd, by_name = _open(proc, mapping, self.path)
        try:
            self.status = os.fstat(self.fd)
            if not is_regular(self.status):
                raise ModuleError(self.path, f"is no regular file: {mapping}")
            if not self._is_mapped_by(mapping):
                if not by_name:  # another file is mapped there by now
                    raise _gone(self.path, mapping)
                what = "the file was replaced or deleted since it was mapped, and what is mapped "
                raise ModuleError(self.path, f"{what}cannot be opened; root can")
        except BaseException:
            os.close(self.fd)
            raise

    def close(self) -> None:
        """Close it."""
        os.close(self.fd)

    def _is_mapped_by(self, mapping: Mapping) -> bool:
        wanted = (mapping.device, mapping.inode)
        if wanted == (self.status.st_dev, self.status.st_ino):
            return True
        return wanted == mapped_identity(self.fd)

    def is_still_mapped_by(self, mapping: Mapping) -> bool:
        """Tell whether the file is what is mapped there now, as far as this user may look."""
        try:
            now = os.stat(f"/proc/{self._proc.pid}/{_map_file(mapping)}")
        except PermissionError:
            return True  # its numbers have been compared
        except OSError:
            return _has_ended_leader(self._proc)  # then there are none
        return (now.st_dev, now.st_ino) == (self.status.st_dev, self.status.st_ino)


def stamp(status: os.stat_result) -> tuple[int, ...]:
    """Tell how a file looks: it is another one, or was written to, if this has changed."""
    times = (status.st_mtime_ns, status.st_ctime_ns)
    return status.st_dev, status.st_ino, status.st_size, *times


def _map_file(mapping: Mapping) -> str:
    return f"map_files/{mapping.range.start:x}-{mapping.range.end:x}"


def _gone(path: str, mapping: Mapping) -> StateError:
    return StateError(path, f"is not mapped any more: {mapping}: try again")


def _open(proc: Proc, mapping: Mapping, path: str) -> tuple[int, bool]:
    """Open what is mapped; tell whether only its name led there, where another may be by now."""
    try:
        return proc.open(_map_file(mapping), FLAGS), False
    except PermissionError:
        pass
    except OSError as error:
        if not is_missing(error):
            raise
        if not _has_ended_leader(proc):
            raise _gone(path, mapping) from error
    try:
        return proc.open_by_thread(f"root{path}", FLAGS), True
    except OSError as error:
        why = "its name leads nowhere" if is_missing(error) else reason(error)
        what = f"what is mapped cannot be opened by its name ({why}); root can"
        raise ModuleError(path, what) from error


def _has_ended_leader(proc: Proc) -> bool:
    """Tell whether the leader has ended before other threads: then map_files is empty."""
    try:
        stat = proc.stat()
    except OSError:
        return False
    return stat.is_ended and stat.threads > 1


def mapped_identity(fd: int) -> tuple[int, int]:
    """Return the (device, inode) that a mapping of this file has in /proc/PID/maps."""
    with mmap.mmap(fd, 1, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) as mapped:
        field = ctypes.c_char.from_buffer(mapped)
        address = ctypes.addressof(field)
        del field
        with open("/proc/self/maps", "rb") as stream:
            mappings = maps.parse(stream.read())
    found = next(each for each in mappings if each.range.holds(address))
    return found.device, found.inode


class LoadedFile:
    """A linked file at a load bias, mapped by `code`; `mappings` are those that are text.

    Raises FormatError for a broken file.
    """

    def __init__(
        self, file: OpenedFile, obj: elf.Object, bias: int, code: Sequence[Mapping]
    ) -> None:
        self.file = file
        self.obj = obj
        self.view = obj.once(LoadView)
        self.bias = bias
        self.device, self.inode = code[0].device, code[0].inode  # as its mappings have them
        self.mappings = tuple(
            each for each in code if not each.why_not_text(self.device, self.inode)
        )
        self.build_id = obj.once(_build_id)
        self._relocated: list[int] | None = None

    @property
    def path(self) -> str:
        """The name of the file."""
        return self.file.path

    @property
    def load_address(self) -> int:
        """The run-time address of the first page that is loaded of it."""
        loaded = [segment.vaddr for segment in self.view.segments if segment.type == PT_LOAD]
        return self.address(min(loaded, default=0) & -PAGE)

    @property
    def highest(self) -> int:
        """The highest address that its machine has; sums of addresses are cut to that."""
        return (1 << ADDRESS_BITS[self.obj.machine]) - 1

    def address(self, vaddr: int) -> int:
        """Give the run-time address for a link-time virtual address."""
        return vaddr + self.bias & self.highest

    def is_relocated(self, vaddr: int, size: int) -> bool:
        """Tell whether the dynamic linker changes some of `size` bytes of text (DT_TEXTREL)."""
        flags = self.view.dynamic.get(DT_FLAGS, 0)
        if DT_TEXTREL not in self.view.dynamic and not flags & DF_TEXTREL:
            return False
        if self._relocated is None:
            slots = (table.slots for table in self.view.relocations())
            self._relocated = sorted(chain.from_iterable(slots))
        number = bisect_right(self._relocated, vaddr - WIDEST_FIELD)
        return number < len(self._relocated) and self._relocated[number] < vaddr + size

    def refuse_other(self, memory: ProcessMemory) -> None:
        """Raise ModuleError if the notes in memory, among them the build-id, are not the file's.

        Raises ReadError if the file is not mapped any more: then they are those of another.
        """
        for vaddr, notes in self.obj.once(_notes):
            # It may have gone, and have come again where it was, while we read.
            if self._stand(memory, vaddr, notes) or self._stand(memory, vaddr, notes):
                continue
            what = f"another build than its file, which has {_build_in_words(self.build_id)}"
            raise ModuleError(self.path, f"what is loaded at {self.bias:#x} is {what}")

    def _stand(self, memory: ProcessMemory, vaddr: int, notes: bytes) -> bool:
        """Tell whether notes are in memory. Raises ReadError where the file is not any more."""
        try:
            if memory.read(self.address(vaddr), len(notes)) == notes:
                return True
        except ReadError:
            pass  # it is told below why
        self.refuse_gone(memory)
        return False

    def refuse_outside_of_text(
        self, memory: ProcessMemory, starts: Sequence[int], sizes: Sequence[int]
    ) -> None:
        """Raise ModuleError if a site is not wholly inside one mapping.

        `starts` are run-time addresses of sites, which ascend, and `sizes` those of the sites.
        """
        inside, longest = 0, max(sizes, default=0)
        for mapping in self.mappings:
            first, end = bisect_left(starts, mapping.range.start), mapping.range.end
            last = bisect_left(starts, end, first)
            near = bisect_left(starts, end - longest, first, last)  # only these may go over its end
            is_inside = max(map(add, starts[near:last], sizes[near:last]), default=0) <= end
            inside += last - first if is_inside else 0
        if inside == len(starts):
            return
        text = [each.range for each in self.mappings]
        for site in map(Range, starts, map(add, starts, sizes)):
            if not any(each.holds(site.start, site.end - site.start) for each in text):
                why = why_not_text(site, memory.mappings(), self.device, self.inode)
                raise ModuleError(self.path, f"a site at {site} {why}", address=site.start)

    def refuse_gone(self, memory: ProcessMemory) -> None:
        """Raise ReadError if the code is not mapped as it was, as it is no longer this module's."""
        mappings = memory.mappings()
        present = {*mappings}
        for each in self.mappings:
            if each not in present or not self.file.is_still_mapped_by(each):
                why = why_not_text(each.range, mappings, each.device, each.inode)
                what = f"no longer text: {each.range} {why or 'is a mapping of another file'}"
                raise ReadError(self.path, what, address=each.range.start)

    def content(self, address: int, size: int) -> bytes:
        """Read what the file has for `size` bytes of one mapping of its code, at `address`."""
        mapping = next(each for each in self.mappings if each.range.holds(address, size))
        found = reader(self.file.fd)(mapping.offset + address - mapping.range.start, size)
        return found.ljust(size, b"\0")  # behind its end a page is filled up


def _build_id(obj: elf.Object) -> bytes:
    return build_id(obj.once(LoadView))


def _notes(obj: elf.Object) -> list[tuple[int, bytes]]:
    """Return (link-time virtual address, content) of the notes that are loaded.

    They are read once, however often the file is loaded.
    """
    view = obj.once(LoadView)
    return [
        (segment.vaddr, obj.read(segment.offset, segment.filesz, "the notes"))
        for segment in view.segments
        if segment.type == PT_NOTE and view.file_offset(segment.vaddr, segment.filesz) is not None
    ]


def _build_in_words(identity: bytes) -> str:
    return f"build-id {identity.hex()}" if identity else "no build-id"


def biases(view: LoadView, mappings: Sequence[Mapping]) -> Iterator[tuple[int, list[Mapping]]]:
    """Return the load biases at which a file's code is mapped, each with the mappings of it."""
    found: dict[int, list[Mapping]] = {}
    for mapping in mappings:
        for segment in view.segments:
            start = segment.offset & -PAGE
            is_code = segment.type == PT_LOAD and segment.flags & PF_X
            if is_code and start <= mapping.offset < segment.offset + segment.filesz:
                vaddr = segment.vaddr - segment.offset + mapping.offset
                found.setdefault(mapping.range.start - vaddr, []).append(mapping)
                break
    yield from found.items()


def object_of(file: OpenedFile) -> elf.Object | None:
    """Read a mapped file as ELF, None if it is none for x86. Raises FormatError."""
    from recordmcount.elf import filetype

    read = reader(file.fd)
    if filetype.of(read(0, filetype.START)) != filetype.X86_ELF:
        return None
    obj = elf.Object(file.path, file.status.st_size, read)
    if obj.type not in (elf.ET_EXEC, elf.ET_DYN):
        raise FormatError(file.path, "is mapped as code, and is not linked")
    return obj
