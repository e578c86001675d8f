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

import os
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from patcher.closing import Closing
from patcher.errors import NoSiteError, StateError
from patcher.ftrace.mappings import Range
from patcher.process import regions
from patcher.process.halt import Halt
from patcher.process.live_sites import LiveSites
from patcher.process.proc import Proc
from patcher.process.regions import RINGS, Owner, Region
from patcher.process.remote_calls import RemoteCalls
from patcher.process.target import Target
from patcher.process.waiting import Stop

from . import changes, mapping, neighbourhoods, threads
from .code import Trampoline, build
from .detach import refuse_traced
from .injection import Done, apart, by_a_thread, halted
from .layout import EVENT_SIZE, STUB_SIZE, Control
from .mapping import NewRegion
from .own_memory import OwnMemory
from .rings import NO_LIMIT, Rings, Shape, processors
from .switching import switch
from .trampoline import Threads
from .ways import Chosen

SPARE = 1024  # sites of modules that may come later, to be counted


class Site(NamedTuple):
    """A traced site: its run-time address, and the module and number of it."""

    address: int
    module: LiveSites
    number: int


class Session(Closing):
    """A trace of the target, from `start` to `stop`; `timeout` is in seconds.

    `data` is the size of each processor's ring in bytes, a power of two. If `counts`, calls are
    only counted. If `overwrites`, the newest events are kept, and read at the end.
    """

    def __init__(
        self,
        target: Target,
        timeout: float,
        *,
        data: int,
        counts: bool = False,
        overwrites: bool = False,
    ) -> None:
        self._target = target
        self._timeout = timeout
        self._counts = counts
        self._overwrites = overwrites
        self._data = data
        self._regions: list[tuple[Region, Trampoline]] = []
        self._at = 0  # run-time address of the rings
        self._offsets = Threads(None, 0)
        with Proc(os.getpid()) as patcher:
            self._owner = Owner(patcher.pid, patcher.stat().start, 0, 0)
        self._stubs = 0
        self.rings: Rings | None = None
        self.sites: dict[int, Site] = {}  # by address
        self.ends: dict[int, Site] = {}  # by return address
        self.counted: list[Site] = []  # by the number of the stub

    def close(self) -> None:
        """Let go of the rings; those of the process are another matter."""
        if self.rings is not None:
            self.rings.close()
            self.rings = None

    # --- begin --------------------------------------------------------------------------------

    def start(self, chosen: Sequence[Chosen], total: int) -> None:
        """Trace the chosen sites; `total` is how many its modules have in all.

        Raises PatchError; no site is changed then, but before a WriteError.
        """
        chosen = [each for each in chosen if each.numbers]
        if not chosen:
            raise NoSiteError(self._target.name, "no site that can be traced")
        self._offsets = self._look()
        self._stubs = total + SPARE
        known = regions.find(self._target.machine.memory)
        refuse_traced(self._target.name, known)
        found, new = self._place(chosen, known)
        self._inject(new)
        self._switch_on(chosen, found)

    def add(self, chosen: Sequence[Chosen]) -> None:
        """Trace sites of modules that came since it was started. Raises as `start` does."""
        chosen = [each for each in chosen if each.numbers]
        if chosen:
            found, new = self._place(chosen, [region for region, _ in self._regions])
            if new:
                self._inject(new)
            self._switch_on(chosen, found)

    @property
    def is_there(self) -> bool:
        """Whether the process still has the rings: one that executes another program has not."""
        try:
            return RINGS.encode() in self._target.proc.read_by_thread("maps")
        except OSError:
            return False

    def _look(self) -> Threads:
        target = self._target

        def look(stops: Mapping[int, Stop]) -> Threads:
            return threads.look(stops, target.proc, target.machine.memory)

        with halted(target, self._timeout) as halt:
            return halt.do(look)

    def _place(
        self, chosen: Sequence[Chosen], known: Sequence[Region]
    ) -> tuple[list[Region], list[NewRegion]]:
        """Choose a region for each module; tell which of them are yet to be made."""
        groups = [
            Range(each.addresses[0], each.addresses[-1] + each.lengths[-1]) for each in chosen
        ]
        memory, offsets = self._target.machine.memory, self._offsets
        found = neighbourhoods.choose(
            self._target.proc, memory, groups, known, offsets, self._stubs
        )  # fmt: skip
        mine = {region for region, _ in self._regions}
        new = []
        for region in dict.fromkeys(found):
            if region in mine:
                continue
            code = build(region)
            self._regions.append((region, code))
            if region not in known:
                new.append(NewRegion(region, code))
            elif memory.read(region.code.start, len(code.content)) != code.content:
                raise StateError(self._target.name, f"{region.code} is not as patcher leaves it")
        return found, new

    def _inject(self, new: Sequence[NewRegion]) -> None:
        """Map regions, and rings if there are none yet. All of it is there then, or nothing."""
        target = self._target
        shape = self._shape
        size = shape.size if self.rings is None else 0

        def inject() -> Done:
            made: list[Done] = []

            def act(calls: RemoteCalls, _: Halt) -> None:
                with OwnMemory(target.proc, target.machine.memory) as own:
                    made.append(self._map(calls, own, new, size))

            by_a_thread(target, self._timeout, mapping.wanted(new, size), act)
            return made[0]

        value, descriptor = apart(target.name, inject)
        if size:
            self._at = int(str(value))
            is_locked = self._offsets.rseq is None
            self.rings = Rings(
                descriptor, shape, is_locked=is_locked, overwrites=self._overwrites
            )  # fmt: skip

    def _map(self, calls: RemoteCalls, own: OwnMemory, new: Sequence[NewRegion], size: int) -> Done:
        """Map the new regions, and rings of so many bytes, in a halt; then we own all of it."""
        memory = self._target.machine.memory
        if size:
            refuse_traced(memory.path, regions.find(memory))
        mapping.map_regions(calls, own, new)
        address, descriptor = self._at, -1
        try:
            if size:
                first, _ = self._regions[0]
                address, descriptor = mapping.map_rings(
                    calls, own, self._target.proc, first, size
                )  # fmt: skip
            owner = self._owner._replace(rings=address, size=self._shape.size)
            for region, _ in self._regions:
                own.own(region, owner)
        except BaseException:
            mapping.unmap_regions(calls, new)
            raise
        return Done(address, descriptor)

    def _switch_on(self, chosen: Sequence[Chosen], found: Sequence[Region]) -> None:
        """Make the chosen sites, of modules that call into the `found` regions, calls."""
        code = {region.code: trampoline for region, trampoline in self._regions}
        columns = []
        for each, region in zip(chosen, found, strict=True):
            columns.append(changes.to_trace(each, self._ways(each, code[region.code])))
            for address, size, number in zip(
                each.addresses, each.lengths, each.numbers, strict=True
            ):
                site = Site(address, each.module, number)
                self.sites[address] = self.ends[address + size] = site
                self.counted.append(site)
        modules = [each.module for each in chosen]
        batch = changes.joined(self._target.machine.memory, modules, columns)
        switch(
            self._target, modules, batch, [region for region, _ in self._regions], self._control()
        )  # fmt: skip

    def _ways(self, chosen: Chosen, code: Trampoline) -> Callable[[int], int]:
        """Return what tells, for the place of a site in the columns, the way into the code."""
        if not self._counts:
            return lambda number: code.ways[chosen.ways[number]]
        first = len(self.counted)
        if first + len(chosen.numbers) > self._stubs:
            raise StateError(self._target.name, "more sites came than there is room to count for")
        return lambda number: code.stubs.start + (first + number) * STUB_SIZE

    @property
    def _shape(self) -> Shape:
        cpus = processors("possible")[-1] + 1
        return Shape(cpus, self._data, self._stubs if self._counts else 0)

    def _control(self) -> Control:
        shape = self._shape
        limit = NO_LIMIT if self._overwrites else shape.data - EVENT_SIZE + 1
        return Control(
            gate=1, cpus=shape.cpus, stride=shape.stride, rings=self._at, mask=shape.data - 1,
            limit=limit, counters=self._at + shape.counters_at,
            counters_stride=shape.counters_stride, stubs=shape.counters,
        )  # fmt: skip
