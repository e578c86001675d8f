"""The threads that execute in one address space, and the processes that they are of, to be seized.

All of this is done by the thread that traces them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from errno import ESRCH
from threading import get_native_id

from patcher.errors import HaltError, PatchError

from .access import no_access
from .proc import STATES, Proc, is_missing
from .ptrace import Options, interrupt, seize
from .sharers import sharers

TRIES = 20  # to seize a thread
PATIENCE = 1.0  # seconds, for one that is listed and cannot be found
SHORTEST_SLEEP = 0.00005  # seconds


class Tracees:
    """The process behind `proc`, and whoever is found to share its address space.

    `name` names the process in messages, `options` are those with which threads are seized.
    `seized` gives for each TID the process that it is of.
    """

    def __init__(self, proc: Proc, name: str, options: Options = Options.NONE) -> None:
        self._name = name
        self._options = options
        self._procs = {proc.pid: proc}
        self.seized: dict[int, Proc] = {}

    @property
    def processes(self) -> list[Proc]:
        """The process and those that share its address space."""
        return list(self._procs.values())

    def forget(self) -> None:
        """Forget all threads, and whoever shares the address space."""
        self.seized.clear()
        for each in self.processes[1:]:
            self._procs.pop(each.pid).close()

    def seize_new(self) -> list[int]:
        """Seize and interrupt all threads that are not seized yet; return their TIDs.

        Raises HaltError if another process traces one, AccessError or NoProcessError if they cannot
        be traced.
        """
        new = []
        for tid, proc in self._threads():
            if tid not in self.seized and self._seize(tid, proc):
                self.seized[tid] = proc
                new.append(tid)
        return new

    def sharers_of(self, tid: int) -> list[int]:
        """Return the PIDs of processes that share the address space of a thread and are not known.

        Raises HaltError where this kernel cannot tell, and OSError if the thread has ended.
        """
        try:
            found = list(sharers(tid, {*self._procs}))
            # A thread that has ended has no memory, and in that is like all of the kernel's.
            if found and not self.seized[tid].read(f"task/{tid}/maps"):
                raise ProcessLookupError(ESRCH, f"thread {tid} has ended")
            return found
        except OSError as error:
            if is_missing(error):
                raise
            what = "who shares its address space cannot be told"
            raise HaltError(self._name, f"{what}: {error.strerror}") from error

    def adopt(self, pids: Iterable[int]) -> None:
        """Have the threads of these processes seized, too."""
        for pid in pids:
            with suppress(ProcessLookupError):
                self._procs[pid] = Proc(pid)

    def why_late(self, tid: int, timeout: float) -> str:
        """Say that a seized thread has not stopped in so many seconds, and what it is doing."""
        try:
            stat = self.seized[tid].stat(tid)
        except OSError:
            return f"thread {tid} did not stop within {timeout:g} s"
        doing = STATES.get(stat.state, stat.state)
        return f"thread {tid} ({stat.name}) did not stop within {timeout:g} s: it is {doing}"

    def _threads(self) -> Iterator[tuple[int, Proc]]:
        for proc in self.processes:
            try:
                yield from ((tid, proc) for tid in proc.threads())
            except OSError as error:
                if len(self._procs) == 1 or not is_missing(error):
                    raise no_access(proc, self._name, error) from error

    def _seize(self, tid: int, proc: Proc) -> bool:
        """Seize one thread; tell whether that was possible. One that has ended need not be.

        A leader is refused for a moment while another thread that executes a program takes its TID,
        and may be a tracee of ours already when it has. For longer there may be no such thread,
        where those two wait for a processor.
        """
        deadline = time.monotonic() + PATIENCE
        tries_left = TRIES
        while True:
            try:
                seize(tid, self._options)
            except OSError as error:
                if proc.has_thread_ended(tid):
                    return False
                if not _is_ours(proc, tid):
                    tries_left -= not is_missing(error)
                    if not tries_left or time.monotonic() > deadline:
                        raise self._refused(tid, proc, error) from error
                    time.sleep(SHORTEST_SLEEP)
                    continue
            break
        with suppress(ProcessLookupError):  # it has ended since
            interrupt(tid)
        return True

    def _refused(self, tid: int, proc: Proc, error: OSError) -> PatchError:
        name = self._name
        if is_missing(error) and not proc.has_ended:
            return HaltError(name, f"thread {tid} comes and goes: try again")
        if proc.pid != next(iter(self._procs)):
            name += f": process {proc.pid}, which shares its address space"
        elif tid != proc.pid:
            name += f": thread {tid}"
        return no_access(proc, name, error)


def _is_ours(proc: Proc, tid: int) -> bool:
    """Tell whether this thread of patcher traces a thread."""
    try:
        return int(proc.status(tid)["TracerPid"]) == get_native_id()
    except OSError:
        return False
