"""A process as a Machine: its CPUs are its threads, and those of who shares its address space."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from patcher.protocols.machine import Machine

from .memory import ProcessMemory
from .proc import Proc
from .ptrace import Registers
from .signal_frames import words_on_stacks


class Halting(Protocol):
    """How all threads of an address space are stopped, and let go, as Halt does it."""

    @property
    def stops(self) -> Mapping[int, object]:
        """The TIDs of what is stopped."""

    def stop(self) -> None:
        """Return when all threads are stopped. Raises PatchError with all of them released."""

    def registers(self) -> Sequence[Registers]:
        """Return the registers of all threads, which must be stopped."""

    def step_out(self, to: Callable[[int], int]) -> int:
        """Have all threads, which must be stopped, go on where `to` says (ptrace.step_out)."""

    def release(self) -> None:
        """Let all threads go on, as far as they are stopped for this."""


class ProcessMachine(Machine):
    """The process behind `proc`; `name` names it in messages.

    A thread that does not stop within `timeout` seconds is a StateError: nothing has been written
    then, and all threads run. What is stopped twice runs again when it is resumed twice. Raises
    OSError if the memory cannot be opened; `close` lets everything go. `halt` makes what stops the
    threads.
    """

    def __init__(
        self,
        proc: Proc,
        name: str,
        timeout: float,
        halt: Callable[[Proc, str, float], Halting],
    ) -> None:
        self.memory: ProcessMemory = ProcessMemory(proc, name)
        super().__init__(self.memory)
        self._proc = proc
        self._name = name
        self.timeout = timeout
        self._new_halt = halt
        self._halt: Halting | None = None
        self._depth = 0

    def close(self) -> None:
        """Let all threads go, and close the memory."""
        self._let_go()
        self.memory.close()

    def stop(self) -> None:
        """Return when every thread stands still, those of address-space sharers as well.

        Raises StateError if one does not in time, or cannot be traced for now; AccessError or
        NoProcessError if it never can be.
        """
        if self._halt is None:
            halt = self._new_halt(self._proc, self._name, self.timeout)
            halt.stop()
            self._halt = halt
            self.memory.hold()
        self._depth += 1

    def resume(self) -> None:
        """Let all threads go, with their signals."""
        self._depth -= 1
        if self._depth <= 0:
            self._let_go()

    def _let_go(self) -> None:
        self._depth = 0
        self.memory.let_go()
        if self._halt is not None:
            self._halt.release()
            self._halt = None

    @property
    def threads(self) -> int:
        """How many threads stand still."""
        return len(self._halt.stops) if self._halt else 0

    def instruction_pointers(self) -> Collection[int]:
        """Return where each stopped thread goes on, and every word on a stack that is in code.

        Among those are the addresses where interrupted code goes on after signal handlers. Raises
        StateError if the threads are not stopped, or their stacks too large to be looked through.
        """
        if self._halt is None:
            return super().instruction_pointers()
        found = set()
        mappings = self.memory.mappings()
        code = [each.range for each in mappings if each.protection[2] == "x"]
        for registers in self._halt.registers():
            found.add(registers.instruction_pointer)
            words = words_on_stacks(
                [registers.stack_pointer], registers.machine, mappings, self.memory.read
            )
            found.update(word for word in words if any(each.holds(word) for each in code))
        return found

    def step_out(self, to: Callable[[int], int]) -> None:
        """Have each stopped thread go on where `to` says, by where it would go on."""
        if self._halt is not None:
            self.statistics["stepped_out"] += self._halt.step_out(to)
