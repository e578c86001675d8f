"""A report as lines for people: 80 columns are enough, but for long names."""

from __future__ import annotations

from collections import Counter
from itertools import groupby
from operator import itemgetter

from recordmcount.console import Painted, printable
from recordmcount.help import wrapped
from recordmcount.sites.evidence import ALL, is_likely
from recordmcount.sites.state import STATES, State
from recordmcount.sites.words import in_function, no_table, odd_entries, sites_in_words
from recordmcount.x86 import RETURN

from .names import shown
from .tally import Tally

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .shapes import ReportedFile, ReportedSite, UntraceableFunction

COLOURS = {State.CALL: "32", State.NOP: "2", State.FOREIGN: "31"}  # green, dim, red
WIDTH = 80  # columns
COLUMNS = ("site", "entry", "bytes", "function")  # behind the position


def lines(file: ReportedFile, *, colour: bool = False) -> Iterator[str | Painted]:
    """Tell of one file: a heading, the sites by section, functions without one, and a summary."""
    yield f"{printable(file['path'])}: {file['type']}, ELF{file['bits']} {file['machine']}"
    yield from _table(file, colour)
    yield from _untraceable(file)
    tally = Tally()
    tally.add(file)
    yield from _parts(_summary(file, tally))


def total(tally: Tally, skipped: int, *, is_filtered: bool) -> Iterator[str]:
    """Tell what all files have together; `skipped` files of folders were no such files."""
    files = f"total: {tally.files} file{'s' * (tally.files != 1)}"
    parts = [files, *_counts(tally, is_filtered=is_filtered)]
    if tally.failed:
        parts.append(f"{tally.failed} could not be read")
    if skipped:
        parts.append(f"{skipped} of other sorts skipped")
    yield from _parts(parts)


def _parts(parts: Sequence[str]) -> Iterator[str]:
    """Join parts to lines."""
    line = ""
    for part in parts:
        if line and len(line) + 2 + len(part) > WIDTH:
            yield f"{line};"
            line = f"  {part}"
        else:
            line = f"{line}; {part}" if line else part
    first, *others = wrapped(line, WIDTH)
    yield first
    yield from (f"  {other}" for other in others)


# --- sites ----------------------------------------------------------------------------------------


def _table(file: ReportedFile, colour: bool) -> Iterator[str | Painted]:
    """Lay out a heading and rows by section; names stand last, where their length does no harm."""
    if not file["sites"]:
        return
    position = "offset" if file["type"] == "object" else "address"
    heading = (position, *COLUMNS)
    widths = [*map(max, zip(map(len, heading), _widths(file["sites"]), strict=False))]
    layout = _layout(widths)
    yield layout.format(*heading)
    for section, group in groupby(file["sites"], key=itemgetter("section")):
        yield f"  {printable(section)}"
        for site in group:
            cells = _cells(site)
            yield from _row(site, cells, layout.format(*cells), 6 + widths[0] if colour else None)


def _widths(sites: Sequence[ReportedSite]) -> list[int]:
    """Tell how wide the cells are, but for the last ones, without making them all."""
    sorts = {(site["state"], site["kind"]): site for site in sites}
    return [
        len(f"{max(map(_position, sites)):#x}"),
        max(len(_site(site)) for site in sorts.values()),
        len("yes"),
        max(len(site["bytes"] or "-") for site in sites),
    ]


def _layout(widths: Sequence[int]) -> str:
    """Make what `format` lays cells out by: one of each width, and the last as long as it is."""
    first, *rest = widths
    return "  ".join((f"  {{:>{first + 2}}}", *(f"{{:<{width}}}" for width in rest), "{}"))


def _row(
    site: ReportedSite, cells: Sequence[str], line: str, painted: int | None
) -> Iterator[str | Painted]:
    """Give the line of a site; what does not fit behind its function follows below.

    `painted` is where its state stands in the line, if that is to be in colour.
    """
    below: list[str] = []
    for more in _remarks(site):
        if len(line) + 2 + len(more) <= WIDTH and not below:
            line = f"{line}  {more}"
        else:
            below += wrapped(more, WIDTH - 8)
    if painted is not None:
        word = cells[1]
        behind = line[painted + len(word) :]
        yield Painted(line[:painted], word, behind, COLOURS[site["state"]])
    else:
        yield line
    yield from (f"        {each}" for each in below)


def _remarks(site: ReportedSite) -> Iterator[str]:
    if site["target"] == RETURN:
        yield "(where it returns)"
    if source := site.get("source"):
        yield f"{printable(source)}:{site.get('line')}"
    if site["reason"]:
        yield f"({site['reason']})"
    if is_likely(site["evidence"]):
        yield f"({site['evidence']})"


def _cells(site: ReportedSite) -> tuple[str, ...]:
    return (
        f"{_position(site):#x}", _site(site), "yes" if site["recorded"] else "no",
        site["bytes"] or "-",
        in_function(printable(shown(site) or "-"), site["function_offset"] or 0),
    )  # fmt: skip


def _position(site: ReportedSite) -> int:
    return site["offset"] if "offset" in site else site["address"]


def _site(site: ReportedSite) -> str:
    """Tell the state and, where it is not the usual one, the form of the call."""
    state, kind = site["state"], site["kind"] or ""
    if kind in ("", "call"):
        return state
    return kind if state == State.CALL else f"{state} {kind}"


# --- functions without a site ---------------------------------------------------------------------


def _untraceable(file: ReportedFile) -> Iterator[str]:
    """List the functions without a site, by reason."""
    by_reason: dict[str, list[UntraceableFunction]] = {}
    for function in file.get("untraceable", ()):
        by_reason.setdefault(function["reason"], []).append(function)
    for reason, functions in by_reason.items():
        first, *others = wrapped(f"without a site: {reason}", WIDTH - 4)
        yield f"  {first}"
        yield from (f"    {other}" for other in others)
        yield from (f"    {printable(shown(each) or '')}{_place(each)}" for each in functions)


def _place(function: UntraceableFunction) -> str:
    if "offset" in function:
        return f" ({printable(function['section'] or '')}+{function['offset']:#x})"
    return f" ({function['address']:#x})" if "address" in function else ""


# --- summaries ------------------------------------------------------------------------------------


def _summary(file: ReportedFile, tally: Tally) -> list[str]:
    is_filtered = "total_sites" in file
    is_known = is_filtered or file["sites"] or file["type"] == "object" or not file["has_table"]
    parts = _counts(tally, is_filtered=is_filtered) if is_known else []
    parts += _evidence(file)
    if not file["has_table"]:
        in_object = file["type"] == "object"
        parts.append(no_table(in_object=in_object, has_calls=bool(tally.total)))
    elif not tally.total and not file["dead_entries"]:
        parts.append("the table is empty")
    parts += odd_entries(file["dead_entries"], file["repeated_entries"])
    if "total_untraceable" in file:
        number = f"{len(file['untraceable'])} of {file['total_untraceable']}"
        parts.append(f"{number} functions without a site shown")
    return parts


def _evidence(file: ReportedFile) -> list[str]:
    """Tell how sites of a linked file without an entry are known, or why there may be others."""
    if file["no_evidence"]:
        return [f"no evidence{' of others' * file['has_table']}: {file['no_evidence']}"]
    found = [site["evidence"] for site in file["sites"] if not site["recorded"]]
    if file["type"] == "object" or not found:
        return []
    numbers = Counter(found)
    return ["found by " + ", ".join(f"{how} ({numbers[how]})" for how in ALL if numbers[how])]


def _counts(tally: Tally, *, is_filtered: bool) -> list[str]:
    """Tell how many sites there are, how many have an entry, and how many entries name no site."""
    counted = tally.sites
    states = {state: counted[state, True] + counted[state, False] for state in STATES}
    recorded = counted[State.CALL, True] + counted[State.NOP, True]
    number = states[State.CALL] + states[State.NOP]
    each = ", ".join(f"{states[it]} {it}" for it in (State.CALL, State.NOP) if states[it])
    if is_filtered:
        shown_of = f"{sum(states.values())} of {sites_in_words(tally.total)} shown"
        parts = [f"{shown_of}: {each}", f"{recorded} recorded"] if number else [shown_of]
    elif number:
        parts = [f"{sites_in_words(number)}: {each}", f"{recorded} recorded"]
    else:
        parts = ["no sites"]
    if states[State.FOREIGN]:
        parts.append(f"{states[State.FOREIGN]} foreign")
    return parts
