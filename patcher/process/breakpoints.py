"""Switch the sites of a process by the breakpoint protocol: its threads are never all halted.

See `tracing` for how threads come over a breakpoint, and protocols.breakpoint for the order of what
is written. A site of two instructions, or more, is refused: where a thread is that runs cannot be
told.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn, Self

from patcher.errors import NoProcessError, PatchError, StandingError, StateError, WriteError
from patcher.ftrace.mappings import Range
from patcher.modify import Batch
from patcher.protocols.breakpoint import modify as modify_by_breakpoints
from patcher.protocols.breakpoint import remove as remove_breakpoints
from patcher.protocols.instruction_pointers import not_one_instruction
from patcher.protocols.machine import Machine

from .guarded_memory import GuardedMemory
from .memory import ProcessMemory
from .signals import signals_later
from .target import Target
from .tracing import Tracing

SEVERAL = "is more than one instruction, which only the stop method switches"


def modify(target: Target, batch: Batch) -> None:
    """Make all changes of the batch, or none if one of them does not verify.

    Raises as protocols.breakpoint.modify does, with each site whole: if a breakpoint cannot be
    removed at once, patcher stays until it is. HaltError if a thread cannot be traced in time, and
    NoProcessError if the process has ended. No signal that can be caught ends patcher meanwhile.
    """
    for change in not_one_instruction(batch):
        raise StateError(
            target.name, SEVERAL, address=change.address, symbol=change.symbol
        )  # fmt: skip
    with signals_later(), TracedMachine(target, batch) as machine:
        try:
            machine.modify()
        except PatchError as error:
            raise machine.settled(error) from error


class TracedMachine(Machine):
    """The process of `target` traced during its `with`, for one batch."""

    def __init__(self, target: Target, batch: Batch) -> None:
        self._process = target.machine.memory
        super().__init__(GuardedMemory(self._process))
        self._name = target.name
        self._batch = batch
        code = _mappings(self._process, batch.addresses)
        timeout = target.machine.timeout
        self._tracing = Tracing(target.proc, target.name, timeout, code, self.int3)

    def __enter__(self) -> Self:
        self._tracing.begin()
        try:
            self._process.hold()
        except BaseException:
            self._tracing.end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.let_go()
        self._tracing.end()

    def modify(self) -> None:
        """Make the changes. Raises as protocols.breakpoint.modify does."""
        modify_by_breakpoints(self, self._batch)

    def settled(self, error: PatchError) -> PatchError:
        """Wait until no breakpoint stands after an error, and return what is to be raised.

        There is no limit of time here: whoever hits a breakpoint without us is killed.
        """
        stands = isinstance(error, StandingError)
        while stands and not self._tracing.is_over:
            with suppress(StandingError):
                remove_breakpoints(self, self._batch)
                stands = False
        with suppress(WriteError):
            self.sync()
        if self._tracing.is_over:
            return NoProcessError(self._name, "has ended")
        if isinstance(error, StandingError):
            return WriteError(error.path, f"{error.__cause__}; no breakpoint of ours stands by now")
        return error

    def sync(self) -> None:
        """Return when every thread has serialised, or was in a system call."""
        self._tracing.sync()

    def stop(self) -> NoReturn:
        """Refuse: who traces halts nobody."""
        raise StateError(self._name, "its threads are traced, and not to be halted")

    def instruction_pointers(self) -> NoReturn:
        """Refuse: where threads are that run cannot be told."""
        raise StateError(self._name, "where its threads are cannot be told while they run")


def _mappings(memory: ProcessMemory, addresses: Sequence[int]) -> list[Range]:
    """Return the run-time addresses of the mappings that hold some of ascending addresses."""
    ranges = [each.range for each in memory.mappings()]
    return [each for each in ranges if _is_in(each, addresses)]


def _is_in(some: Range, addresses: Sequence[int]) -> bool:
    number = bisect_left(addresses, some.start)
    return number < len(addresses) and addresses[number] < some.end
