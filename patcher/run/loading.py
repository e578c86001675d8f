"""System calls by which code comes into a process, and leaves it."""

from __future__ import annotations

from patcher.ftrace.mappings import Range
from patcher.process.changing_calls import X32
from patcher.process.pages import PAGE
from patcher.process.ptrace import SyscallStop
from recordmcount.x86 import EM_386, EM_X86_64

PROT_EXEC = 4
# By machine: calls whose third argument is a protection, and that which unmaps.
_PROTECT = {EM_X86_64: {9, 10}, EM_386: {192, 125}}  # mmap (mmap2), mprotect
_UNMAP = {EM_X86_64: 11, EM_386: 91}


def brings_code(call: SyscallStop) -> bool:
    """Tell whether there may be new code when this call, which begins, has ended."""
    number = call.number & ~X32
    return number in _PROTECT[call.machine] and bool(call.arguments[2] & PROT_EXEC)


def unmapped(call: SyscallStop) -> Range | None:
    """Tell what this call, which begins, is about to unmap."""
    if call.number & ~X32 != _UNMAP[call.machine]:
        return None
    start, size = call.arguments[:2]
    return Range(start, start + (size + PAGE - 1 & -PAGE))
