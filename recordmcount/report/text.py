"""A report as lines for people."""

from __future__ import annotations

from collections import Counter

from recordmcount.console import Painted, printable
from recordmcount.sites.evidence import ALL
from recordmcount.sites.state import STATES, State
from recordmcount.sites.words import in_function, no_table, odd_entries, sites_in_words

from .names import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .shapes import ReportedFile, ReportedSite

COLOURS = {State.CALL: "32", State.NOP: "2", State.FOREIGN: "31"}  # green, dim, red


def lines(files: Iterable[ReportedFile], *, colour: bool = False) -> Iterator[str | Painted]:
    """Give the lines of a report: for each file a heading, aligned rows and a summary."""
    number = 0
    total: Counter[tuple[State, bool]] = Counter()
    for number, file in enumerate(files, 1):
        if number > 1:
            yield ""
        yield f"{file['path']}: {file['type']}, ELF{file['bits']} {file['machine']}"
        yield from _table(file, colour)
        yield from _untraceable(file)
        counted = Counter((site["state"], site["recorded"]) for site in file["sites"])
        total += counted
        yield _summary(file, counted)
    if number > 1:
        yield ""
        yield f"total: {number} files; {'; '.join(_counts(total))}"


def _untraceable(file: ReportedFile) -> Iterator[str]:
    """List the functions without a site, by reason."""
    by_reason: dict[str, list[str]] = {}
    for function in file.get("untraceable", ()):
        section = printable(function["section"] or "")
        place = ""
        if "offset" in function:
            place = f" ({section}+{function['offset']:#x})"
        elif "address" in function:
            place = f" ({function['address']:#x})"
        by_reason.setdefault(function["reason"], []).append(function["function"] + place)
    for reason, functions in by_reason.items():
        yield f"  without a site: {reason}"
        yield from (f"    {function}" for function in functions)


def _table(file: ReportedFile, colour: bool) -> Iterator[str | Painted]:
    """Lay out a heading and rows; names stand last, where their length does no harm."""
    if not file["sites"]:
        return
    position = "offset" if file["type"] == "object" else "address"
    heading = (position, "state", "recorded", "kind", "bytes", "section", "function")
    rows = [heading, *map(_cells, file["sites"])]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    states = [None, *(site["state"] for site in file["sites"])]
    for state, (first, *cells, function) in zip(states, rows, strict=True):
        before = f"  {first.rjust(widths[0])}  "
        padded = [cell.ljust(width) for cell, width in zip(cells, widths[1:-1], strict=True)]
        behind = "  ".join(("", *padded[1:], function))
        if colour and state:
            yield Painted(before, padded[0], behind, COLOURS[state])
        else:
            yield f"{before}{padded[0]}{behind}"


def _cells(site: ReportedSite) -> tuple[str, ...]:
    function = in_function(printable(shown(site) or "-"), site["function_offset"] or 0)
    if source := site.get("source"):
        function += f"  {printable(source)}:{site.get('line')}"
    if site["reason"]:
        function += f"  ({site['reason']})"
    position = site["offset"] if "offset" in site else site["address"]
    return (
        f"{position:#x}", site["state"], "yes" if site["recorded"] else "no", site["kind"] or "-",
        bytes.fromhex(site["bytes"]).hex(" ") or "-", printable(site["section"]), function,
    )  # fmt: skip


def _summary(file: ReportedFile, counted: Counter[tuple[State, bool]]) -> str:
    is_known = file["sites"] or file["type"] == "object" or not file["has_table"]
    parts = _counts(counted) if is_known else []
    if not file["has_table"]:
        parts += _evidence(file)
        in_object = file["type"] == "object"
        parts.append(no_table(in_object=in_object, has_calls=bool(file["sites"])))
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


def _counts(counted: Counter[tuple[State, bool]]) -> list[str]:
    """Tell how many sites there are, how many have an entry, and how many entries name no site."""
    states = {state: counted[state, True] + counted[state, False] for state in STATES}
    recorded = counted[State.CALL, True] + counted[State.NOP, True]
    number = states[State.CALL] + states[State.NOP]
    each = ", ".join(f"{states[it]} {it}" for it in (State.CALL, State.NOP) if states[it])
    parts = [f"{sites_in_words(number)}: {each}", f"{recorded} recorded"]
    if not number:
        parts = ["no sites"]
    if states[State.FOREIGN]:
        parts.append(f"{states[State.FOREIGN]} foreign")
    return parts
