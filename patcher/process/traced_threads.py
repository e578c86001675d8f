"""Threads that are traced while they run: what each of them reports, and how it goes on.

- Who hits a breakpoint of ours goes on behind it.
- A system call that would change whose code that is waits at its beginning (`changing_calls`).
- A signal is given to its thread, and whoever is stopped as by Ctrl-Z stays so.

A report is left with the kernel, which gives a thread its signal if patcher is killed; but for that
of a breakpoint of ours, which is nobody's signal. All of this is done by the thread that traces.

Before the kernel tells of a breakpoint it unblocks SIGTRAP where that is blocked; this is mended
here. And if a SIGTRAP of somebody else is pending by then, that is told instead: blocked again, it
stays pending. (kernel/signal.c, force_sig_info_to_task, legacy_queue.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from signal import SIGTRAP
from struct import Struct

from patcher.ftrace.mappings import Range

from . import waiting
from .changing_calls import changes
from .proc import Proc
from .ptrace import (
    detach,
    go_to_syscall,
    interrupt,
    listen,
    registers,
    set_registers,
    set_signal_mask,
    siginfo,
    signal_mask,
    syscall_stop,
)
from .tracees import Tracees
from .waiting import End, Stop

TRAP = 1 << SIGTRAP - 1  # in a mask of signals
SI_KERNEL = 0x80  # the kernel's own signal, as for int3
_SIGINFO = Struct("<3i")  # si_signo, si_errno, si_code


class TracedThreads:
    """What is seized in `tracees`; the rest is as for Tracing.

    `unsynced` are the TIDs of those that have not serialised since they were asked to.
    `has_executed`: one has executed another program.
    """

    def __init__(
        self, tracees: Tracees, code: Sequence[Range], int3: Callable[[int], int | None]
    ) -> None:
        self._seized = tracees.seized
        self._code = code
        self._int3 = int3
        self._held: set[int] = set()
        self._ended: dict[int, Proc] = {}  # leaders, of which nothing is reported yet
        self._masks: dict[int, int] = {}  # of the signals that each blocks
        self.unsynced: set[int] = set()
        self.has_executed = False

    def ask_to_serialise(self) -> None:
        """Have every thread stop that is not in a system call: `unsynced` becomes smaller then."""
        self.unsynced = {
            tid for tid in self._seized if tid not in self._held and not self._is_in_call(tid)
        }
        for tid in self.unsynced:
            with suppress(ProcessLookupError):
                interrupt(tid)

    def look_at_all(self) -> bool:
        """Handle what each thread reports; tell whether any did."""
        for tid in [tid for tid in self._ended if _reports(tid)]:
            self._seized[tid] = self._ended.pop(tid)
        return sum(map(self._look, list(self._seized))) > 0

    def forget_ended(self) -> None:
        """Forget leaders that have ended: nothing is reported of them before all threads have.

        Then it is looked at again, as it is if another thread executes a program: it has that TID.
        """
        for tid, proc in list(self._seized.items()):
            if tid == proc.pid and proc.has_thread_ended(tid):
                self._forget(tid)
                self._ended[tid] = proc

    def release(self) -> None:
        """Let what waits go on; all else runs, or goes on when the tracer ends."""
        for tid in self._held:
            with suppress(ProcessLookupError):
                detach(tid)

    def _is_in_call(self, tid: int) -> bool:
        """Tell whether a thread is in the kernel, by a system call and not by a breakpoint."""
        try:
            return self._seized[tid].read(f"task/{tid}/syscall")[:1].isdigit()
        except OSError:
            return False

    def _forget(self, tid: int) -> None:
        del self._seized[tid]
        self._held.discard(tid)
        self._masks.pop(tid, None)
        self.unsynced.discard(tid)

    # --- reports ------------------------------------------------------------------------------

    def _look(self, tid: int) -> bool:
        try:
            report = waiting.look(tid)
        except ChildProcessError:
            self._forget(tid)
            return True
        if report is None or (tid in self._held and isinstance(report, Stop)):
            return False
        if isinstance(report, End):
            waiting.reap(tid)
            self._forget(tid)
        else:
            with suppress(ProcessLookupError):  # it has been killed, and that is reported next
                self._handle(report)
        return True

    def _handle(self, stop: Stop) -> None:
        tid = stop.tid
        if stop.event == waiting.EXEC:
            self.has_executed = True
        elif stop.event == waiting.STOP:
            self._masks[tid] = signal_mask(tid)
            if not self._has_trap(tid):
                self.unsynced.discard(tid)
        elif stop.signal == waiting.STOPPED_AT_SYSCALL:
            self.unsynced.discard(tid)
            if self._must_wait(tid):
                self._held.add(tid)
                return
        elif stop.signal == SIGTRAP and self._skip(tid):
            self.unsynced.discard(tid)
            if _is_of_kernel(tid):
                waiting.take(tid)  # it is not given to the thread
                go_to_syscall(tid)
                return
        if stop.is_group_stop:
            listen(tid)
        else:
            go_to_syscall(tid, stop.pending_signal)

    def _has_trap(self, tid: int) -> bool:
        """Tell whether a thread has hit a breakpoint and has yet to tell of it.

        A thread tells first that it was interrupted.
        """
        status = self._seized[tid].status(tid)
        return bool(int(status["SigPnd"], 16) & ~int(status["SigBlk"], 16) & TRAP)

    def _must_wait(self, tid: int) -> bool:
        stop = syscall_stop(tid)
        if stop is not None and not stop.is_entry:
            self._masks[tid] = signal_mask(tid)
        return stop is not None and stop.is_entry and changes(stop, self._code)

    def _skip(self, tid: int) -> bool:
        """Have a thread go on behind the breakpoint at which it stands; False if it is not ours.

        Nobody but who has hit it stands behind its first byte, whatever signal he is told of.
        """
        found = registers(tid)
        address = found.instruction_pointer - 1
        skip = self._int3(address)
        if skip is None:
            return False
        set_registers(tid, found.going_on_at(address + skip))
        mask = self._masks.get(tid, 0)
        if mask & TRAP and signal_mask(tid) == mask & ~TRAP:
            set_signal_mask(tid, mask)
        return True


def _reports(tid: int) -> bool:
    try:
        return waiting.look(tid) is not None
    except ChildProcessError:
        return True


def _is_of_kernel(tid: int) -> bool:
    """Tell whether the signal at which a thread has stopped is the kernel's own, as of int3."""
    return bool(_SIGINFO.unpack_from(siginfo(tid))[2] == SI_KERNEL)
