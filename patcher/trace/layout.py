"""What is where in the memory that code in the traced process and patcher have in common.

A region is code, which is never writable, and behind it one control page, which is never code:

    mark        what this is, and which: 64 bytes
    code        one way in for each kind of site
    sections    descriptors of restartable sequences, 32 bytes each
    stubs       one for each site that is counted, 16 bytes each, from a page's start on
    control     the control page; a fork has it filled with zeros, so that the gate is closed there

The rings are elsewhere, in a memfd, one after the other, each for one processor:

    head        bytes that were ever written; what commits an event
    tail        bytes that were ever read; head goes no further than `limit` beyond it
    lost        events that found no room
    data        at +4096: a power of two; an event is where `position & mask` says

Behind the rings are the counters, 8 bytes for each stub, for each processor.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

PAGE = 4096
EVENT = Struct("<QQQII")  # time stamp, return address, caller, TID, low half of the stack's address
EVENT_SIZE = EVENT.size
STUB_SIZE = 16

# In a ring, bytes from its start.
HEAD, TAIL, LOST, DATA = 0, 8, 16, PAGE

# In the control page, bytes from its start. What an event reads is in one cache line.
CONTROL = {
    "gate": 0, "cpus": 4, "stride": 8, "rings": 16, "mask": 24, "limit": 32, "counters": 40,
    "counters_stride": 48, "stubs": 56,
}  # fmt: skip
HOT = Struct("<IIQQQQQQQ")


class Control(NamedTuple):
    """What the code reads: processors, bytes from ring to ring, and so on; all 0: nothing goes on.

    `rings` and `counters` are run-time addresses. A gate that is not 0 is open.
    """

    gate: int = 0
    cpus: int = 0
    stride: int = 0
    rings: int = 0
    mask: int = 0
    limit: int = 0
    counters: int = 0
    counters_stride: int = 0
    stubs: int = 0

    def encode(self) -> bytes:
        """Encode them as they stand at the start of the control page."""
        return HOT.pack(*self)
