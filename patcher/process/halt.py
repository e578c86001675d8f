"""A halt: all threads of an address space stand still, at a place where they can be left.

Threads are seized and interrupted until there is no new one: then none runs that could start
another. Processes that share the address space are halted with it.

Nobody takes the reports of stopped threads (see `waiting`). So if patcher is killed in a halt, the
kernel lets all of them go on and gives each the signal at which it had stopped.

A tracee can only be let go while it is stopped, and one that did not stop in time would stop later,
for good. When its tracer ends it is let go in any case. So each halt has a tracer of its own, and
ends it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar

from patcher.errors import HaltError, NoProcessError

from . import waiting
from .proc import Proc, all_processes
from .ptrace import Registers, all_registers, detach, event_message, interrupt, step_out
from .tracees import SHORTEST_SLEEP, Tracees
from .tracing_thread import TracingThread
from .waiting import End, Stop

LONGEST_SLEEP = 0.001  # seconds
Result = TypeVar("Result")


class Halt:
    """All threads that execute in the address space of a process, once they are stopped.

    `name` names the process in messages, `timeout` is in seconds. `stops` tells at what each
    thread stands, by TID.
    """

    def __init__(self, proc: Proc, name: str, timeout: float) -> None:
        self._name = name
        self._timeout = timeout
        self._tracees = Tracees(proc, name)
        self._tracer: TracingThread | None = None
        self.stops: dict[int, Stop] = {}

    @property
    def processes(self) -> list[int]:
        """The PIDs of the process and of those that share its address space."""
        return [each.pid for each in self._tracees.processes]

    @property
    def _seized(self) -> dict[int, Proc]:
        return self._tracees.seized

    def stop(self) -> None:
        """Return when all threads are stopped. Raises PatchError with all of them released.

        HaltError if one does not stop in time, and if another process traces one; AccessError or
        NoProcessError if they cannot be traced.
        """
        self._tracer = TracingThread()
        try:
            self._tracer.do_rescued(self._stop, lambda: list(self._seized))
        except BaseException:
            self.release()
            raise

    def registers(self) -> list[Registers]:
        """Return the registers of all threads, which must be stopped; of one that was killed none.

        Raises HaltError if nothing is stopped.
        """
        if self._tracer is None:
            raise HaltError(self._name, "its threads are not stopped")
        return self._tracer.do(partial(all_registers, list(self.stops)))

    def registers_here(self) -> list[Registers]:
        """Return the registers as `registers` does; for the thread that traces."""
        return all_registers(list(self.stops))

    def step_out(self, to: Callable[[int], int]) -> int:
        """Have all threads, which must be stopped, go on where `to` says (ptrace.step_out)."""
        if self._tracer is None:
            return 0
        return self._tracer.do(partial(step_out, list(self.stops), to))

    def do(self, action: Callable[[Mapping[int, Stop]], Result]) -> Result:
        """Have the thread that traces do something with all threads, which must be stopped."""
        if self._tracer is None:
            raise HaltError(self._name, "its threads are not stopped")
        return self._tracer.do(partial(action, self.stops))

    def release(self) -> None:
        """Let all threads go on, each with the signal it was to be given, or in its group-stop."""
        if self._tracer is None:
            return
        self._tracer.do(self._release)
        self._tracer.end()
        self._tracer = None

    # --- what the tracer does: stop -----------------------------------------------------------

    def _stop(self) -> None:
        deadline = time.monotonic() + self._timeout
        all_processes()  # the kernel makes its folders of them now, and not when all stands still
        while (
            self._tracees.seize_new()
            or self._is_gone() or self._find_sharers() or self._forget_running()
        ):  # fmt: skip
            self._wait_for_all(deadline)
            if time.monotonic() > deadline:
                what = f"its threads come and go: it was not halted within {self._timeout:g} s"
                raise HaltError(self._name, f"{what}; nothing was written, and all threads run")

    def _is_gone(self) -> bool:
        """Tell whether no thread of a process stands.

        One that executes another program has, for a moment, no thread that could be listed or
        seized. Nothing stands then, and nothing may be taken for halted.
        """
        standing = {self._seized[tid].pid for tid in self.stops}
        first, *others = self._tracees.processes
        gone = [proc for proc in (first, *others) if proc.pid not in standing]
        if all(proc in others and proc.has_thread_ended(proc.pid) for proc in gone):
            return False
        if first in gone and first.has_ended:
            raise NoProcessError(self._name, "has ended")
        time.sleep(SHORTEST_SLEEP)
        return True

    def _forget_running(self) -> bool:
        """Forget the stops of threads that stand no more; tell whether there were any.

        A thread that executes another program ends all others, and gets the TID of the leader.
        """
        running = []
        for tid in self.stops:
            try:
                event_message(tid)
            except ProcessLookupError:
                running.append(tid)
        for tid in running:
            del self.stops[tid]
            try:
                interrupt(tid)
            except ProcessLookupError:  # it is nobody, or another one
                waiting.reap(tid)
                del self._seized[tid]
        return bool(running)

    def _find_sharers(self) -> bool:
        """Look for processes that share the address space; tell whether there are new ones."""
        try:
            found = self._tracees.sharers_of(next(iter(self.stops)))
        except OSError:
            self._forget_running()
            return True
        if found and self._forget_running():
            return True
        self._tracees.adopt(found)
        return bool(found)

    def _wait_for_all(self, deadline: float) -> None:
        """Wait until all seized threads are stopped. Raises HaltError if one is not in time."""
        sleep = 0.0
        while waiting_for := [tid for tid in self._seized if tid not in self.stops]:
            for tid in waiting_for:
                self._look(tid)
            if any(tid in self._seized and tid not in self.stops for tid in waiting_for):
                if time.monotonic() > deadline:
                    raise self._too_late()
                self._forget_ended()
                time.sleep(sleep)
                sleep = min(max(SHORTEST_SLEEP, 2 * sleep), LONGEST_SLEEP)

    def _look(self, tid: int) -> None:
        try:
            report = waiting.look(tid)
        except ChildProcessError:  # it has the TID of its leader by now
            del self._seized[tid]
            return
        if isinstance(report, End):
            waiting.reap(tid)
            del self._seized[tid]
        elif report is not None and self._seized[tid].exists(f"task/{tid}"):
            self.stops[tid] = report
        elif report is not None:  # the TID has become that of a thread of another process
            self._detach(tid, report.pending_signal)
            del self._seized[tid]

    def _forget_ended(self) -> None:
        """Forget threads that have ended though they stood, as another one executes a program.

        And leaders that have ended before their threads: of those nothing is reported.
        """
        for tid in list(self.stops):
            if waiting.reap(tid):
                del self.stops[tid], self._seized[tid]
        for tid, proc in list(self._seized.items()):
            if tid not in self.stops and tid == proc.pid and proc.has_thread_ended(tid):
                waiting.reap(tid)  # if it was the last thread, nobody else may do that
                del self._seized[tid]

    def _too_late(self) -> HaltError:
        tid = next(tid for tid in self._seized if tid not in self.stops)
        why = self._tracees.why_late(tid, self._timeout)
        return HaltError(self._name, f"{why}; nothing was written, and all threads run")

    # --- what the tracer does: release --------------------------------------------------------

    def _release(self) -> None:
        """Let go of everything that is stopped."""
        for tid in self._seized:
            stop = self.stops.get(tid)
            self._detach(tid, stop.pending_signal if stop else 0)
        self.stops.clear()
        self._tracees.forget()

    def _detach(self, tid: int, signal: int) -> None:
        try:
            detach(tid, signal)
        except ProcessLookupError:  # it has been killed, or has not stopped yet
            waiting.reap(tid)
