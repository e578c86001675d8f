"""One thing that is wrong, and what was found of a file in all; plain values are made of it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from recordmcount import x86
from recordmcount.elf.object import ROW

TYPE_CHECKING = False
if TYPE_CHECKING:
    from recordmcount.elf.object import Object

    from .rules import Rule

# An entry so many bytes before a site was meant for it: for the function, whose endbr that is.
MOST_BEFORE = 4


class Finding(NamedTuple):
    """What is wrong, by a rule, and where.

    `position` is a section offset in objects, else a link-time virtual address, and `function` the
    function there, of which it is `function_offset` bytes into. `table` and `entry` are the name of
    a table, and the offset in bytes of the entry that is wrong. What is not known, or has no place,
    is None.
    """

    rule: Rule
    message: str
    section: str | None = None
    position: int | None = None
    function: str | None = None
    function_offset: int | None = None
    table: str | None = None
    entry: int | None = None


class Found:
    """What was found of one file.

    `sites` are those that a table names or should name, `entries` all words of tables, of which
    `dead` name nothing, by a 0 or -1, and of `unproven` nothing tells what stands there: too few
    symbols are left. `no_evidence` says why calls could not be found, if that is so.
    """

    def __init__(self, obj: Object) -> None:
        self._budget = obj.budget
        self.findings: list[Finding] = []
        self.has_table = False
        self.sites = 0
        self.entries = 0
        self.dead = 0
        self.unproven = 0
        self.no_evidence = ""

    def add(self, findings: Iterable[Finding]) -> None:
        """Add findings, each after it was paid for.

        Raises FormatError where there is too much to tell of a file of this size.
        """
        for each in findings:
            self._budget.tell(each.function or "", each.section or "", each.message, more=ROW)
            self.findings.append(each)


def off(
    position: int,
    sites: Sequence[int],
    length: Callable[[int], int],
    is_free: Callable[[int], bool],
) -> int | None:
    """Tell which site an entry was meant for that names `position`, and is off by some bytes.

    `sites` are the positions of all, ascending; `length` tells how many bytes one has, `is_free`
    whether no entry names it. Returns the site's position; None if there is none so near.
    """
    number = bisect_left(sites, position)
    if number < len(sites) and sites[number] - position <= MOST_BEFORE and is_free(sites[number]):
        return sites[number]
    for site in reversed(sites[max(0, number - x86.LONGEST_SITE) : number]):
        if position < site + length(site):
            return site
        if position - site >= x86.LONGEST_SITE:
            break
    return None


def off_by(position: int, site: int) -> str:
    """Say how far off a position is."""
    number = abs(position - site)
    what = "byte" if number == 1 else "bytes"
    return f"{number} {what} {'into' if position > site else 'before'}"
