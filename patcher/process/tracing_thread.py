"""The thread of patcher that traces.

All requests for a tracee must come from the thread that seized it. And when that thread ends, the
kernel lets go of all that it traces, running or not: nothing else lets go of what runs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from errno import EAGAIN
from threading import get_native_id
from typing import TypeVar

from . import waiting

RESCUE = 0.02  # seconds
Result = TypeVar("Result")


class TracingThread:
    """Does one thing after the other, until it is ended. Raises OSError if there can be none."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "tracer")
        try:
            self._tid = self.do(get_native_id)
        except RuntimeError as error:  # that is all that Python tells
            raise OSError(EAGAIN, f"no thread to trace with: {os.strerror(EAGAIN)}") from error

    def start(self, action: Callable[[], Result]) -> Future[Result]:
        """Have it do something when all before is done."""
        return self._thread.submit(action)

    def do(self, action: Callable[[], Result]) -> Result:
        """Have it do something, and return what that gives."""
        return self.start(action).result()

    def do_rescued(
        self, action: Callable[[], Result], seized: Callable[[], Iterable[int]]
    ) -> Result:
        """Have it do something that seizes, and help it out where it cannot go on.

        A thread that executes another program waits until all others are gone, those that the
        tracer has to reap as well, and meanwhile the kernel lets nobody seize: so the tracer waits
        for that thread, which waits for the tracer. Any thread of patcher may reap. `seized` gives
        the TIDs of what is traced.
        """
        doing = self.start(action)
        while not doing.done():
            with suppress(TimeoutError):
                doing.result(RESCUE)
            for tid in seized() if not doing.done() else ():
                waiting.reap(tid)
        return doing.result()

    def end(self) -> None:
        """Return when it has ended: nothing is traced by it any more."""
        self._thread.shutdown()
        while os.path.exists(f"/proc/self/task/{self._tid}"):  # until then it traces
            time.sleep(0)
