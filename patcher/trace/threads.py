"""What the threads of a process have in common: where each has its struct rseq, and its TID.

Both are at a fixed distance from the thread pointer (%fs), which the C library decides. So it is
looked for in the threads that stand, and is taken only if all of them agree.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from patcher.errors import ReadError, StateError
from patcher.process.memory import ProcessMemory
from patcher.process.proc import Proc
from patcher.process.ptrace import Registers, registers, sequences
from recordmcount.x86 import EM_X86_64

from .trampoline import RSEQ_CPU, RSEQ_SIGNATURE, Threads

BLOCK = 4096  # bytes from the thread pointer on, among which the TID is
GLIBC_TID = 0x2D0  # where glibc has had it since 2.4; only to choose between several
WORD = 4


class _Thread(NamedTuple):
    pointer: int
    number: int  # its TID, as it knows it
    rseq: int | None


def look(tids: Iterable[int], proc: Proc, memory: ProcessMemory) -> tuple[Threads, bool]:
    """Tell where threads that stand have what the trampoline reads, and if all of them agree.

    Otherwise some have registered a struct rseq and others have not, as threads that were only just
    born. Raises StateError for a process of another sort of code, or without a TID in each thread.
    """
    own = [tid for tid in tids if not proc.is_worker(tid)]
    found = [each for tid in own if (each := _look(tid, proc, memory)) is not None]
    if not found:
        raise StateError(memory.path, "no thread of it stands any more: try again")
    offset = _rseq(found, memory)
    agree = offset is not None or all(each.rseq is None for each in found)
    return Threads(offset, _tid(found, memory)), agree


def _look(tid: int, proc: Proc, memory: ProcessMemory) -> _Thread | None:
    try:
        here = registers(tid)
    except ProcessLookupError:
        return None
    if here.machine != EM_X86_64:
        raise StateError(memory.path, f"thread {tid} executes 32-bit code, which is not traced")
    pointer = here.values["fs_base"]
    if not pointer:
        what = f"thread {tid} has no thread pointer (%fs), which code that traces reads by"
        raise StateError(memory.path, f"{what}: try again if it has only just started")
    return _Thread(pointer, number_of(proc, tid), _offset(tid, here))


def _offset(tid: int, here: Registers) -> int | None:
    try:
        area = sequences(tid)
    except OSError:  # before Linux 5.13
        return None
    if area is None or area.signature != RSEQ_SIGNATURE:
        return None  # what stands before an abort must be what was registered
    return area.address - here.values["fs_base"]


def number_of(proc: Proc, tid: int) -> int:
    """Return the TID of a thread as it knows it itself, in its own PID namespace."""
    try:
        return int(proc.status(tid).get("NSpid", f"{tid}").split()[-1])
    except OSError:
        return tid


def _rseq(threads: Sequence[_Thread], memory: ProcessMemory) -> int | None:
    """Return the offset of all registered struct rseq; None if some thread could be misled by it.

    A thread that has none registered must have no number of a processor there.
    """
    offsets = {each.rseq for each in threads if each.rseq is not None}
    if len(offsets) != 1:
        return None
    (offset,) = offsets
    for each in threads:
        if each.rseq is None:
            try:
                word = memory.read(each.pointer + offset + RSEQ_CPU, WORD)
            except ReadError:
                return None
            if not word[-1] & 0x80:
                return None
    return offset if -1 << 31 <= offset < 1 << 31 else None


def _tid(threads: Sequence[_Thread], memory: ProcessMemory) -> int:
    offsets: set[int] = set()
    for number, each in enumerate(threads):
        here = _places(each, memory)
        offsets = here if not number else offsets & here
    if len(offsets) > 1 and GLIBC_TID in offsets:
        return GLIBC_TID
    if len(offsets) == 1:
        return offsets.pop()
    what = "where its C library has the TID of a thread cannot be told"
    raise StateError(memory.path, f"{what}: nothing was changed")


def _places(thread: _Thread, memory: ProcessMemory) -> set[int]:
    """Return the offsets at which the TID is, in what can be read from the thread pointer on."""
    content = b""
    for size in (BLOCK, BLOCK - thread.pointer % BLOCK):
        try:
            content = memory.read(thread.pointer, size)
        except ReadError:
            continue
        break
    wanted = thread.number.to_bytes(WORD, "little")
    return {at for at in range(0, len(content), WORD) if content[at : at + WORD] == wanted}
