"""The calls of a linked file that its code proves, whatever its tables say.

A scan finds them by what leads to mcount (`scan`). In a kernel without a symbol table, where too
little is left for that, they are the calls with which functions begin, by the symbols that it
carries for itself.
"""

from __future__ import annotations

from _bisect import bisect_left

from recordmcount.elf.segments import LoadView
from recordmcount.x86 import ENDBR

from . import evidence, kernel_table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from recordmcount.elf.object import Object

    from .linked import LinkedSites
    from .linked_code import LinkedCode
    from .scan import FoundSites
    from .site import Site

ENDBR_SIZE = len(ENDBR[0])  # bytes


class Scanned:
    """The calls that a scan proves: `positions` are their addresses, ascending.

    `no_evidence` says why there may be more that cannot be found.
    """

    def __init__(self, sites: FoundSites) -> None:
        self._sites = sites
        self.no_evidence = sites.no_evidence
        # What is only likely proves nothing, and patchable entries have a table of their own.
        self.positions = [vaddr for vaddr in sites.proven if vaddr not in sites.prefixed]

    def site(self, vaddr: int) -> Site:
        """Return the site at a link-time virtual address, which must be one's."""
        return self._sites[bisect_left(self._sites.vaddrs, vaddr)]

    def table(self, vaddrs: Sequence[int]) -> tuple[FoundSites, Sequence[int]]:
        """Return a table that has the sites at ascending `vaddrs`, and their numbers in it."""
        return self._sites, [bisect_left(self._sites.vaddrs, vaddr) for vaddr in vaddrs]


class Begun:
    """As Scanned, of a kernel without a symbol table; `sites` are those that its table names."""

    no_evidence = ""

    def __init__(self, obj: Object, sites: LinkedSites) -> None:
        self._sites = sites
        starts = sites.code.beginnings()
        view = obj.once(LoadView)
        self.positions = sorted(
            vaddr
            for vaddr in kernel_table.calls(view, [*sites.targets])
            if vaddr in starts or _is_behind_endbr(sites.code, vaddr, starts)
        )

    def site(self, vaddr: int) -> Site:
        """Return the site at a link-time virtual address, which must be one's."""
        return self._sites.unnamed([vaddr], evidence.DIRECT)[0]

    def table(self, vaddrs: Sequence[int]) -> tuple[LinkedSites, Sequence[int]]:
        """Return a table that has the sites at ascending `vaddrs`, and their numbers in it."""
        return self._sites.unnamed(vaddrs, evidence.DIRECT), range(len(vaddrs))


def _is_behind_endbr(code: LinkedCode, vaddr: int, starts: set[int]) -> bool:
    start = vaddr - ENDBR_SIZE
    return start in starts and code.some(start, ENDBR_SIZE) in ENDBR
