"""What is told of files and their sites, as plain values: how it looks is decided elsewhere.

A document is made of dicts, lists, strings, numbers and None, as the schemas beside this file have
it. Other commands build their own of the same parts.
"""

from __future__ import annotations

from recordmcount import x86
from recordmcount.elf import object as elf
from recordmcount.elf import segments
from recordmcount.errors import FormatError
from recordmcount.sites.evidence import RELOCATION, TABLE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    from recordmcount.elf.object import Object
    from recordmcount.errors import Error
    from recordmcount.sites.site import Site, SiteTable

    from .shapes import Identity, Place, Report, ReportedError, ReportedFile, ReportedSite

VERSION = 1

# An executable that can be loaded anywhere is a shared object that says so (since glibc 2.26).
DT_FLAGS_1, DF_1_PIE = 0x6FFFFFFB, 0x08000000


def report(files: list[ReportedFile], errors: list[Error]) -> Report:
    """Make the document of one run."""
    told: list[ReportedError] = [{"path": error.path, "message": str(error)} for error in errors]
    return {"version": VERSION, "files": files, "errors": told}


def of_file(obj: Object, sites: SiteTable) -> ReportedFile:
    """Tell of one file."""
    return {
        **identity(obj),
        "has_table": sites.has_table,
        "no_evidence": getattr(sites, "no_evidence", "") or None,
        "dead_entries": sites.dead,
        "repeated_entries": sites.repeated,
        "sites": list(map(of_site, sites)),
    }


def of_site(site: Site) -> ReportedSite:
    """Tell of one site."""
    return {
        **place(site),
        "bytes": site.code.hex(),
        "state": site.state,
        "recorded": site.recorded,
        "evidence": site.evidence or (TABLE if site.recorded else RELOCATION),
        "reason": site.reason or None,
    }


def place(site: Site) -> Place:
    """Tell where a site is, and the form of its call."""
    where: Place = {
        "function": site.function,
        "function_offset": None if site.function is None else site.function_offset,
        "section": site.section,
    }
    where["offset" if site.in_object else "address"] = site.position
    where["kind"] = site.form or None
    return where


def identity(obj: Object) -> Identity:
    """Tell which file it is; FormatError for one that is neither an object nor linked."""
    bits: Literal[32, 64] = 64 if obj.layout.is_64 else 32
    is_i386 = obj.machine == x86.EM_386
    return {
        "path": obj.path,
        "type": _type(obj),
        "bits": bits,
        "machine": "i386" if is_i386 else "x86-64" if bits == 64 else "x32",
    }


def _type(obj: Object) -> Literal["object", "executable", "PIE", "shared object"]:
    if obj.type == elf.ET_REL:
        return "object"
    if obj.type == elf.ET_EXEC:
        return "executable"
    if obj.type == elf.ET_DYN:
        flags = obj.once(segments.LoadView).dynamic.get(DT_FLAGS_1, 0)
        return "PIE" if flags & DF_1_PIE else "shared object"
    raise FormatError(obj.path, "neither an object nor a linked file")
