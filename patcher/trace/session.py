"""A trace of a process, from its sites' first call of the trampoline to when they are as before.

    look        threads stand for a moment: where do they have what the trampoline reads?
    inject      a thread maps regions and rings; the gates are closed
    switch      sites are compared, become calls, and the gates open: one halt
    read        events, while the process runs
    switch      sites are compared and become what they were, the gates close: one halt
    let go      a thread unmaps the rings

Whatever becomes of patcher in between, the process goes on, and its memory tells what is left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from patcher.closing import Closing
from patcher.errors import NoSiteError, PatchError, ReadError, StateError, WriteError
from patcher.process.batches import join
from patcher.process.live_sites import LiveSites
from patcher.process.regions import Region

from . import changes
from .code import Trampoline
from .detach import Left
from .installation import Installation
from .layout import STUB_SIZE
from .rings import Rings
from .ways import Chosen

SPARE = 1024  # sites of modules that may come later, to be counted


class Site(NamedTuple):
    """A traced site: its run-time address, and the module and number of it."""

    address: int
    module: LiveSites
    number: int


class Session(Closing):
    """A trace by what is installed in the target, from `start` to `stop`.

    If that has counters, calls are counted, and there are no events.
    """

    def __init__(self, installation: Installation) -> None:
        self._target = installation.target
        self._installation = installation
        self.sites: dict[int, Site] = {}  # by address
        self.ends: dict[int, Site] = {}  # by return address
        self.counted: list[Site] = []  # by the number of the stub
        self._firsts: dict[int, bytes] = {}  # of each module: address, and what stands there

    def close(self) -> None:
        """Let go of the rings; those of the process are another matter."""
        self._installation.close()

    @property
    def rings(self) -> Rings | None:
        """The rings, once it was started."""
        return self._installation.rings

    @property
    def is_there(self) -> bool:
        """Whether the process still has the rings: one that executes another program has not."""
        return self._installation.is_there

    def forget_gone(self) -> bool:
        """Forget modules that are not as they were left; tell whether there were any.

        One may have been unloaded, and loaded again where it was.
        """
        gone = [address for address, code in self._firsts.items() if not self._is(address, code)]
        for address in gone:
            del self._firsts[address]
        return bool(gone)

    def _is(self, address: int, code: bytes) -> bool:
        try:
            return self._target.machine.memory.read(address, len(code)) == code
        except ReadError:
            return False

    def start(self, chosen: Sequence[Chosen], total: int) -> None:
        """Trace the chosen sites; `total` is how many its modules have in all.

        Raises PatchError; no site is changed then, but before a WriteError.
        """
        chosen = [each for each in chosen if each.numbers]
        if not chosen:
            raise NoSiteError(self._target.name, "no site that can be traced")
        found = self._installation.map([each.range for each in chosen], total + SPARE)
        self._switch_on(chosen, found)

    def add(self, chosen: Sequence[Chosen]) -> None:
        """Trace sites of modules that came since it was started. Raises as `start` does."""
        chosen = [each for each in chosen if each.numbers]
        if chosen:
            found = self._installation.more([each.range for each in chosen])
            self._switch_on(chosen, found)

    def stop(self) -> Left:
        """Bring the sites back to what they were; the events that are left can be read then."""
        return self._installation.remove()

    def _switch_on(self, chosen: Sequence[Chosen], found: Sequence[Region]) -> None:
        """Make the chosen sites, of modules that call into the `found` regions, calls."""
        batches, counted = [], len(self.counted)
        for each, region in zip(chosen, found, strict=True):
            code = self._installation.code(region)
            batches.append(changes.to_trace(each, self._ways(each, code)))
            for address, size, number in zip(
                each.addresses, each.lengths, each.numbers, strict=True
            ):
                site = Site(address, each.module, number)
                self.sites[address] = self.ends[address + size] = site
                self.counted.append(site)
            self._firsts[each.addresses[0]] = batches[-1].new[0]
        modules = [each.module for each in chosen]
        try:
            self._installation.switch(modules, join(self._target.machine.memory, modules, batches))
        except WriteError:  # some of them may call their stubs
            raise
        except PatchError:
            del self.counted[counted:]
            raise

    def _ways(self, chosen: Chosen, code: Trampoline) -> Callable[[int], int]:
        """Return what tells, for the place of a site in the columns, the way into the code."""
        if not self._installation.counts:
            return lambda number: code.ways[chosen.ways[number]]
        first = len(self.counted)
        if first + len(chosen.numbers) > self._installation.stubs:
            what = "more sites came than there is room to count for"
            raise StateError(self._target.name, what)
        return lambda number: code.stubs.start + (first + number) * STUB_SIZE
