"""Events as a machine that calls, returns, throws and switches stacks would write them.

It knows what it did: which call each return is of, and which calls were left without one.
"""

from collections.abc import Iterator
from typing import NamedTuple

from patcher.trace.events import Event

FUNCTION = (
    0x100  # bytes of each function; it is entered at 0, returns at 0x10, and calls further on
)
RETURN, AFTER_CALL = 0x10, 0x20


class Program:
    """The names of functions, which stand one behind the other from 0x40_0000 on."""

    def __init__(self, *functions: str) -> None:
        self.functions = functions
        self._numbers = {function: number for number, function in enumerate(functions)}

    def site(self, function: str) -> int:
        return 0x40_0000 + self._numbers[function] * FUNCTION

    def function(self, site: int) -> str:
        return self.functions[(site - 0x40_0000) // FUNCTION]

    def caller(self, address: int) -> str:
        known = 0x40_0000 <= address < 0x40_0000 + len(self.functions) * FUNCTION
        return self.function(address) if known else f"{address:#x}"

    def thread(self, tid: int) -> str:
        return f"worker{tid % 10}"

    def process(self, tid: int) -> int:
        return tid // 10 * 10

    def is_return(self, site: int) -> bool:
        return site % FUNCTION == RETURN


class Call:
    """A call that was made: where it stands on which stack, and, when it is over, its return."""

    def __init__(self, function: str, entry: Event, depth: int, frame: int, stack: int) -> None:
        self.function = function
        self.entry = entry
        self.depth = depth
        self.frame = frame
        self.stack = stack
        self.end: Event | None = None


class Place(NamedTuple):
    """A stack in memory: its number in the thread, and where it begins."""

    number: int
    top: int


class CallMachine:
    """A thread. `calls` are all it made, and `events` what was written of them."""

    def __init__(self, program: Program, tid: int = 4711, top: int = 0x7FFE_4000) -> None:
        self.program = program
        self.tid = tid
        self.time = 1_000_000
        self.events: list[Event] = []
        self.calls: list[Call] = []
        self._tops = [top]
        self._stacks: list[list[Call]] = [[]]
        self._at = 0  # the stack it is on

    @property
    def open(self) -> list[Call]:
        return self._stacks[self._at]

    def write(self, site: int, caller: int, stack: int) -> Event:
        """Write an event, 100 ns after the one before."""
        self.time += 100
        event = Event(self.time, self.tid % 2, self.tid, site, caller, stack % 2**32)
        self.events.append(event)
        return event

    def call(self, function: str, frame: int = 0x40) -> Event:
        """Call a function, whose own calls will stand `frame` bytes lower."""
        if self.open:
            by = self.open[-1]
            caller = self.program.site(by.function) + AFTER_CALL
            return self._entered(function, caller, by.entry.stack - by.frame, frame)
        return self._entered(function, 0x9999, self._tops[self._at], frame)

    def ret(self) -> Event:
        """Return from the innermost call."""
        call = self.open.pop()
        site = self.program.site(call.function) + RETURN
        call.end = self.write(site, call.entry.caller, call.entry.stack)
        return call.end

    def tail_call(self, function: str, frame: int = 0x40) -> Event:
        """Leave the innermost call by a jump to another function; its return is told before."""
        call = self.open[-1]
        self.ret()
        return self._entered(function, call.entry.caller, call.entry.stack, frame)

    def unwind(self, calls: int = 1) -> None:
        """Leave calls without a return, as throw and longjmp do. Nothing is written."""
        del self.open[len(self.open) - calls :]

    def new_stack(self, top: int) -> None:
        """Switch to a stack that nothing is open on."""
        self._tops.append(top)
        self._stacks.append([])
        self._at = len(self._stacks) - 1

    def to_stack(self, number: int) -> None:
        """Switch to a stack."""
        self._at = number

    @property
    def stacks(self) -> int:
        return len(self._stacks)

    def _entered(self, function: str, caller: int, stack: int, frame: int) -> Event:
        entry = self.write(self.program.site(function), caller, stack)
        call = Call(function, entry, len(self.open), frame, self._at)
        self.calls.append(call)
        self.open.append(call)
        return entry


def merged(*machines: CallMachine) -> list[Event]:
    """The events of several threads, as time went."""
    return sorted((event for machine in machines for event in machine.events), key=lambda e: e.time)


def batches(events: list[Event], size: int) -> Iterator[list[Event]]:
    for start in range(0, len(events), size):
        yield events[start : start + size]
