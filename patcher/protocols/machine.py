"""What a protocol needs of a machine: memory, CPUs to stop and to serialise, handlers to run first.

The default is a machine on which no CPU executes the memory: a buffer, the copy of a file. A
machine with CPUs overrides `stop`, `resume`, `sync` and `instruction_pointers`, and reports every
breakpoint that is hit to `int3`. A protocol never calls these itself: it yields steps, and
`steps.run` carries them out.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection
from threading import Condition

from patcher.memory.text_memory import TextMemory

Value = int | bytes
Int3Handler = Callable[[int], int | None]


class Machine:
    """Memory that holds code, the CPUs that execute it, and what those share with the writer.

    `int3_handlers` are asked in order; each takes the address of the breakpoint and returns how
    many bytes to skip from there, or None if the breakpoint is not its own. `statistics` counts
    what the kernel counts, under the kernel's names.
    """

    def __init__(self, memory: TextMemory) -> None:
        self.memory = memory
        self.int3_handlers: list[Int3Handler] = []
        self.statistics: Counter[str] = Counter()
        self._variables: defaultdict[str, Value] = defaultdict(int)
        self._changed = Condition()

    def stop(self) -> None:
        """Return when every other CPU stands between two instructions, and not in a handler.

        WriteError if one cannot be stopped. `resume` is called afterwards in any case.
        """

    def resume(self) -> None:
        """Let the stopped CPUs go on, each serialised before its next instruction."""
        self.memory.sync()

    def sync(self) -> None:
        """Return when every CPU has been serialised since the call. WriteError if one cannot.

        One that is in `int3` is so only when it has left it and skipped what it was told to.
        """
        self.memory.sync()

    def instruction_pointers(self) -> Collection[int]:
        """The run-time addresses at which those who execute the memory go on.

        Of every thread, waiting ones too, and of every signal handler's return: each as it was at
        some time since the call. StateError if it cannot be told.
        """
        return ()

    def int3(self, address: int) -> int | None:
        """How many bytes to skip for the CPU that hit a breakpoint at `address`.

        None: nobody here knows the breakpoint, it is for others.
        """
        for handler in tuple(self.int3_handlers):
            if (skip := handler(address)) is not None:
                return skip
        return None

    def load(self, variable: str) -> Value:
        """The value of a shared variable; 0 before anything was stored."""
        with self._changed:
            return self._variables[variable]

    def store(self, variable: str, value: Value) -> None:
        """Give a shared variable a value."""
        with self._changed:
            self._variables[variable] = value
            self._changed.notify_all()

    def add(self, variable: str, number: int) -> int:
        """Add to a shared variable, indivisibly, and give what it is then."""
        with self._changed:
            value = int(self._variables[variable]) + number
            self._variables[variable] = value
            self._changed.notify_all()
            return value

    def exchange(self, variable: str, old: int, new: int, statistic: str) -> None:
        """Wait until the variable is `old`, and in the same indivisible act make it `new`.

        Counts in `statistic` if that took waiting.
        """
        with self._changed:
            self.statistics[statistic] += self._variables[variable] != old
            self._changed.wait_for(lambda: self._variables[variable] == old)
            self._variables[variable] = new

    def count(self, statistic: str) -> None:
        """Add one to a statistic, indivisibly."""
        with self._changed:
            self.statistics[statistic] += 1
