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
from patcher.errors import HaltError, NoSiteError
from patcher.ftrace.mappings import Range
from patcher.modify import Batch
from patcher.process import regions, seccomp
from patcher.process.halt import Halt
from patcher.process.live_sites import LiveSites
from patcher.process.proc import Proc
from patcher.process.regions import Owner, Region
from patcher.process.remote_calls import RemoteCalls
from patcher.process.seccomp import SystemCall
from patcher.process.target import Target
from patcher.process.waiting import Stop

from . import changes, mapping, neighbourhoods, threads
from .detach import Left, detach
from .injection import Done, apart, by_a_thread, halted
from .layout import STUB_SIZE, Control
from .mapping import Wanted
from .own_memory import OwnMemory
from .rings import Rings, Shape, processors
from .switching import switch
from .trampoline import Threads, Trampoline, build
from .ways import Chosen


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
        self.rings: Rings | None = None
        self.sites: dict[int, Site] = {}  # by return address
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
        groups = [
            Range(each.addresses[0], each.addresses[-1] + each.lengths[-1]) for each in chosen
        ]
        offsets = self._look()
        memory = self._target.machine.memory
        known = regions.find(memory)
        refuse_traced(self._target.name, known)
        found = neighbourhoods.choose(
            self._target.proc, memory, groups, known, offsets, total
        )  # fmt: skip
        code = {region.code: build(region.code.start, region.stubs, offsets) for region in found}
        self._regions = [
            (region, code[region.code]) for region in dict.fromkeys(found)
        ]  # fmt: skip
        new = [Wanted(region, made) for region, made in self._regions if region not in known]
        self._inject(new, offsets, sum(len(each.numbers) for each in chosen))
        self._switch_on(chosen, found)

    def _look(self) -> Threads:
        target = self._target

        def look(stops: Mapping[int, Stop]) -> Threads:
            return threads.look(stops, target.proc, target.machine.memory)

        with halted(target, self._timeout) as halt:
            return halt.do(look)

    def _inject(self, new: Sequence[Wanted], offsets: Threads, sites: int) -> None:
        """Map regions and rings. All of it is there then, or nothing."""
        target = self._target
        cpus = processors("possible")[-1] + 1
        shape = Shape(cpus, self._data, sites if self._counts else 0)
        owner = Owner(os.getpid(), _start(), 0, shape.size)
        needed = [SystemCall(number, arguments) for number, arguments in
                  mapping.calls_needed(new, shape.size)]  # fmt: skip

        def allowed(tid: int) -> str:
            return seccomp.why_not(target.proc, tid, needed)

        def inject() -> Done:
            made: list[Done] = []

            def act(calls: RemoteCalls, _: Halt) -> None:
                with OwnMemory(target.proc, target.machine.memory) as own:
                    present = regions.find(target.machine.memory)
                    refuse_traced(target.name, present)
                    address, descriptor = mapping.map_all(
                        calls, own, target.proc, new, [each for each, _ in self._regions],
                        shape.size, owner,
                    )  # fmt: skip
                    made.append(Done(address, descriptor))

            by_a_thread(target, self._timeout, allowed, act)
            return made[0]

        value, descriptor = apart(target.name, inject)
        self._at = int(str(value))
        self.rings = Rings(
            descriptor, shape, is_locked=offsets.rseq is None, overwrites=self._overwrites
        )  # fmt: skip

    def _switch_on(self, chosen: Sequence[Chosen], found: Sequence[Region]) -> None:
        """Make the chosen sites, of modules that call into the `found` regions, calls."""
        code = {region.code: trampoline for region, trampoline in self._regions}
        columns = []
        for each, region in zip(chosen, found, strict=True):
            columns.append(changes.to_trace(each, self._ways(each, code[region.code])))
            for number, (address, length) in enumerate(
                zip(each.addresses, each.lengths, strict=True)
            ):
                site = Site(address, each.module, each.numbers[number])
                self.sites[address + length] = site
                self.counted.append(site)
        modules = [each.module for each in chosen]
        batch = changes.joined(self._target.machine.memory, modules, columns)
        control = self._control()
        self._switch(modules, batch, control)

    def _ways(self, chosen: Chosen, code: Trampoline) -> Callable[[int], int]:
        if not self._counts:
            return lambda number: code.ways[chosen.ways[number]]
        first = len(self.counted)
        return lambda number: code.stubs.start + (first + number) * STUB_SIZE

    def _control(self) -> Control:
        rings = self.rings
        if rings is None:
            raise AssertionError
        shape = rings.shape
        return Control(
            gate=1, cpus=shape.cpus, stride=shape.stride, rings=self._at, mask=shape.data - 1,
            limit=rings.limit, counters=self._at + shape.counters_at,
            counters_stride=shape.counters_stride, stubs=shape.counters,
        )  # fmt: skip

    def stop(self) -> Left:
        """Bring the sites back to what they were; the events that are left can be read then."""
        return detach(self._target, self._timeout)

    def _switch(self, modules: Sequence[LiveSites], batch: Batch, control: Control) -> None:
        """Change the sites, and what goes on in our regions, in one halt."""
        switch(self._target, modules, batch, [region for region, _ in self._regions], control)


def _start() -> int:
    """Return when this process began, in clock ticks since boot."""
    with Proc(os.getpid()) as proc:
        return proc.stat().start


def refuse_traced(name: str, present: Sequence[Region]) -> None:
    """Raise HaltError if somebody traces by one of the regions."""
    for each in present:
        if each.owner.pid and each.owner.is_alive:
            raise HaltError(name, f"is traced by patcher, {each.owner}")
