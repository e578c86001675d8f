"""What a protocol needs of a machine: memory, CPUs to stop and to serialise, breakpoint handlers.

By default no CPU executes the memory: it is a buffer, or the copy of a file. A machine with CPUs
overrides `stop`, `resume`, `sync`, `instruction_pointers` and `step_out`, and reports every
breakpoint that a CPU hits to `int3`. A protocol calls none of these itself: it yields steps, and
`steps.run` carries them out.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection
from threading import Condition

from patcher.memory.text_memory import TextMemory

Value = int | bytes
Int3Handler = Callable[[int], int | None]


class Machine:
    """Memory that holds code, the CPUs that execute it, and the variables they share.

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

        Raises StateError if one cannot be stopped for now, WriteError if one never can. `resume` is
        called afterwards in any case.
        """

    def resume(self) -> None:
        """Let the stopped CPUs go on; each serialises before its next instruction."""
        self.memory.sync()

    def sync(self) -> None:
        """Return when every CPU has serialised since the call; raise WriteError if one cannot.

        A CPU in `int3` has serialised only when it has left `int3` and skipped the site.
        """
        self.memory.sync()

    def instruction_pointers(self) -> Collection[int]:
        """Return the run-time addresses at which code goes on.

        There is one for every thread, waiting ones included, and one for the return of every
        signal handler, each from some time since the call. Raises StateError if they are unknown.
        """
        return ()

    def step_out(self, to: Callable[[int], int]) -> None:
        """Have each stopped CPU go on where `to` says, by where it would go on.

        Only what it would execute between the two, which does nothing, is left out.
        """

    def int3(self, address: int) -> int | None:
        """Return how many bytes the CPU that hit a breakpoint at `address` is to skip.

        None means that no handler here knows the breakpoint: it is for others.
        """
        for handler in tuple(self.int3_handlers):
            if (skip := handler(address)) is not None:
                return skip
        return None

    def load(self, variable: str) -> Value:
        """Return the value of a shared variable; 0 before anything was stored."""
        with self._changed:
            return self._variables[variable]

    def store(self, variable: str, value: Value) -> None:
        """Store a value in a shared variable."""
        with self._changed:
            self._variables[variable] = value
            self._changed.notify_all()

    def add(self, variable: str, number: int) -> int:
        """Add to a shared variable atomically, and return the sum."""
        with self._changed:
            value = int(self._variables[variable]) + number
            self._variables[variable] = value
            self._changed.notify_all()
            return value

    def exchange(self, variable: str, old: int, new: int, statistic: str) -> None:
        """Wait until the variable is `old`, and in the same atomic act make it `new`.

        Adds one to `statistic` if it had to wait.
        """
        with self._changed:
            self.statistics[statistic] += self._variables[variable] != old
            self._changed.wait_for(lambda: self._variables[variable] == old)
            self._variables[variable] = new

    def count(self, statistic: str) -> None:
        """Add one to a statistic, atomically."""
        with self._changed:
            self.statistics[statistic] += 1
