"""Reads a module from its ELF file: identity, text, and the sites of its `__mcount_loc` table.

The table is read from the file, not from memory: when a loader announces an object, the object is
mapped but need not be relocated yet.
"""

import os
from collections.abc import Iterator, Sequence

from patcher.errors import CompareError
from recordmcount.elf import object as elf
from recordmcount.elf.notes import build_id
from recordmcount.elf.open import open_file, reader
from recordmcount.elf.segments import PF_X, PT_LOAD, LoadView
from recordmcount.sites import linked
from recordmcount.sites.site import Site
from recordmcount.x86 import ADDRESS_BITS

from .mappings import Range
from .modules import Identity, Module, Point


def read(path: str, bias: int = 0, names: Sequence[str] = ()) -> Module:
    """Read the module that the linked file `path` becomes when loaded with load bias `bias`.

    `names` are further names of mcount. The module's text is the executable segments. Raises
    CompareError if a site is foreign or could not be turned off and on again, recordmcount's
    FormatError for a file of another type, a broken one or one without a table, or OSError.
    """
    fd = open_file(path)
    try:
        status = os.fstat(fd)
        obj = elf.Object(path, status.st_size, reader(fd))
        view = obj.once(LoadView)
        found = linked.read(obj, names)
        return Module(
            Identity(path, build_id(view), status.st_dev, status.st_ino, bias),
            tuple(_text(view, bias)),
            tuple(_point(obj, site, bias) for site in found),
            machine=obj.machine,
        )
    finally:
        os.close(fd)


def _text(view: LoadView, bias: int) -> Iterator[Range]:
    for segment in view.segments:
        if segment.type == PT_LOAD and segment.flags & PF_X and segment.filesz:
            start = _run_time_address(view.obj, segment.vaddr, bias)
            yield Range(start, start + segment.filesz)


def _run_time_address(obj: elf.Object, vaddr: int, bias: int) -> int:
    """Add in as many bits as addresses have."""
    return vaddr + bias & (1 << ADDRESS_BITS[obj.machine]) - 1


def _point(obj: elf.Object, site: Site, bias: int) -> Point:
    if site.call is None or site.nop is None:
        raise CompareError.of(obj.path, site, site.reason)
    address = _run_time_address(obj, site.position, bias)
    return Point(address, site.code, site.call, site.nop, site.place, site.aliases)
