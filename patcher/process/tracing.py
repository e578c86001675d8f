"""All threads of an address space run, traced, while breakpoints may stand in their code.

None waits for the others. Each has to stop for a moment when this begins, and where it must have
serialised unless it is in a system call. See `traced_threads` for what becomes of them meanwhile:
no mapping of code changes, and no thread or child is born.

If patcher is killed, by SIGKILL or for want of memory, everything goes on, and the breakpoints that
stand then end the process when one is hit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from threading import Condition

from patcher.errors import HaltError, NoProcessError, StateError, WriteError
from patcher.ftrace.mappings import Range

from .proc import Proc, is_missing
from .ptrace import Options
from .traced_threads import TRAP, TracedThreads
from .tracees import SHORTEST_SLEEP, Tracees
from .tracing_thread import TracingThread

OPTIONS = Options.TRACESYSGOOD | Options.TRACEEXEC


class Tracing:
    """All threads of the process behind `proc`, and of whoever shares its address space.

    `name` names it in messages, `timeout` is in seconds. The mappings of `code` stay as they are.
    `int3` takes the run-time address of a breakpoint that was hit, and returns how many bytes to
    skip from there, or None if it is nothing of ours; it is called in another thread.
    """

    def __init__(
        self,
        proc: Proc,
        name: str,
        timeout: float,
        code: Sequence[Range],
        int3: Callable[[int], int | None],
    ) -> None:
        self._proc = proc
        self._name = name
        self._timeout = timeout
        self._tracees = Tracees(proc, name, OPTIONS)
        self._threads = TracedThreads(self._tracees, code, int3)
        self._tracer = TracingThread()
        self._changed = Condition()  # of the next two
        self._asked = 0  # how often everybody was to serialise
        self._done = 0  # how often everybody has
        self._fault: Exception | None = None
        self._is_ending = False

    @property
    def is_over(self) -> bool:
        """Whether no thread is left."""
        return not self._tracees.seized

    def begin(self) -> None:
        """Return when every thread is traced. Raises PatchError, and nothing is traced then."""
        try:
            self._refuse_handler()
            self._tracer.do_rescued(self._begin, lambda: list(self._tracees.seized))
        except BaseException:
            self.end()
            raise
        self._tracer.start(self._look_on)

    def sync(self) -> None:
        """Return when every thread has serialised since the call, and left our breakpoints.

        Raises WriteError if one has not in time.
        """
        with self._changed:
            self._asked += 1
            if self._changed.wait_for(lambda: self._done == self._asked, self._timeout):
                return
        raise WriteError(self._name, self._why_late()) from self._fault

    def end(self) -> None:
        """Let everything go on untraced."""
        self._is_ending = True
        self._tracer.do(self._release)
        self._tracer.end()

    def _refuse_handler(self) -> None:
        """Raise StateError if SIGTRAP is handled or ignored.

        If it is blocked or ignored when a breakpoint is hit, the kernel makes its default action
        of what it was. (kernel/signal.c, force_sig_info_to_task.)
        """
        try:
            status = self._proc.status()
        except OSError as error:
            raise NoProcessError(self._name, "has ended") from error
        for row, what in (("SigIgn", "ignores"), ("SigCgt", "handles")):
            if int(status[row], 16) & TRAP:
                why = f"it {what} SIGTRAP, and a breakpoint could put an end to that"
                raise StateError(self._name, f"{why}: use the stop method")

    # --- what the tracer does -----------------------------------------------------------------

    def _begin(self) -> None:
        deadline = time.monotonic() + self._timeout
        while (new := self._tracees.seize_new()) or self._threads.unsynced or self._find_sharers():
            self._threads.unsynced.update(new)
            self._look_at_all()
            if self._threads.has_executed:
                raise HaltError(self._name, "executes another program: try again")
            if time.monotonic() > deadline:
                what = f"{self._why_late()}; nothing was written, and all threads run"
                raise HaltError(self._name, what)

    def _find_sharers(self) -> bool:
        """Look for processes that share the address space; tell whether to look again."""
        if self.is_over:
            raise NoProcessError(self._name, "has ended")
        try:
            found = self._tracees.sharers_of(next(iter(self._tracees.seized)))
        except OSError as error:
            if not is_missing(error):
                raise
            return True
        self._tracees.adopt(found)
        return bool(found)

    def _look_on(self) -> None:
        served = 0
        while not self._is_ending:
            if served != self._asked:
                served = self._asked
                self._threads.ask_to_serialise()
            try:
                self._look_at_all()
            except Exception as fault:  # noqa: BLE001  that thread stands, and is looked at again
                self._fault = fault
            if not self._threads.unsynced:
                with self._changed:
                    self._done = served
                    self._changed.notify_all()

    def _look_at_all(self) -> None:
        if not self._threads.look_at_all():
            self._threads.forget_ended()
            time.sleep(SHORTEST_SLEEP)

    def _why_late(self) -> str:
        tid = min(self._threads.unsynced, default=self._proc.pid)
        return self._tracees.why_late(tid, self._timeout)

    def _release(self) -> None:
        self._threads.release()
        self._tracees.forget()
