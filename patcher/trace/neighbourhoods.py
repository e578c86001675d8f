"""Which region of a process each module calls into: one that is there, or one that is to be."""

from __future__ import annotations

from collections.abc import Sequence

from patcher.ftrace.mappings import Range
from patcher.process.maps import growing_down
from patcher.process.memory import ProcessMemory
from patcher.process.pages import PAGE
from patcher.process.places import REACH, gaps, places
from patcher.process.proc import Proc
from patcher.process.regions import NOBODY, Region

from .code import pages_of
from .trampoline import Threads


def choose(
    proc: Proc,
    memory: ProcessMemory,
    groups: Sequence[Range],
    known: Sequence[Region],
    threads: Threads,
    stubs: int,
) -> list[Region]:
    """Choose a region for each group of code, the `known` ones first.

    Each has as many `stubs`, or more. Raises ReachError if there is no room for one.
    """
    chosen: list[Region | None] = [
        next((each for each in known if _serves(each, group, threads, stubs)), None)
        for group in groups
    ]
    missing = [group for group, region in zip(groups, chosen, strict=True) if region is None]
    size = pages_of(stubs) * PAGE
    free = gaps(memory.mappings(), heap=proc.stat().heap, stacks=growing_down(proc.read("smaps")))
    starts = iter(places(memory.path, free, missing, size + PAGE) if missing else ())
    return [region or _new(next(starts), size, threads, stubs) for region in chosen]


def _serves(region: Region, group: Range, threads: Threads, stubs: int) -> bool:
    """Tell whether a region can be used for code, and has what is needed."""
    is_near = region.code.end - REACH <= group.start and group.end <= region.code.start + REACH
    return (
        is_near and region.stubs >= stubs and region.is_locked == (threads.rseq is None)
        and (region.rseq, region.tid) == (threads.rseq or 0, threads.tid)
    )  # fmt: skip


def _new(start: int, size: int, threads: Threads, stubs: int) -> Region:
    code = Range(start, start + size)
    is_locked = threads.rseq is None
    return Region(code, stubs, threads.rseq or 0, threads.tid, is_locked, NOBODY)
