"""A report as lines for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from recordmcount import mcount_loc
from recordmcount.console import printable
from recordmcount.elf.symbols import in_function
from recordmcount.mcount_loc import odd_entries
from recordmcount.sites.site import Site
from recordmcount.sites.state import State

from .document import FileReport

COLOURS = {State.CALL: "32", State.NOP: "2", State.FOREIGN: "31"}  # green, dim, red


def as_text(reports: Sequence[FileReport], *, colour: bool = False) -> Iterator[str]:
    """The lines of the text form: for each file a heading, aligned rows and a summary."""
    for number, report in enumerate(reports):
        if number:
            yield ""
        name = printable(report.path)
        yield f"{name}: {report.type}, ELF{report.bits} {report.machine}"
        yield from _table(report, colour)
        yield _summary(report)
    if len(reports) > 1:
        sites = [site for report in reports for site in report.sites]
        yield ""
        yield f"total: {len(reports)} files; {'; '.join(_counts(sites))}"


def _table(report: FileReport, colour: bool) -> Iterator[str]:
    """A heading and one line for each row; names stand last, where their length does no harm."""
    if not report.sites:
        return
    heading = (report.position, "state", "recorded", "kind", "bytes", "section", "function")
    lines = [heading, *map(_cells, report.sites)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    states = [None, *(site.state for site in report.sites)]
    for state, (position, *cells, function) in zip(states, lines, strict=True):
        padded = [cell.ljust(width) for cell, width in zip(cells, widths[1:-1], strict=True)]
        if colour and state:
            padded[0] = f"\033[{COLOURS[state]}m{padded[0]}\033[0m"
        yield "  ".join(("", position.rjust(widths[0]), *padded, function))


def _cells(site: Site) -> tuple[str, ...]:
    function = in_function(printable(site.function or "-"), site.function_offset)
    if site.reason:
        function += f"  ({site.reason})"
    return (
        f"{site.position:#x}", site.state, "yes" if site.recorded else "no", site.form or "-",
        site.code.hex(" ") or "-", printable(site.section), function,
    )  # fmt: skip


def _summary(report: FileReport) -> str:
    parts = _counts(report.sites) if report.sites or report.type == "object" else []
    if not report.has_table:
        parts.append(f"no {mcount_loc.NAME.decode()} table")
    elif not report.sites and not report.dead:
        parts.append("the table is empty")
    return "; ".join(parts + odd_entries(report.dead, report.repeated))


def _counts(sites: Sequence[Site]) -> list[str]:
    """How many sites there are, how many have an entry, and how many entries name no site."""
    states = Counter(site.state for site in sites)
    recorded = sum(site.recorded for site in sites if site.state is not State.FOREIGN)
    number = states[State.CALL] + states[State.NOP]
    each = ", ".join(f"{states[it]} {it}" for it in (State.CALL, State.NOP) if states[it])
    parts = [f"{number} site{'s' * (number > 1)}: {each}", f"{recorded} recorded"]
    if not number:
        parts = ["no sites"]
    if states[State.FOREIGN]:
        parts.append(f"{states[State.FOREIGN]} foreign")
    return parts
