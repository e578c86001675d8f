"""System calls that would change whose code breakpoints stand in: these wait until none stands.

A call that unmaps code, or maps something else there, would have the next write go where no site is
any more. A child by fork would have the breakpoints in its own copy of the code, where nobody
handles them, and one that shares the memory would have to be found first. Who executes a program
has other code altogether. And whoever sets the handler of SIGTRAP means another signal than ours.

Numbers: arch/x86/entry/syscalls/syscall_64.tbl and syscall_32.tbl; arguments: mmap(2), mremap(2),
shmat(2).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from signal import SIGTRAP

from patcher.ftrace.mappings import Range
from recordmcount.x86 import EM_386, EM_X86_64

from .pages import PAGE
from .ptrace import SyscallStop

X32 = 0x40000000  # a bit in the numbers of its system calls
MAP_FIXED = 0x10
MREMAP_FIXED = 2
SHM_REMAP = 0x4000

_MMAP, _MREMAP = {EM_X86_64: 9, EM_386: 192}, {EM_X86_64: 25, EM_386: 163}
# Those whose first two arguments are a start and a size in bytes: mprotect, munmap, madvise,
# remap_file_pages, pkey_mprotect.
_OF_RANGE = {EM_X86_64: {10, 11, 28, 216, 329}, EM_386: {125, 91, 219, 257, 380}}
_SHMAT = {EM_X86_64: 30, EM_386: 397}
# Setting the handler of the signal that is the first argument: rt_sigaction, x32's; signal,
# sigaction, rt_sigaction.
_HANDLER = {EM_X86_64: {13, 512}, EM_386: {48, 67, 174}}
# Whatever their arguments are, which may be in memory: fork, vfork, clone, clone3; execve,
# execveat, those of x32; process_madvise; the old mmap and ipc.
_ALWAYS = {
    EM_X86_64: {57, 58, 56, 435, 59, 322, 520, 545, 440},
    EM_386: {2, 190, 120, 435, 11, 358, 440, 90, 117},
}


def changes(call: SyscallStop, code: Sequence[Range]) -> bool:
    """Tell whether a call that begins may change these mappings, or who executes them."""
    number = call.number & ~X32
    if number in _ALWAYS[call.machine]:
        return True
    if number in _HANDLER[call.machine]:
        return call.arguments[0] == SIGTRAP
    if number == _SHMAT[call.machine]:
        return bool(call.arguments[2] & SHM_REMAP)
    return any(each.overlaps(some) for each in _changed(number, call) for some in code)


def _changed(number: int, call: SyscallStop) -> Iterator[Range]:
    """Return the run-time addresses that a call changes the mappings of."""
    start, size, third, flags, new, _ = call.arguments
    if number in _OF_RANGE[call.machine] or (number == _MMAP[call.machine] and flags & MAP_FIXED):
        yield _pages(start, size)
    elif number == _MREMAP[call.machine]:
        yield _pages(start, size)
        if flags & MREMAP_FIXED:
            yield _pages(new, third)


def _pages(start: int, size: int) -> Range:
    return Range(start & -PAGE, (start + size + PAGE - 1) & -PAGE)
