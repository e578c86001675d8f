"""Findings as lines for people: by file, then by rule, each with what to do about it."""

from __future__ import annotations

from collections import defaultdict
from textwrap import wrap

from recordmcount.console import printable
from recordmcount.sites.words import in_function, sites_in_words

from .rules import BY_ID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from .shapes import VerifiedFile, VerifiedFinding

WIDTH = 80  # columns
NOTHING = "no call of mcount and no table: nothing to verify"


class Total:
    """What was verified in all; files and members of archives are counted alike."""

    def __init__(self) -> None:
        self.files = 0
        self.wrong = 0  # files with findings
        self.idle = 0  # without table and calls
        self.unknown = 0  # of which nothing tells whether there are calls
        self.sites = 0
        self.entries = 0
        self.unproven = 0
        self.skipped = 0  # files of folders that are of other sorts

    def add(self, file: VerifiedFile) -> None:
        """Count a file."""
        self.files += 1
        self.wrong += bool(file["findings"])
        self.unknown += is_unknown(file)
        self.idle += is_idle(file)
        self.sites += file["sites"]
        self.entries += file["entries"]
        self.unproven += file["unproven_entries"]

    def __str__(self) -> str:
        clean = self.files - self.wrong - self.idle - self.unknown
        counts = (
            (self.wrong, "with findings"), (clean, "clean"), (self.idle, "with nothing to verify"),
            (self.unknown, "without evidence"),
        )  # fmt: skip
        told = ", ".join(f"{number} {what}" for number, what in counts if number)
        files = f"{self.files} file{'s' * (self.files != 1)}"
        unproven = f", {self.unproven} unproven" if self.unproven else ""
        skipped = f"; {self.skipped} of other sorts skipped" if self.skipped else ""
        front = ": ".join(filter(None, (f"total: {files}", told)))
        return f"{front}; {_counts(self.sites, self.entries)}{unproven}{skipped}"


def is_idle(file: VerifiedFile) -> bool:
    """Tell whether a file has neither calls nor a table, as far as that can be known."""
    return not (file["has_table"] or file["sites"] or file["no_evidence"])


def is_unknown(file: VerifiedFile) -> bool:
    """Tell whether nothing tells of a file without a table if it has calls."""
    return bool(file["no_evidence"])


def lines(files: Iterable[VerifiedFile], *, one: bool, total: Total) -> Iterator[str]:
    """Give the lines of each file; unless there is but `one`, no word of what is clean.

    All are counted in `total`.
    """
    for file in files:
        total.add(file)
        if file["findings"]:
            yield from _wrong(file)
        elif one or file["unproven_entries"]:
            yield f"{file['path']}: {_good(file)}"


def _good(file: VerifiedFile) -> str:
    if file["no_evidence"]:
        return f"no evidence: {file['no_evidence']}"
    if is_idle(file):
        return NOTHING
    told = f"clean: {_counts(file['sites'], file['entries'])}"
    if file["dead_entries"]:
        told += f", {file['dead_entries']} dead"
    if file["unproven_entries"]:
        told += f", {file['unproven_entries']} unproven: nothing tells what is called there"
    return told


def _counts(sites: int, entries: int) -> str:
    return f"{sites_in_words(sites)}, {entries} {'entry' if entries == 1 else 'entries'}"


def _wrong(file: VerifiedFile) -> Iterator[str]:
    number = len(file["findings"])
    what = f"{number} finding{'s' * (number != 1)}"
    yield f"{file['path']}: {what}; {_counts(file['sites'], file['entries'])}"
    by_rule: dict[str, list[VerifiedFinding]] = defaultdict(list)
    for finding in file["findings"]:
        by_rule[finding["rule"]].append(finding)
    for rule, findings in by_rule.items():
        yield from _folded(f"  {rule}: ", BY_ID[rule].what)
        yield from _rows([(*_cells(finding), finding["message"]) for finding in findings])
        yield from _folded("    fix: ", BY_ID[rule].fix)


def _folded(begin: str, text: str) -> list[str]:
    return wrap(text, WIDTH, initial_indent=begin, subsequent_indent=" " * len(begin))


def _rows(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    for *cells, message in rows:
        padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True) if width]
        yield "  ".join(("   ", *padded, message)).replace("     ", "    ", 1)


def _cells(finding: VerifiedFinding) -> tuple[str, str, str]:
    function = finding["function"]
    inside = printable(function) if function is not None else ""
    if function is not None:
        inside = in_function(inside, finding["function_offset"] or 0)
    entry = finding["entry"]
    return (
        place(finding),
        inside,
        f"{printable(entry['table'])}+{entry['offset']:#x}" if entry else "",
    )


def place(finding: VerifiedFinding) -> str:
    """Say where a finding is: `.text+0x10` in an object, `.text:0x401000` in a linked file."""
    section = printable(finding["section"] or "")
    if "offset" in finding:
        return f"{section}{'-' if finding['offset'] < 0 else '+'}{abs(finding['offset']):#x}"
    if "address" in finding:
        return f"{section}:{finding['address']:#x}" if section else f"{finding['address']:#x}"
    return section


def sentence(finding: VerifiedFinding) -> str:
    """Say all of one finding in one line: where, what, and how it is mended."""
    at, function, entry = _cells(finding)
    rule = BY_ID[finding["rule"]]
    where = " ".join(filter(None, (at, f"({function})" if function else "")))
    told = ": ".join(filter(None, (where, rule.what, finding["message"])))
    return f"{told}{f' (entry {entry})' if entry else ''}. {rule.fix}"
