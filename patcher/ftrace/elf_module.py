"""A module as its ELF file tells it: identity, text, and the sites of its `__mcount_loc` table.

The table is read from the file, not from memory: when a loader announces an object, that is mapped
but need not be relocated yet.
"""

import os
from collections.abc import Iterator, Sequence
from stat import S_ISREG

from patcher.errors import CompareError, NoSiteError
from recordmcount.elf import object as elf
from recordmcount.elf.notes import build_id
from recordmcount.elf.segments import PF_X, PT_LOAD, LoadView
from recordmcount.sites import linked
from recordmcount.sites.linked import Site
from recordmcount.x86 import ADDRESS_BITS

from .mappings import Range
from .modules import Identity, Module, Point


def read(path: str, bias: int = 0, names: Sequence[str] = ()) -> Module:
    """The module that the linked file `path` is when loaded with load bias `bias`.

    `names` are further names of mcount. Its text are the executable segments. Raises CompareError
    if a site is foreign or could not be turned off and on again, NoSiteError if `path` is no
    regular file, recordmcount's FormatError for a broken file or one without a table, OSError.
    """
    # O_NONBLOCK: a FIFO must not make us wait.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        status = os.fstat(fd)
        if not S_ISREG(status.st_mode):
            raise NoSiteError(path, "not a regular file")
        obj = elf.Object(path, status.st_size, lambda offset, size: os.pread(fd, size, offset))
        view = LoadView(obj)
        found = linked.read(obj, names)
        return Module(
            Identity(path, build_id(view), status.st_dev, status.st_ino, bias),
            tuple(_text(view, bias)),
            tuple(_point(obj, site, bias) for site in found.sites),
            machine=obj.machine,
        )
    finally:
        os.close(fd)


def _text(view: LoadView, bias: int) -> Iterator[Range]:
    for segment in view.segments:
        if segment.type == PT_LOAD and segment.flags & PF_X and segment.filesz:
            start = _moved(view.obj, segment.vaddr, bias)
            yield Range(start, start + segment.filesz)


def _moved(obj: elf.Object, vaddr: int, bias: int) -> int:
    """The run-time address: the sum, in as many bits as addresses have."""
    return vaddr + bias & (1 << ADDRESS_BITS[obj.machine]) - 1


def _point(obj: elf.Object, site: Site, bias: int) -> Point:
    if site.call is None or site.nop is None:
        raise CompareError(
            obj.path, site.reason,
            address=site.vaddr, symbol=site.place, actual=site.code, expected=site.expected,
        )  # fmt: skip
    address = _moved(obj, site.vaddr, bias)
    return Point(address, site.code, site.call, site.nop, site.place, site.aliases)
