"""The functions of a file that have no call site, each with the reason as far as it is known."""

from __future__ import annotations

from recordmcount import x86
from recordmcount.elf import object as elf
from recordmcount.elf.symbols import Functions

from .reasons import Reason, Reasons

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from recordmcount.elf.object import Object

    from .shapes import ReportedSite, UntraceableFunction
    from .sources import Debug


def functions(
    obj: Object, sites: Sequence[ReportedSite], debug: Debug, names: Sequence[str] = ()
) -> list[UntraceableFunction]:
    """List the functions without a site. Raises FormatError where that is too much to tell."""
    position = "offset" if obj.type == elf.ET_REL else "address"
    traced = {
        (site["section"], site[position] - (site["function_offset"] or 0))  # type: ignore[literal-required]
        for site in sites
        if site["target"] != x86.RETURN
    }
    reasons = Reasons(obj, debug.object, names)
    found = list(_without_site(obj, traced, position, reasons))
    named = {each["function"] for each in found} | {site["function"] for site in sites}
    found += [
        {"function": name, "section": None, "reason": Reason.INLINED}
        for name in reasons.inlined()
        if name not in named
    ]
    for each in found:
        obj.budget.tell(each["function"], each["section"] or "", each["reason"], more=64)
    return found


def _without_site(
    obj: Object, traced: set[tuple[str, int]], position: str, reasons: Reasons
) -> Iterator[UntraceableFunction]:
    for index, start, name in Functions(obj).listed():
        if not 0 < index < len(obj.headers):
            continue
        section = obj.section(index)
        if section.flags & elf.SHF_EXECINSTR and (section.name, start) not in traced:
            row: UntraceableFunction = {
                "function": name, "section": section.name, "reason": reasons.of(name, start),
            }  # fmt: skip
            row[position] = start  # type: ignore[literal-required]
            yield row
