"""What addresses and TIDs in events are called: functions, callers, threads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from time import monotonic

from patcher.ftrace.mappings import Range
from patcher.process.target import Target
from recordmcount.sites.mangling import demangled

from .session import Site
from .threads import number_of

EVERY = 1.0  # second
MOST = 1 << 16  # callers without a name that are kept
UNKNOWN = "<...>"  # as ftrace has it


class LiveNames:
    """The Names of the target's traced sites, of which a session keeps the `sites`.

    `numbers` are the TIDs of threads by what they are in the PID namespace of the target, `threads`
    the names that were seen.
    """

    def __init__(self, target: Target, sites: Mapping[int, Site]) -> None:
        self._target = target
        self._sites = sites
        self.threads: dict[int, str] = {}
        self._code: list[tuple[Range, Callable[[int], str]]] = []
        self._next = 0.0  # when names are read again
        self.numbers: dict[int, int] = {}
        self.function = cache(self._function)
        self._callers: dict[int, str] = {}
        self.is_return = cache(self._is_return)

    def look(self) -> None:
        """Look which threads there are; those that have ended keep their names.

        A thread often gets its name only after it was born: names are read again now and then.
        """
        proc = self._target.proc
        try:
            tids = proc.threads()
        except OSError:
            return
        if is_time := monotonic() >= self._next:
            self._next = monotonic() + EVERY
        for tid in tids:
            if tid in self.threads and not is_time:
                continue
            try:
                name = proc.read(f"task/{tid}/comm").decode("utf-8", "replace").rstrip("\n")
            except OSError:
                continue
            if tid not in self.threads:
                self.numbers[number_of(proc, tid)] = tid
            self.threads[tid] = name

    def look_at_code(self) -> None:
        """Look what is loaded: callers are named by that, when the process may have ended."""
        self.function.cache_clear()  # another library may be where one was
        self.is_return.cache_clear()
        found = dict(self._target.functions.code())
        self._code = [*found.items(), *(each for each in self._code if each[0] not in found)]

    def has(self, tid: int) -> bool:
        """Tell whether a thread was seen here."""
        return tid in self.threads

    def thread(self, tid: int) -> str:
        """Name a thread; one that was never seen has no name."""
        if tid not in self.threads:
            self.look()
        return self.threads.setdefault(tid, UNKNOWN)

    def process(self, _: int) -> int:
        """Return the PID of the target."""
        return self._target.proc.pid

    def _function(self, address: int) -> str:
        site = self._sites.get(address)
        if site is None:
            return f"{address:#x}"
        names = site.module.names(site.number)
        return demangled(names[0]) if names else f"{address:#x}"

    def caller(self, address: int) -> str:
        """Name the function that is returned to at a run-time address; `0x...` if there is none.

        It is that of the call before: one that calls what never returns may end there.
        """
        if (name := self._callers.get(address)) is None:
            known = self._named(address - 1) if address else ""
            name = demangled(known) if known else f"{address:#x}"
            if known or len(self._callers) < MOST:
                self._callers[address] = name
        return name

    def _named(self, address: int) -> str:
        return next((name(address) for code, name in self._code if code.holds(address)), "")

    def _is_return(self, address: int) -> bool:
        site = self._sites.get(address)
        return site is not None and bool(site.module.returns([site.number]))
