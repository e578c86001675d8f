"""What was called, as it is told: events, and the names in them."""

from __future__ import annotations

from typing import NamedTuple, Protocol


class Event(NamedTuple):
    """A function was entered, or left, in one thread.

    `time` is in nanoseconds of CLOCK_MONOTONIC. `site` is the run-time address of the site that was
    executed, and `caller` the one where the function returns to. `stack` is the low half of the
    address at which that stands on the stack: the same for the entry of a call and its return, and
    lower for a call inside of it. `cpu` is where the thread was.
    """

    time: int
    cpu: int
    tid: int
    site: int
    caller: int
    stack: int


class Names(Protocol):
    """What the addresses and numbers in events are called by people."""

    def function(self, site: int) -> str:
        """Name the function that a site is in, by the site's run-time address."""

    def caller(self, address: int) -> str:
        """Name the function that is returned to at a run-time address; `0x...` if there is none."""

    def thread(self, tid: int) -> str:
        """Name a thread as the kernel does (comm, 15 bytes at most)."""

    def process(self, tid: int) -> int:
        """Return the PID of the process that a thread is of."""

    def is_return(self, site: int) -> bool:
        """Tell whether the site is at a function's end: an event of it is a return."""
