"""What a process has loaded, looked at again and again; it is never halted for that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from patcher.errors import ModuleError, NoModuleError, ReadError, StateError
from patcher.files.switch import count
from recordmcount.sites import select
from recordmcount.sites.state import LIVE_STATES, State

from . import traces
from .live_sites import LiveSites
from .live_switch import LiveSwitch
from .target import Target
from .traces import Trace

ATTEMPTS = 3  # to look, before it is said that something is wrong

# A module, and how many of its selected sites are in each state.
Counted = tuple[LiveSites, Mapping[State, int]]


class Looks:
    """The modules of a process that are like one of `modules`, all if there are none.

    Counted are the sites in functions that `functions` and `notrace` select, as sites.select does.
    What is as it was at the last look is compared, and not read again. `trace` is what the last
    look has found of one.
    """

    def __init__(
        self,
        target: Target,
        modules: Sequence[str] = (),
        functions: Sequence[str] = (),
        notrace: Sequence[str] = (),
        *,
        parts: bool = False,
    ) -> None:
        self._target = target
        self._modules = modules
        self._functions = functions
        self._notrace = notrace
        self._parts = parts
        self._last: list[Counted] = []
        self.trace: Trace | None = None

    def look(self) -> list[Counted]:
        """Look at the modules that there are now, by address, and at whose trace they are in.

        Raises as settled_modules does.

        What fails is tried again first: where a module goes and comes back at once, the mappings
        seem to have been the same all the time.
        """
        for _ in range(ATTEMPTS - 1):
            try:
                return self._look()
            except (ReadError, ModuleError, StateError):
                pass
        return self._look()

    def _look(self) -> list[Counted]:
        self._target.open_again()
        self._target.forget_unmapped()
        known = {id(module): states for module, states in self._last}
        try:
            modules, self.trace = traces.look(
                self._target, self._modules, [module for module, _ in self._last]
            )
        except NoModuleError:
            self._last, self.trace = [], None
            raise
        self._last = [(each, known.get(id(each)) or self._count(each)) for each in modules]
        return self._last

    def _count(self, module: LiveSites) -> Mapping[State, int]:
        numbers: Sequence[int] = range(len(module))
        if self._functions or self._notrace:
            numbers, _ = select.select(
                module, self._functions, self._notrace, parts=self._parts
            )  # fmt: skip
        return count(LiveSwitch(module), numbers, LIVE_STATES)
