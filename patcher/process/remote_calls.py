"""System calls that a stopped thread makes for patcher, by an instruction that is there already.

Nothing is written for that. The thread stands where it stood before, with its registers, its mask
of signals, and the system call that it was in, which the kernel makes again where it would have
anyway (ptrace(2), "Syscall-stops"; signal(7), "Interruption of system calls").

While it is away the thread must not be let go: where it would go on is nowhere. So whoever borrows
one is a process of patcher's that no signal reaches (see trace.injection).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import IntEnum
from signal import SIGKILL, SIGSTOP, valid_signals
from struct import Struct
from typing import NamedTuple

from patcher.errors import NoProcessError, StateError
from recordmcount.x86 import EM_X86_64
from recordmcount.x86_code import SYSCALL

from . import seccomp, waiting
from .memory import ProcessMemory
from .proc import Proc
from .ptrace import (
    Options,
    Registers,
    cont,
    go_to_syscall,
    interrupt,
    registers,
    sequences,
    set_options,
    set_registers,
    set_signal_mask,
    signal_mask,
)
from .seccomp import SystemCall
from .waiting import End, Stop

ARGUMENTS = ("rdi", "rsi", "rdx", "r10", "r8", "r9")  # where a system call has them
NOT_IN_CALL = (1 << 64) - 1  # in orig_rax
MOST_ERRNO = 4095
ALL_SIGNALS = sum(1 << each - 1 for each in valid_signals() - {SIGKILL, SIGSTOP})
_SECTION = Struct("<8xQ")  # of struct rseq: where the descriptor of the section is
_DESCRIPTOR = Struct("<8xQQQ")  # of struct rseq_cs: start, size, where to go on
PIECE = 1 << 20  # bytes of code to look through at once


class Section(NamedTuple):
    """Run-time addresses of a restartable sequence that a thread has begun."""

    start: int
    end: int
    abort: int


class Wanted(NamedTuple):
    """A system call that is to be made; `what` is had by it, in words."""

    what: str
    number: IntEnum
    arguments: tuple[int, ...]

    def at(self, instruction: int) -> SystemCall:
        """Return it as a filter sees it if it is made at a run-time address."""
        numbers = [each & NOT_IN_CALL for each in (*self.arguments, *[0] * len(ARGUMENTS))]
        first, second, third, fourth, fifth, sixth = numbers[: len(ARGUMENTS)]
        return SystemCall(
            self.number.name.lower(), self.number, (first, second, third, fourth, fifth, sixth),
            instruction + len(SYSCALL),
        )  # fmt: skip


class RemoteCalls:
    """A stopped thread of `proc` that makes system calls, between `begin` and `end`.

    `name` names its process in messages; `instruction` is the run-time address of a SYSCALL. All is
    done by the thread that traces it.
    """

    def __init__(
        self, tid: int, proc: Proc, name: str, instruction: int, before: Registers
    ) -> None:
        self.tid = tid
        self.name = name
        self._proc = proc
        self._instruction = instruction
        self._before = before
        self._mask = 0

    def why_not(self, wanted: Iterable[Wanted]) -> str:
        """Say why a filter of the thread would not allow some of these; empty if it would."""
        calls = [each.at(self._instruction) for each in wanted]
        return seccomp.why_not(self._proc, self.tid, calls)

    def begin(self) -> None:
        """Hold back its signals, and have it report its system calls."""
        set_options(self.tid, Options.TRACESYSGOOD)
        self._mask = signal_mask(self.tid)
        set_signal_mask(self.tid, ALL_SIGNALS)

    def call(self, wanted: Wanted) -> int:
        """Make a system call and return its result, negative for an errno.

        Raises StateError, without making it, where a filter would not allow it.
        """
        if why := self.why_not([wanted]):
            raise StateError(self.name, f"{why}; nothing was changed")
        arguments = wanted.at(self._instruction).arguments
        values = dict(zip(ARGUMENTS, arguments, strict=True))
        there = self._before.going_on_at(self._instruction)
        set_registers(
            self.tid, there.with_values(rax=wanted.number, orig_rax=NOT_IN_CALL, **values)
        )  # fmt: skip
        self._go_to_syscall()
        self._go_to_syscall()
        result = registers(self.tid).values["rax"]
        return result - (1 << 64) if result >> 63 else result

    def make(self, wanted: Wanted) -> int:
        """Make a system call. Raises StateError, which says what was not to be had, and why."""
        result = self.call(wanted)
        if -MOST_ERRNO <= result < 0:
            why = os.strerror(-result)
            raise StateError(self.name, f"{wanted.what}: {why}; nothing was changed")
        return result

    def end(self) -> None:
        """Put the thread back to where it was, at a stop as the one that it was in."""
        interrupt(self.tid)
        cont(self.tid)
        while (stop := self._next_stop()).event != waiting.STOP:
            cont(self.tid, stop.pending_signal)
        set_registers(self.tid, self._before)
        set_signal_mask(self.tid, self._mask)

    def _go_to_syscall(self) -> None:
        signal = 0
        while True:
            go_to_syscall(self.tid, signal)
            stop = self._next_stop()
            if stop.signal == waiting.STOPPED_AT_SYSCALL and not stop.event:
                return
            signal = stop.pending_signal

    def _next_stop(self) -> Stop:
        """Wait for what it reports next. Raises NoProcessError if it has been killed."""
        report = waiting.wait(self.tid)
        if isinstance(report, End):
            raise NoProcessError(self.name, "has ended")
        return report


def find_instruction(memory: ProcessMemory) -> int:
    """Return the run-time address of a SYSCALL: in the vdso, or in what else there is.

    Raises StateError if there is none.
    """
    code = [each for each in memory.mappings() if each.protection[2] == "x"]
    for mapping in sorted(code, key=lambda each: each.path != "[vdso]"):
        if mapping.path == "[vsyscall]":
            continue
        start, end = mapping.range
        for at in range(start, end, PIECE):
            found = memory.read(at, min(PIECE, end - at)).find(SYSCALL)
            if found >= 0:
                return at + found
    raise StateError(memory.path, "has no instruction that makes a system call")


def section_of(tid: int, memory: ProcessMemory, pointer: int) -> Section | None:
    """Return the restartable sequence that a stopped thread is in at `pointer`; None if in none."""
    try:
        area = sequences(tid)
    except OSError:
        return None
    if area is None:
        return None
    (descriptor,) = _SECTION.unpack(memory.read(area.address, _SECTION.size))
    if not descriptor:
        return None
    start, size, abort = _DESCRIPTOR.unpack(memory.read(descriptor, _DESCRIPTOR.size))
    inside = start <= pointer < start + size
    return Section(start, start + size, abort) if inside else None


def borrow(
    stops: Mapping[int, Stop],
    proc: Proc,
    memory: ProcessMemory,
    wanted: Sequence[Wanted],
    action: Callable[[RemoteCalls], None],
) -> bool:
    """Have a stopped thread make the system calls of `action`; False if none can for now.

    One that stands at a signal cannot, as that could not be given to it later. One in a restartable
    sequence goes on where the kernel would have it start again. Raises StateError if no thread's
    filters would allow all the calls that may be `wanted`.
    """
    instruction = find_instruction(memory)
    why_not = ""
    own = {*proc.threads()}
    for tid, here in _candidates(stops):
        if tid not in own:  # of a process that shares the address space, and not its descriptors
            continue
        if proc.is_worker(tid):  # which would never make one
            continue
        section = section_of(tid, memory, here.instruction_pointer)
        before = here.going_on_at(section.abort) if section else here
        calls = RemoteCalls(tid, proc, memory.path, instruction, before)
        if why := calls.why_not(wanted):
            why_not = why
            continue
        calls.begin()
        try:
            action(calls)
        finally:
            calls.end()
        return True
    if why_not:
        raise StateError(memory.path, f"{why_not}; nothing was changed")
    return False


def _candidates(stops: Mapping[int, Stop]) -> Iterator[tuple[int, Registers]]:
    """Yield those that are at no signal and execute 64-bit code; in a system call are the last."""
    found = []
    for tid, stop in stops.items():
        if stop.event != waiting.STOP:
            continue
        try:
            here = registers(tid)
        except ProcessLookupError:
            continue
        if here.machine == EM_X86_64:
            found.append((tid, here))
    return iter(sorted(found, key=lambda each: each[1].is_in_system_call))
