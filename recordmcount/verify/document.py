"""What is told of a file, as plain values: how it looks is decided elsewhere."""

from __future__ import annotations

from recordmcount.elf import object as elf
from recordmcount.report.document import identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from recordmcount.elf.object import Object

    from .finding import Finding, Found
    from .shapes import Unreadable, Verification, VerifiedFile, VerifiedFinding, VerifiedRule

VERSION = 1


def of_file(obj: Object, path: str, found: Found) -> VerifiedFile:
    """Tell of one file, or member of the archive at `path`."""
    is_member = obj.path.startswith(f"{path}(")
    return {
        **identity(obj),
        "file": path if is_member else obj.path,
        "has_table": found.has_table,
        "no_evidence": found.no_evidence or None,
        "sites": found.sites,
        "entries": found.entries,
        "dead_entries": found.dead,
        "unproven_entries": found.unproven,
        "findings": [_finding(each, in_object=obj.type == elf.ET_REL) for each in found.findings],
    }


def _finding(finding: Finding, *, in_object: bool) -> VerifiedFinding:
    told: VerifiedFinding = {
        "rule": finding.rule.id,
        "message": finding.message,
        "section": finding.section,
    }
    if finding.position is not None:
        told["offset" if in_object else "address"] = finding.position
    told["function"] = finding.function
    told["function_offset"] = finding.function_offset
    told["entry"] = None
    if finding.table is not None and finding.entry is not None:
        told["entry"] = {"table": finding.table, "offset": finding.entry}
    return told


def verification(
    files: Sequence[VerifiedFile], errors: Sequence[Unreadable], skipped: int
) -> Verification:
    """Make the document of one run, with the rules that its findings name.

    `skipped` is how many files of folders are of no sort that is verified.
    """
    from .rules import RULES

    named = {finding["rule"] for file in files for finding in file["findings"]}
    told: dict[str, VerifiedRule] = {
        rule.id: {"what": rule.what, "fix": rule.fix} for rule in RULES if rule.id in named
    }
    return {
        "version": VERSION,
        "rules": told,
        "files": [*files],
        "errors": [*errors],
        "skipped": skipped,
    }
