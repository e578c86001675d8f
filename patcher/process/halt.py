"""A halt: all threads of an address space stand still, at a place where they can be left.

Threads are seized and interrupted until there is no new one: then none runs that could start
another. Processes that share the address space are halted with it.

Nobody takes the reports of stopped threads (see `waiting`). So if patcher is killed in a halt, the
kernel lets all of them go on and gives each the signal at which it had stopped.

A tracee can only be let go while it is stopped, and one that did not stop in time would stop later,
for good. When its tracer ends it is let go in any case. A tracer is a thread; so each halt has one
of its own, and ends it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import get_native_id

from patcher.errors import HaltError, PatchError

from . import waiting
from .access import no_access
from .proc import STATES, Proc, is_missing
from .ptrace import Registers, detach, event_message, interrupt, registers, seize
from .sharers import sharers
from .waiting import End, Stop

TRIES = 20  # to seize a thread
RESCUE = 0.02  # seconds
SHORTEST_SLEEP, LONGEST_SLEEP = 0.00005, 0.001  # seconds


class Halt:
    """All threads that execute in the address space of a process, once they are stopped.

    `name` names the process in messages, `timeout` is in seconds. `stops` tells at what each
    thread stands, by TID.
    """

    def __init__(self, proc: Proc, name: str, timeout: float) -> None:
        self._name = name
        self._timeout = timeout
        self._procs = {proc.pid: proc}
        self._tracer: ThreadPoolExecutor | None = None
        self._seized: dict[int, Proc] = {}
        self.stops: dict[int, Stop] = {}

    @property
    def processes(self) -> list[int]:
        """The PIDs of the process and of those that share its address space."""
        return list(self._procs)

    def stop(self) -> None:
        """Return when all threads are stopped. Raises PatchError with all of them released.

        HaltError if one does not stop in time, and if another process traces one; AccessError or
        NoProcessError if they cannot be traced.
        """
        self._tracer = ThreadPoolExecutor(1, "tracer")
        try:
            self._wait_for(self._tracer.submit(self._stop))
        except BaseException:
            self.release()
            raise

    def _wait_for(self, stopping: Future[None]) -> None:
        """Wait until the tracer has stopped all threads, and help it out where it cannot go on.

        A thread that executes another program waits until all others are gone, those that the
        tracer has to reap as well, and meanwhile the kernel lets nobody seize: so the tracer waits
        for that thread, which waits for the tracer. Any thread of patcher may reap.
        """
        while not stopping.done():
            with suppress(TimeoutError):
                stopping.result(RESCUE)
            for tid in list(self._seized) if not stopping.done() else ():
                waiting.reap(tid)
        stopping.result()

    def registers(self) -> list[Registers]:
        """Return the registers of all threads, which must be stopped; of one that was killed none.

        Raises HaltError if nothing is stopped.
        """
        if self._tracer is None:
            raise HaltError(self._name, "its threads are not stopped")
        return self._tracer.submit(self._registers).result()

    def release(self) -> None:
        """Let all threads go on, each with the signal it was to be given, or in its group-stop."""
        if self._tracer is None:
            return
        tracer = self._tracer.submit(self._release).result()
        self._tracer.shutdown()
        self._tracer = None
        while Path(f"/proc/self/task/{tracer}").exists():  # until then it traces
            time.sleep(0)

    # --- what the tracer does: stop -----------------------------------------------------------

    def _stop(self) -> None:
        deadline = time.monotonic() + self._timeout
        while (
            self._seize_new() or self._is_gone() or self._find_sharers() or self._forget_running()
        ):
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
        gone = [proc for pid, proc in self._procs.items() if pid not in standing]
        if all(proc.pid in self.processes[1:] and _is_ended(proc, proc.pid) for proc in gone):
            return False
        time.sleep(SHORTEST_SLEEP)
        return True

    def _registers(self) -> list[Registers]:
        found = []
        for tid in self.stops:
            with suppress(ProcessLookupError):
                found.append(registers(tid))
        return found

    def _threads(self) -> Iterator[tuple[int, Proc]]:
        for proc in list(self._procs.values()):
            try:
                yield from ((tid, proc) for tid in proc.threads())
            except OSError as error:
                if len(self._procs) == 1 or not is_missing(error):
                    raise no_access(proc, self._name, error) from error

    def _seize_new(self) -> bool:
        """Seize and interrupt all threads that are not seized yet; tell whether there were any."""
        before = len(self._seized)
        for tid, proc in self._threads():
            if tid not in self._seized and self._seize(tid, proc):
                self._seized[tid] = proc
        return len(self._seized) > before

    def _seize(self, tid: int, proc: Proc) -> bool:
        """Seize one thread; tell whether that was possible. One that has ended need not be.

        A leader is refused for a moment while another thread that executes a program takes its TID,
        and may be a tracee of ours already when it has.
        """
        for tries_left in reversed(range(TRIES)):
            try:
                seize(tid)
            except OSError as error:
                if _is_ended(proc, tid):
                    return False
                if not _is_ours(proc, tid):
                    if not tries_left:
                        raise self._refused(tid, proc, error) from error
                    time.sleep(SHORTEST_SLEEP)
                    continue
            break
        with suppress(ProcessLookupError):  # it has ended since
            interrupt(tid)
        return True

    def _refused(self, tid: int, proc: Proc, error: OSError) -> PatchError:
        name = self._name
        if proc.pid != next(iter(self._procs)):
            name += f": process {proc.pid}, which shares its address space"
        elif tid != proc.pid:
            name += f": thread {tid}"
        return no_access(proc, name, error)

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
            found = list(sharers(next(iter(self.stops)), {*self._procs}))
        except OSError as error:
            if is_missing(error):
                self._forget_running()
                return True
            what = "who shares its address space cannot be told"
            raise HaltError(self._name, f"{what}: {error.strerror}") from error
        # A thread that has ended meanwhile has no memory, and in that is like all of the kernel's.
        if found and self._forget_running():
            return True
        for pid in found:
            with suppress(ProcessLookupError):
                self._procs[pid] = Proc(pid)
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
            if tid not in self.stops and tid == proc.pid and _is_ended(proc, tid):
                del self._seized[tid]

    def _too_late(self) -> HaltError:
        tid, proc = next(each for each in self._seized.items() if each[0] not in self.stops)
        try:
            stat = proc.stat(tid)
            thread = f"thread {tid} ({stat.name}) did not stop within {self._timeout:g} s: it is "
            thread += STATES.get(stat.state, stat.state)
        except OSError:
            thread = f"thread {tid} did not stop within {self._timeout:g} s"
        return HaltError(self._name, f"{thread}; nothing was written, and all threads run")

    # --- what the tracer does: release --------------------------------------------------------

    def _release(self) -> int:
        """Let go of everything that is stopped; return the TID of the tracer."""
        for tid in self._seized:
            stop = self.stops.get(tid)
            self._detach(tid, stop.pending_signal if stop else 0)
        self._seized.clear()
        self.stops.clear()
        for pid in self.processes[1:]:
            self._procs.pop(pid).close()
        return get_native_id()

    def _detach(self, tid: int, signal: int) -> None:
        try:
            detach(tid, signal)
        except ProcessLookupError:  # it has been killed, or has not stopped yet
            waiting.reap(tid)


def _is_ended(proc: Proc, tid: int) -> bool:
    """Tell whether a thread executes nothing any more."""
    try:
        return proc.stat(tid).is_ended
    except OSError as error:
        return is_missing(error)


def _is_ours(proc: Proc, tid: int) -> bool:
    """Tell whether this thread of patcher traces a thread."""
    try:
        return int(proc.status(tid)["TracerPid"]) == get_native_id()
    except OSError:
        return False
