"""A program that a process executes: its modules are switched as they come, and forgotten in time.

A module is switched at the end of the system call that maps its code, which is before any of it is
executed or even relocated, whatever dynamic linker it is. While a program starts every system call
is looked at. It has started when the dynamic linker says that its list is CONSISTENT: then all that
it starts with is there, and no constructor has opened more.

After that the calls of a thread are looked at from when the dynamic linker tells of a change by its
notification, until it tells that the change is done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self

from patcher.ftrace.mappings import Mapping, Range
from patcher.options import STOP_WITHIN
from patcher.process import auxiliary_vector, r_debug
from patcher.process.auxiliary_vector import AT_BASE
from patcher.process.live_sites import LiveSites
from patcher.process.machine import Halting
from patcher.process.proc import Proc
from patcher.process.switch import in_a_halt
from patcher.process.target import Target
from recordmcount.elf.object import ELFCLASS64
from recordmcount.errors import Error

from .policy import Policy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .notification import Breakpoint

EI_CLASS = 4  # byte offset in an ELF file

# The first byte of a mapping: run-time address, and the file, and where in it.
Place = tuple[int, int, int, int]
Report = Callable[[str], None]
NewHalt = Callable[[Proc, str, float], Halting]


class Execution:
    """What is known of a program since it was executed; a process that is forked has a copy.

    `auxiliary` is its auxiliary vector. `r_debug` and `notify` are run-time addresses, 0 before
    they are known. `watches_all`: all system calls are looked at, as there can be no breakpoint.
    `known` are the mappings that nothing needs to be done with.
    """

    def __init__(self, auxiliary: dict[int, int], *, is_64: bool, is_starting: bool) -> None:
        self.is_64 = is_64
        self.auxiliary = auxiliary
        self.is_starting = is_starting
        self.r_debug = 0
        self.notify = 0
        self.watches_all = False
        self.has_sites = False
        self.known: dict[Place, Range] = {}

    @classmethod
    def begun(cls, proc: Proc) -> Self:
        """Look at a process before its first instruction. Raises OSError."""
        with open(proc.open("exe"), "rb", buffering=0) as stream:
            is_64 = stream.read(EI_CLASS + 1)[-1] == ELFCLASS64
        auxiliary = auxiliary_vector.parse(proc.read("auxv"), is_64=is_64)
        return cls(auxiliary, is_64=is_64, is_starting=bool(auxiliary.get(AT_BASE)))

    def forked(self) -> Execution:
        """Return the one of a process that is forked now."""
        forked = Execution(self.auxiliary, is_64=self.is_64, is_starting=self.is_starting)
        vars(forked).update(vars(self), known=dict(self.known))
        return forked


class Image:
    """The program that process `pid` executes, stopped before its first instruction.

    With `execution` it is that of a process that was forked. `report` is called with each line for
    people, `tell` with what was done. `halt` stops the threads. Raises PatchError and OSError if
    the process cannot be looked at.
    """

    def __init__(
        self,
        pid: int,
        policy: Policy,
        halt: NewHalt,
        report: Report,
        tell: Report,
        execution: Execution | None = None,
    ) -> None:
        self.pid = pid
        self._policy = policy
        self._report = report
        self._tell = tell
        self._target = Target(pid, STOP_WITHIN, policy.symbols, halt)
        try:
            self.execution = execution or Execution.begun(self._target.proc)
        except BaseException:
            self._target.close()
            raise
        self.is_leaving = False
        self._breakpoints: list[Breakpoint] = []
        self._failed: dict[str, Error | OSError] = {}

    @property
    def name(self) -> str:
        """The process in messages."""
        return self._target.name

    @property
    def watches_all(self) -> bool:
        """Whether the system calls of all threads are looked at."""
        return self.execution.is_starting or self.execution.watches_all

    @property
    def has_failed(self) -> bool:
        """Whether there is something that could not be switched yet."""
        return bool(self._failed)

    def close(self) -> None:
        """Close all that is open, and remove the breakpoints."""
        self.disarm()
        self._target.close()

    # --- modules ------------------------------------------------------------------------------

    def update(self) -> None:
        """Switch what is new. What cannot be switched yet is tried again, and told in `settle`."""
        files = self._target.files()
        known = self.execution.known
        present = {_place(mapping) for mappings in files for mapping in mappings}
        for place in [each for each in known if each not in present]:
            del known[place]
        for mappings in files:
            path = mappings[0].path
            if all(_place(each) in known for each in mappings):
                continue
            try:
                if self._policy.concerns(path):
                    self._switch_file(mappings)
            except (Error, OSError) as error:
                self._failed[path] = error
                continue
            self._failed.pop(path, None)
            self._know(mappings)

    def _know(self, mappings: Sequence[Mapping]) -> None:
        self.execution.known.update((_place(each), each.range) for each in mappings)

    def _switch_file(self, mappings: Sequence[Mapping]) -> None:
        for module in self._target.sites(mappings):
            is_new = any(_place(each) not in self.execution.known for each in module.file.mappings)
            if is_new and len(module):
                self._switch(module)

    def _switch(self, module: LiveSites) -> None:
        self.execution.has_sites = True
        plans = self._policy.plans(self._target, module)
        for plan in plans:
            in_a_halt(self._target, [module], [plan])
        for plan in plans:
            self._tell(f"{self.name}: {module.file.path}: {plan}")

    def forget(self, unmapped: Range) -> None:
        """Forget the modules in a range that is about to be unmapped."""
        known = self.execution.known
        for place in [place for place, each in known.items() if each.overlaps(unmapped)]:
            del known[place]

    def settle(self) -> None:
        """Switch what is new, and report what could not be switched until now."""
        self.update()
        for error in self._failed.values():
            self._report(f"{error}; this module runs as it was loaded")
        for mappings in self._target.files():
            if mappings[0].path in self._failed:
                self._know(mappings)
        self._failed.clear()

    # --- the dynamic linker -------------------------------------------------------------------

    def is_at_rest(self) -> bool:
        """Tell whether the dynamic linker has told of what it has loaded, and is not at work."""
        it, read = self.execution, self._target.machine.memory.read
        it.r_debug = it.r_debug or r_debug.find(read, it.auxiliary, is_64=it.is_64)
        notify = r_debug.at_rest(read, it.r_debug, is_64=it.is_64) if it.r_debug else 0
        it.notify = notify or it.notify
        return bool(notify)

    def arm(self, threads: Sequence[int]) -> None:
        """Have the notification of the dynamic linker stop whichever thread comes there."""
        if not self.execution.notify:  # it has no dynamic linker
            return
        from .notification import Breakpoint  # needed by those who follow

        try:
            self._breakpoints += [Breakpoint(tid, self.execution.notify) for tid in threads]
        except ProcessLookupError:  # it has been killed
            pass
        except OSError:
            self.disarm()
            self.execution.watches_all = True

    def disarm(self) -> None:
        """Remove all breakpoints."""
        for each in self._breakpoints:
            each.close()
        self._breakpoints = []

    def is_notification(self, siginfo: bytes) -> bool:
        """Tell whether a signal, by its siginfo_t, is from the breakpoint."""
        return any(each.is_hit(siginfo) for each in self._breakpoints)


def _place(mapping: Mapping) -> Place:
    return mapping.range.start, mapping.device, mapping.inode, mapping.offset
