"""The shapes of patcher's documents, for whoever reads them and for the type checker.

`patcher.schema.json` beside this file says the same to other programs. Nothing imports this at run
time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NotRequired, TypedDict

from recordmcount.report.shapes import Identity, Place
from recordmcount.sites.state import State


class FoundSite(Place):
    """A site as `patcher status` tells of it; bytes are in hexadecimal."""

    bytes: str
    state: State
    reason: str | None
    expected: list[str]
    decoded: str | None


class Types(TypedDict):
    """The type of a call's relocation, before and after."""

    old: str
    new: str


class ChangedSite(Place):
    """A site that changes; bytes are in hexadecimal."""

    old: str
    new: str
    relocation: Types | None


class Examined(Identity):
    """A file that was looked at."""

    dead_entries: int
    repeated_entries: int
    states: dict[str, int]
    sites: list[FoundSite]


class Switched(Identity):
    """A file that is changed."""

    dead_entries: int
    repeated_entries: int
    written: str | None
    already: int
    changes: list[ChangedSite]


class Loaded(Identity):
    """A file that a process has loaded; addresses of its sites are run-time addresses."""

    dead_entries: int
    repeated_entries: int
    build_id: str | None
    device: str
    inode: int
    load_address: int
    load_bias: int


class ExaminedModule(Loaded):
    """A loaded file that was looked at."""

    states: dict[str, int]
    sites: list[FoundSite]


class SwitchedModule(Loaded):
    """A loaded file whose sites are changed."""

    already: int
    changes: list[ChangedSite]


class WatchedModule(Loaded):
    """A loaded file that is watched: how many of its sites are in each state."""

    states: dict[str, int]


class GoneModule(WatchedModule):
    """A file that was loaded; `gone` is the time of the first look that did not find it."""

    gone: str


class TraceOfProcess(TypedDict):
    """A trace that sites of a process are in: how many, and by which patcher."""

    sites: int
    state: str
    pid: int | None
    name: str | None


class WatchedProcess(TypedDict):
    """A process that is watched: what it has loaded, and what it had, the last first.

    `forgotten` counts those that went before.
    """

    pid: int
    name: str
    trace: TraceOfProcess | None
    modules: list[WatchedModule]
    gone: list[GoneModule]
    forgotten: int


class Process(TypedDict):
    """A process, and its loaded files that have sites; `trace` if it was looked at."""

    pid: int
    name: str
    trace: NotRequired[TraceOfProcess | None]
    modules: Sequence[ExaminedModule] | Sequence[SwitchedModule]
