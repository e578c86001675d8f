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
from patcher.process.remote_calls import RemoteCalls, Wanted

from .code import Trampoline
from .own_memory import OwnMemory


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
MEMFD = f"/memfd:{RINGS}"  # as the kernel spells its path
ROOM = "memory for its region"
RINGS_ROOM = "memory for the rings"


class NewRegion(NamedTuple):
    """A region that is to be, and its code."""

    region: Region
    code: Trampoline


def wanted(new: Sequence[NewRegion], size: int) -> list[Wanted]:
    """List the system calls by which regions are mapped, and rings if they have a size.

    What is only known when they are made is 0.
    """
    calls: list[Wanted] = []
    for region, _ in new:
        calls += [*_region_mappings(region), _wiped(region), _unmapped(region.code)]
    if size:
        calls += [_memfd(0), _mapped(size, 0), _kept_from_children(0, size), _closed(0)]
    return [*calls, _unmapped(Range(0, size))]


def _region_mappings(region: Region) -> list[Wanted]:
    flags = Flags.PRIVATE | Flags.ANONYMOUS | Flags.FIXED_NOREPLACE
    code = Protection.READ | Protection.EXEC
    size = region.code.end - region.code.start
    return [
        Wanted(ROOM, Call.MMAP, (region.code.start, size, code, flags, -1, 0)),
        Wanted(ROOM, Call.MMAP, (region.control, PAGE, NEW, flags, -1, 0)),
    ]


def _wiped(region: Region) -> Wanted:
    what = "memory that a child has as zeros"
    return Wanted(what, Call.MADVISE, (region.control, PAGE, Advice.WIPEONFORK))


def _memfd(name: int) -> Wanted:
    what = "a descriptor for the rings"
    return Wanted(what, Call.MEMFD_CREATE, (name, MFD_CLOEXEC | MFD_ALLOW_SEALING))


def _mapped(size: int, number: int) -> Wanted:
    return Wanted(RINGS_ROOM, Call.MMAP, (0, size, NEW, Flags.SHARED, number, 0))


def _kept_from_children(address: int, size: int) -> Wanted:
    return Wanted("memory that no child has", Call.MADVISE, (address, size, Advice.DONTFORK))


def _closed(number: int) -> Wanted:
    return Wanted("to close a descriptor", Call.CLOSE, (number,))


def _unmapped(some: Range) -> Wanted:
    return Wanted("to unmap", Call.MUNMAP, (some.start, some.end - some.start))


def map_regions(calls: RemoteCalls, own: OwnMemory, new: Sequence[NewRegion]) -> None:
    """Map all these regions. Raises PatchError with none mapped."""
    for number, each in enumerate(new):
        try:
            _map_region(calls, own, each)
        except BaseException:
            unmap_regions(calls, new[:number])
            raise


def unmap_regions(calls: RemoteCalls, new: Sequence[NewRegion]) -> None:
    """Take regions away to which no site has ever led."""
    for region, _ in new:
        calls.call(_unmapped(Range(region.code.start, region.control + PAGE)))


def _map_region(calls: RemoteCalls, own: OwnMemory, new: NewRegion) -> None:
    done: list[Range] = []
    try:
        for each in _region_mappings(new.region):
            address, size, *_ = each.arguments
            got = calls.make(each)
            done.append(Range(got, got + size))
            if got != address:
                raise StateError(calls.name, f"memory at {address:#x} is taken: try again")
        calls.make(_wiped(new.region))
        own.look_again()
        own.put_code(new.region, new.code.content)
    except BaseException:
        for some in done:
            calls.call(_unmapped(some))
        raise


def map_rings(
    calls: RemoteCalls, own: OwnMemory, proc: Proc, region: Region, size: int
) -> tuple[int, int]:
    """Map memory that the process and patcher share; returns its address, and our descriptor.

    It has no bytes yet, so nobody may touch it.
    """
    number = calls.make(_memfd(own.put_name(region, RINGS.encode())))
    ours = -1
    try:
        ours = _opened(calls, proc, number)
        address = calls.make(_mapped(size, number))
        try:
            if not region.is_locked:  # else a child may be in the midst of an event
                calls.make(_kept_from_children(address, size))
        except BaseException:
            calls.call(_unmapped(Range(address, address + size)))
            raise
    except BaseException:
        if ours >= 0:
            os.close(ours)
        raise
    finally:
        calls.call(_closed(number))
    return address, ours


def _opened(calls: RemoteCalls, proc: Proc, number: int) -> int:
    """Open the new memfd that a thread has by this number: its own, whatever others have."""
    name = f"task/{calls.tid}/fd/{number}"
    ours = proc.open(name, os.O_RDWR)
    there = proc.link(name)
    if not there.startswith(MEMFD) or os.fstat(ours).st_size:
        os.close(ours)
        raise StateError(calls.name, f"descriptor {number} is {there}: nothing was changed")
    return ours


def unmap_rings(calls: RemoteCalls, rings: Range) -> None:
    """Take the rings away, to which nobody writes any more."""
    calls.make(_unmapped(rings))
