"""The sites of a linked file that has a `__return_loc`: calls of `__return__`, where functions end.

They are proven as calls of mcount are (`linked`), each table by the names of its own function: a
program may well have one function for both.

gcc -minstrument-return=nop5 leaves one NOP of 5 bytes instead of a call. Mostly the file does not
tell which function that would call, for nothing else names it: then it is a sled.
"""

from __future__ import annotations

from recordmcount import x86
from recordmcount.x86_functions import ends_function

from . import tables
from .boundaries import Boundaries
from .decoder import RELOCATED
from .linked import Image
from .sleds import Sled, Sleds
from .state import State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from recordmcount.elf.object import Object

    from .linked import LinkedSites

LONGEST_END = x86.LONGEST_INSTRUCTION  # bytes of what may stand behind a site


def read(obj: Object) -> Sequence[LinkedSites | Sleds]:
    """Find the return sites that the tables of a linked file name; none if it has no such table.

    Raises FormatError where an entry names no code that is loaded from the file.
    """
    found = obj.once(tables.find_returns) if obj.headers else []
    if not found:
        return []
    sites = Image.of_tables(obj, [x86.RETURN_NAME], found).sites_of(found)
    nops = _nops(sites)
    if not nops:
        return [sites]
    sleds = {vaddr: Sled(x86.NOP5, form=x86.CALL.name) for vaddr in nops}
    return [sites, Sleds(sites.code, sleds, target=x86.RETURN)]


def _nops(sites: LinkedSites) -> list[int]:
    """List the sites that are a NOP of gcc's of which no call is known."""
    found = []
    for number in sites.where(range(len(sites)), State.FOREIGN):
        vaddr = sites.vaddrs[number]
        behind = sites.code.some(vaddr + len(x86.NOP5), LONGEST_END)
        is_nop = sites.codes[number] == x86.NOP5 and ends_function(behind)
        if is_nop and sites.alone(number).reason != RELOCATED:
            found.append(vaddr)
    doubtful: set[int] = set()
    boundaries = Boundaries(sites.code)
    for numbers, start, text in sites.code.pieces(found):
        some = found[numbers.start : numbers.stop]
        doubtful.update(some[index] for index, _ in boundaries.doubtful(some, start, text))
    return [vaddr for vaddr in found if vaddr not in doubtful]
