"""The time between two looks: it ends early with the process, with who reads, and by a signal."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType

from patcher.closing import Closing


class Pause(Closing):
    """Wait while process `pid` lives; `signals` are taken instead of what they do otherwise.

    Those that are ignored stay so. Who reads does it from the descriptor `reader`, if from any.
    """

    def __init__(self, pid: int, signals: Sequence[signal.Signals], reader: int | None = 1) -> None:
        self._poll = select.poll()
        if reader is not None:
            self._poll.register(reader, 0)  # tells when nobody reads any more
        self._pidfd = -1
        with suppress(OSError):  # where there are none, the end is seen by the next look
            self._pidfd = os.pidfd_open(pid)
            self._poll.register(self._pidfd, select.POLLIN)
        self._taken, self._told = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._poll.register(self._taken, select.POLLIN)
        self._before = signal.set_wakeup_fd(self._told, warn_on_full_buffer=False)
        self._handlers = {
            each: signal.signal(each, _take)
            for each in signals
            if signal.getsignal(each) is not signal.SIG_IGN
        }

    def close(self) -> None:
        """Let signals do what they did."""
        for each, handler in self._handlers.items():
            signal.signal(each, handler)
        signal.set_wakeup_fd(self._before)
        os.close(self._taken)
        os.close(self._told)
        if self._pidfd >= 0:
            os.close(self._pidfd)

    def wait(self, seconds: float) -> list[int] | None:
        """Return the signals that have come, at the latest after so long; None if nobody reads."""
        ready = [fd for fd, _ in self._poll.poll(seconds * 1000)]
        if 1 in ready:
            return None
        return [*os.read(self._taken, 64)] if self._taken in ready else []


def _take(_: int, __: FrameType | None) -> None:
    """Take a signal: its number is in the pipe already."""
