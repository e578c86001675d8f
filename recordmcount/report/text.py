"""A report as lines for people."""

from __future__ import annotations

from collections import Counter

from recordmcount import mcount_loc
from recordmcount.console import printable
from recordmcount.sites.evidence import ALL
from recordmcount.sites.state import STATES, State
from recordmcount.sites.words import in_function, odd_entries, sites_in_words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from .shapes import ReportedFile, ReportedSite

COLOURS = {State.CALL: "32", State.NOP: "2", State.FOREIGN: "31"}  # green, dim, red


def lines(files: Sequence[ReportedFile], *, colour: bool = False) -> Iterator[str]:
    """Give the lines of a report: for each file a heading, aligned rows and a summary."""
    for number, file in enumerate(files):
        if number:
            yield ""
        yield f"{printable(file['path'])}: {file['type']}, ELF{file['bits']} {file['machine']}"
        yield from _table(file, colour)
        yield _summary(file)
    if len(files) > 1:
        counts = _counts(site for file in files for site in file["sites"])
        yield ""
        yield f"total: {len(files)} files; {'; '.join(counts)}"


def _table(file: ReportedFile, colour: bool) -> Iterator[str]:
    """Lay out a heading and rows; names stand last, where their length does no harm."""
    if not file["sites"]:
        return
    position = "offset" if file["type"] == "object" else "address"
    heading = (position, "state", "recorded", "kind", "bytes", "section", "function")
    rows = [heading, *map(_cells, file["sites"])]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    states = [None, *(site["state"] for site in file["sites"])]
    for state, (first, *cells, function) in zip(states, rows, strict=True):
        padded = [cell.ljust(width) for cell, width in zip(cells, widths[1:-1], strict=True)]
        if colour and state:
            padded[0] = f"\033[{COLOURS[state]}m{padded[0]}\033[0m"
        yield "  ".join(("", first.rjust(widths[0]), *padded, function))


def _cells(site: ReportedSite) -> tuple[str, ...]:
    function = in_function(printable(site["function"] or "-"), site["function_offset"] or 0)
    if site["reason"]:
        function += f"  ({site['reason']})"
    position = site["offset"] if "offset" in site else site["address"]
    return (
        f"{position:#x}", site["state"], "yes" if site["recorded"] else "no", site["kind"] or "-",
        bytes.fromhex(site["bytes"]).hex(" ") or "-", printable(site["section"]), function,
    )  # fmt: skip


def _summary(file: ReportedFile) -> str:
    is_known = file["sites"] or file["type"] == "object" or not file["has_table"]
    parts = _counts(file["sites"]) if is_known else []
    if not file["has_table"]:
        parts += _evidence(file)
        parts.append(f"no {mcount_loc.NAME.decode()} table")
    elif not file["sites"] and not file["dead_entries"]:
        parts.append("the table is empty")
    return "; ".join(parts + odd_entries(file["dead_entries"], file["repeated_entries"]))


def _evidence(file: ReportedFile) -> list[str]:
    """Tell how the sites of a linked file without a table are known, or why none are."""
    if file["no_evidence"]:
        return [f"no evidence: {file['no_evidence']}"]
    if file["type"] == "object" or not file["sites"]:
        return []
    numbers = Counter(site["evidence"] for site in file["sites"])
    return ["found by " + ", ".join(f"{how} ({numbers[how]})" for how in ALL if numbers[how])]


def _counts(sites: Iterable[ReportedSite]) -> list[str]:
    """Tell how many sites there are, how many have an entry, and how many entries name no site."""
    states = dict.fromkeys(STATES, 0)
    recorded = 0
    for site in sites:
        states[site["state"]] += 1
        recorded += site["recorded"] and site["state"] is not State.FOREIGN
    number = states[State.CALL] + states[State.NOP]
    each = ", ".join(f"{states[it]} {it}" for it in (State.CALL, State.NOP) if states[it])
    parts = [f"{sites_in_words(number)}: {each}", f"{recorded} recorded"]
    if not number:
        parts = ["no sites"]
    if states[State.FOREIGN]:
        parts.append(f"{states[State.FOREIGN]} foreign")
    return parts
