"""The shapes of documents, for whoever reads them and for the type checker.

The schemas beside this file say the same to other programs. Nothing imports this at run time:
`typing` would take longer than most of what is told.
"""

from __future__ import annotations

from typing import Literal, NotRequired, Required, TypedDict

from recordmcount.sites.state import State


class Identity(TypedDict):
    """Which file it is."""

    path: str
    type: Literal["object", "executable", "PIE", "shared object"]
    bits: Literal[32, 64]
    machine: Literal["x86-64", "x32", "i386"]


class Place(TypedDict, total=False):
    """Where a site is: at a section `offset` in an object, else at a link-time `address`."""

    function: str | None
    demangled: str | None
    function_offset: int | None
    section: str
    offset: int
    address: int
    kind: str | None


class ReportedSite(Place):
    """A site as `recordmcount report` tells of it; `bytes` are in hexadecimal."""

    bytes: str
    state: State
    target: str | None
    recorded: bool
    evidence: str
    reason: str | None
    source: NotRequired[str | None]
    line: NotRequired[int | None]


class ReportedFile(Identity):
    """A file, or a member of an archive, and all its sites.

    `no_evidence` tells why calls could not be found in a linked file. Where not all are shown,
    `total_sites` and `total_untraceable` say how many there are, and `idle` are globs that are like
    no function with a site.
    """

    has_table: bool
    no_evidence: str | None
    dead_entries: int
    repeated_entries: int
    sites: list[ReportedSite]
    total_sites: NotRequired[int]
    untraceable: NotRequired[list[UntraceableFunction]]
    total_untraceable: NotRequired[int]
    idle: NotRequired[tuple[str, ...]]


class UntraceableFunction(TypedDict, total=False):
    """A function without a site; one that exists in inlined copies alone is nowhere."""

    function: Required[str]
    demangled: str | None
    section: Required[str | None]
    offset: int
    address: int
    reason: Required[str]
