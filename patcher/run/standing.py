"""The halt of a process that is traced already: what runs of it is interrupted, and goes on later.

No report is taken, so whoever handles the reports handles these, too: a thread that was interrupted
has one more, and is let go on after it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

from patcher.errors import HaltError
from patcher.process import waiting
from patcher.process.proc import Proc
from patcher.process.ptrace import Registers, all_registers, interrupt, step_out

SLEEP = 0.0002  # seconds


class Standing:
    """All threads of a traced process; those of which `stands` is true cannot run anyway.

    `name` names the process in messages, `timeout` is in seconds.
    """

    def __init__(
        self, proc: Proc, name: str, timeout: float, stands: Callable[[int], bool]
    ) -> None:
        self._proc = proc
        self._name = name
        self._timeout = timeout
        self._stands = stands
        self.stops: dict[int, object] = {}

    def stop(self) -> None:
        """Return when no thread runs. Raises HaltError if one does not stop in time."""
        deadline = time.monotonic() + self._timeout
        asked: set[int] = set()
        while (moving := self._moving()) is not None:
            for tid in moving:
                if tid not in asked:
                    asked.add(tid)
                    with suppress(OSError):  # it has ended, or is only being born
                        interrupt(tid)
            if time.monotonic() > deadline:
                who = f"thread {moving[0]}" if moving else "a thread that executes another program"
                what = f"{who} did not stop within {self._timeout:g} s"
                raise HaltError(self._name, f"{what}; nothing was written")
            time.sleep(SLEEP)
        self.stops = dict.fromkeys(self._threads())

    def registers(self) -> list[Registers]:
        """Return the registers of all threads, which must be stopped; of one that was killed none.

        A thread that waits for the child that it has made by vfork has none to be seen, and goes on
        behind a system call, which is in no site.
        """
        return all_registers(self.stops)

    def step_out(self, to: Callable[[int], int]) -> int:
        """Have all threads, which must be stopped, go on where `to` says (ptrace.step_out)."""
        return step_out(self.stops, to)

    def release(self) -> None:
        """Leave all threads to whoever handles their reports."""
        self.stops = {}

    def _moving(self) -> list[int] | None:
        """Return the threads that are not stopped, None if all are.

        While one executes another program there may be none to be listed; but whose report is
        handled always stands.
        """
        threads = self._threads()
        moving = [tid for tid in threads if not self._is_stopped(tid)]
        return moving if moving or not any(map(self._stands, threads)) else None

    def _threads(self) -> list[int]:
        try:
            return self._proc.threads()
        except ProcessLookupError as error:
            raise HaltError(self._name, "has ended") from error

    def _is_stopped(self, tid: int) -> bool:
        if self._stands(tid):
            return True
        try:
            if waiting.look(tid) is not None:
                return True
            return self._proc.stat(tid).is_ended
        except ProcessLookupError:
            return True
        except ChildProcessError:  # not traced yet: it is only being born
            return False
