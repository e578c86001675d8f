"""The shapes of documents, for whoever reads them and for the type checker; as report.shapes."""

from __future__ import annotations

from typing import TypedDict

from recordmcount.report.shapes import Identity


class Unreadable(TypedDict):
    """What could not be read, and why."""

    path: str
    message: str


class Word(TypedDict):
    """An entry: the name of its table, and the offset therein in bytes."""

    table: str
    offset: int


class VerifiedFinding(TypedDict, total=False):
    """What is wrong, by the id of a rule.

    It is at a section `offset` in an object, else at a link-time `address`, if it is in one place.
    """

    rule: str
    message: str
    section: str | None
    offset: int
    address: int
    function: str | None
    function_offset: int | None
    entry: Word | None


class VerifiedFile(Identity):
    """A file, or a member of the archive `file`, and all that is wrong with its tables."""

    file: str
    has_table: bool
    no_evidence: str | None
    sites: int
    entries: int
    dead_entries: int
    unproven_entries: int
    findings: list[VerifiedFinding]


class VerifiedRule(TypedDict):
    """A rule that findings name: what it says, and how to mend it."""

    what: str
    fix: str


class Verification(TypedDict):
    """All that one run has to tell."""

    version: int
    rules: dict[str, VerifiedRule]
    files: list[VerifiedFile]
    errors: list[Unreadable]
    skipped: int
