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
UNKNOWN = "<...>"  # as ftrace has it


class LiveNames:
    """The Names of the target's traced sites, of which a session keeps the `sites`.

    `numbers` are the TIDs of threads by what they are in the PID namespace of the target.
    """

    def __init__(self, target: Target, sites: Mapping[int, Site]) -> None:
        self._target = target
        self._sites = sites
        self._threads: dict[int, str] = {}
        self._code: list[tuple[Range, Callable[[int], str]]] = []
        self._next = 0.0  # when names are read again
        self.numbers: dict[int, int] = {}
        self.function = cache(self._function)
        self.caller = cache(self._caller)
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
            if tid in self._threads and not is_time:
                continue
            try:
                name = proc.read(f"task/{tid}/comm").decode("utf-8", "replace").rstrip("\n")
            except OSError:
                continue
            if tid not in self._threads:
                self.numbers[number_of(proc, tid)] = tid
            self._threads[tid] = name

    def has(self, tid: int) -> bool:
        """Tell whether a thread was seen here."""
        return tid in self._threads

    def thread(self, tid: int) -> str:
        """Name a thread; one that was never seen has no name."""
        if tid not in self._threads:
            self.look()
        return self._threads.setdefault(tid, UNKNOWN)

    def process(self, _: int) -> int:
        """Return the PID of the target."""
        return self._target.proc.pid

    def _function(self, address: int) -> str:
        site = self._sites.get(address)
        if site is None:
            return f"{address:#x}"
        names = site.module.names(site.number)
        return demangled(names[0]) if names else f"{address:#x}"

    def _caller(self, address: int) -> str:
        """Name it by the call before it: a function that calls what never returns may end there."""
        name = self._named(address - 1) if address else ""
        return demangled(name) if name else f"{address:#x}"

    def _named(self, address: int) -> str:
        for code, name in self._code:
            if code.holds(address):
                return name(address)
        if (found := self._target.functions.around(address)) is None:
            return ""
        self._code.append(found)
        return found[1](address)

    def _is_return(self, address: int) -> bool:
        site = self._sites.get(address)
        return site is not None and bool(site.module.returns([site.number]))
