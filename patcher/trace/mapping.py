"""What is mapped into a traced process, by system calls that one of its threads makes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from enum import IntEnum, IntFlag
from typing import NamedTuple

from patcher.errors import StateError
from patcher.ftrace.mappings import Range
from patcher.process.pages import PAGE
from patcher.process.proc import Proc
from patcher.process.regions import RINGS, Region
from patcher.process.remote_calls import RemoteCalls

from .own_memory import OwnMemory
from .trampoline import Trampoline


class Call(IntEnum):
    """The system calls that are made, by their numbers on x86-64."""

    CLOSE = 3
    MMAP = 9
    MUNMAP = 11
    MADVISE = 28
    MEMFD_CREATE = 319


class Protection(IntFlag):
    """PROT_*: never both of the last two."""

    READ = 1
    WRITE = 2
    EXEC = 4


class Flags(IntFlag):
    """MAP_*."""

    SHARED = 0x01
    PRIVATE = 0x02
    ANONYMOUS = 0x20
    FIXED_NOREPLACE = 0x100000


class Advice(IntEnum):
    """MADV_*: what becomes of a mapping in a child."""

    DONTFORK = 10
    WIPEONFORK = 18


MFD_CLOEXEC, MFD_ALLOW_SEALING = 1, 2
NEW = Protection.READ | Protection.WRITE


class Wanted(NamedTuple):
    """A region that is to be: what its code is."""

    region: Region
    code: Trampoline


def calls_needed(wanted: Sequence[Wanted], size: int) -> list[tuple[int, tuple[int, ...]]]:
    """List the system calls, with arguments, that `map_all` will make; results count as 0."""
    calls: list[tuple[int, tuple[int, ...]]] = []
    for each, _ in wanted:
        calls += [(Call.MMAP, arguments) for arguments in _region_mappings(each)]
        calls.append((Call.MADVISE, (each.control, PAGE, Advice.WIPEONFORK)))
        calls.append((Call.MUNMAP, (each.code.start, PAGE)))
    if size:
        calls.append((Call.MEMFD_CREATE, (0, MFD_CLOEXEC | MFD_ALLOW_SEALING)))
        calls.append((Call.MMAP, (0, size, NEW, Flags.SHARED, 0, 0)))
        calls += [(Call.MADVISE, (0, size, Advice.DONTFORK)), (Call.CLOSE, (0,))]
    return [*calls, (Call.MUNMAP, (0, size))]


def _region_mappings(region: Region) -> list[tuple[int, ...]]:
    flags = Flags.PRIVATE | Flags.ANONYMOUS | Flags.FIXED_NOREPLACE
    size = region.code.end - region.code.start
    return [
        (region.code.start, size, Protection.READ | Protection.EXEC, flags, -1, 0),
        (region.control, PAGE, NEW, flags, -1, 0),
    ]


def map_region(calls: RemoteCalls, own: OwnMemory, wanted: Wanted) -> None:
    """Map a region, and put its code in. Raises PatchError with nothing mapped."""
    region = wanted.region
    done: list[tuple[int, int]] = []
    try:
        for arguments in _region_mappings(region):
            address, size, *_ = arguments
            got = calls.make(f"memory at {address:#x}", Call.MMAP, *arguments)
            done.append((got, size))
            if got != address:
                raise StateError(calls.name, f"memory at {address:#x} is taken: try again")
        what = "memory that a child has not"
        calls.make(what, Call.MADVISE, region.control, PAGE, Advice.WIPEONFORK)
        own.look_again()
        own.put_code(region, wanted.code.content)
    except BaseException:
        for at, size in done:
            calls.call(Call.MUNMAP, at, size)
        raise


def map_rings(
    calls: RemoteCalls, own: OwnMemory, proc: Proc, region: Region, size: int
) -> tuple[int, int]:
    """Map memory that the process and patcher share; returns its address, and our descriptor.

    It has no bytes yet, so nobody may touch it.
    """
    name = own.put_name(region, RINGS.encode())
    flags = MFD_CLOEXEC | MFD_ALLOW_SEALING
    number = calls.make("a descriptor for the rings", Call.MEMFD_CREATE, name, flags)
    ours = -1
    try:
        ours = proc.open(f"fd/{number}", os.O_RDWR)
        address = calls.make(
            "memory for the rings", Call.MMAP, 0, size, NEW, Flags.SHARED, number, 0
        )  # fmt: skip
        try:
            what = "rings that a child has not"
            calls.make(what, Call.MADVISE, address, size, Advice.DONTFORK)
        except BaseException:
            calls.call(Call.MUNMAP, address, size)
            raise
    except BaseException:
        if ours >= 0:
            os.close(ours)
        raise
    finally:
        calls.call(Call.CLOSE, number)
    return address, ours


def unmap_rings(calls: RemoteCalls, rings: Range) -> None:
    """Take the rings away, to which nobody writes any more."""
    size = rings.end - rings.start
    calls.make("to let go of the rings", Call.MUNMAP, rings.start, size)


def map_regions(calls: RemoteCalls, own: OwnMemory, wanted: Sequence[Wanted]) -> None:
    """Map all these regions. Raises PatchError with none mapped."""
    for number, each in enumerate(wanted):
        try:
            map_region(calls, own, each)
        except BaseException:
            unmap_regions(calls, wanted[:number])
            raise


def unmap_regions(calls: RemoteCalls, wanted: Sequence[Wanted]) -> None:
    """Take regions away to which no site has ever led."""
    for region, _ in wanted:
        size = region.control + PAGE - region.code.start
        calls.call(Call.MUNMAP, region.code.start, size)
