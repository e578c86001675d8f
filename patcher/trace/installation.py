"""What a trace has mapped into a process: regions of code, and rings that both sides have."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from patcher.closing import Closing
from patcher.errors import ReachError, StateError
from patcher.ftrace.mappings import Range
from patcher.modify import Batch
from patcher.process import regions
from patcher.process.halt import Halt
from patcher.process.live_sites import LiveSites
from patcher.process.places import REACH
from patcher.process.proc import Proc
from patcher.process.regions import RINGS, Owner, Region
from patcher.process.remote_calls import RemoteCalls
from patcher.process.target import Target
from patcher.process.traces import refuse_traced
from patcher.process.waiting import Stop
from recordmcount.errors import reason

from . import mapping, neighbourhoods, threads
from .code import Trampoline, build
from .detach import Left, detach
from .injection import Done, apart, by_a_thread, halted
from .layout import EVENT_SIZE, Control
from .mapping import NewRegion
from .own_memory import OwnMemory
from .rings import NO_LIMIT, Rings, Shape, processors
from .switching import switch
from .trampoline import Threads

LOOKS = 10  # at threads, until all of them have begun


class Installation(Closing):
    """Regions and rings in the target; `timeout` is how many seconds a halt may take to begin.

    `data` is the size of each processor's ring in bytes, a power of two. If `counts`, there are
    counters as well. If `overwrites`, the newest events are kept, and read at the end.
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
        self.target = target
        self._timeout = timeout
        self._data = data
        self.counts = counts
        self._shape = Shape(0, data)  # of the rings
        self._overwrites = overwrites
        self._offsets = Threads(None, 0)
        self.stubs = 0  # how many sites there is room to count for
        with Proc(os.getpid()) as patcher:
            self._owner = Owner(patcher.pid, patcher.stat().start)
        self._code: dict[Region, Trampoline] = {}
        self._at = 0  # run-time address of the rings
        self.rings: Rings | None = None

    def close(self) -> None:
        """Let go of the rings; those of the process are another matter."""
        if self.rings is not None:
            self.rings.close()
            self.rings = None

    def map(self, groups: Sequence[Range], stubs: int) -> list[Region]:
        """Map what is needed near each group of code, with so many stubs; all gates are closed.

        Returns the region of each. Raises PatchError; nothing is mapped then.
        """
        self._offsets = self._look()
        self.stubs = stubs
        cpus = processors("possible")[-1] + 1
        self._shape = Shape(cpus, self._data, stubs if self.counts else 0)
        known = regions.find(self.target.machine.memory)
        refuse_traced(self.target.name, known)
        found, new = self._place(groups, known)
        self._inject(new)
        return found

    def more(self, groups: Sequence[Range]) -> list[Region]:
        """Map what is needed near further groups of code. Raises as `map` does."""
        found, new = self._place(groups, list(self._code))
        if new:
            self._inject(new)
        return found

    def code(self, region: Region) -> Trampoline:
        """Return the code of one of its regions."""
        return self._code[region]

    def way(self, kind: str, address: int) -> int:
        """Return the run-time address that a site at `address` is to call: a kind of WAYS.

        Raises ReachError if no region is near.
        """
        for region, code in self._code.items():
            if region.code.end - REACH <= address <= region.code.start + REACH:
                return code.ways[kind]
        raise ReachError(self.target.name, "no region is near", address=address)

    def open(self) -> None:
        """Open the gates, in a halt."""
        self.switch([], Batch([], [], []))

    def switch(self, modules: Sequence[LiveSites], batch: Batch) -> None:
        """Change sites, and open the gates, in one halt. Raises as switching.switch does."""
        switch(self.target, modules, batch, list(self._code), self._control())

    def remove(self) -> Left:
        """Bring sites back, close the gates and take the rings away; regions stay."""
        return detach(self.target, self._timeout)

    @property
    def is_there(self) -> bool:
        """Whether the process still has the rings: one that executes another program has not."""
        try:
            return RINGS.encode() in self.target.proc.read_by_thread("maps")
        except OSError:
            return False

    def _look(self) -> Threads:
        """Look at all threads; again where one may only just be born, for each look is a halt."""
        target = self.target

        def look(stops: Mapping[int, Stop]) -> tuple[Threads, bool]:
            return threads.look(stops, target.proc, target.machine.memory)

        looks = 0
        while True:
            with halted(target, self._timeout) as halt:
                found, agree = halt.do(look)
            looks += 1
            if agree or looks == LOOKS:
                return found

    def _place(
        self, groups: Sequence[Range], known: Sequence[Region]
    ) -> tuple[list[Region], list[NewRegion]]:
        """Choose a region for each group of code; tell which of them are yet to be made."""
        memory, offsets = self.target.machine.memory, self._offsets
        found = neighbourhoods.choose(
            self.target.proc, memory, groups, known, offsets, self.stubs
        )  # fmt: skip
        new = []
        for region in dict.fromkeys(found):
            if region in self._code:
                continue
            code = self._code[region] = build(region)
            if region not in known:
                new.append(NewRegion(region, code))
            elif memory.read(region.code.start, len(code.content)) != code.content:
                raise StateError(self.target.name, f"{region.code} is not as patcher leaves it")
        return found, new

    def _inject(self, new: Sequence[NewRegion]) -> None:
        """Map regions, and rings if there are none yet. All of it is there then, or nothing."""
        target = self.target
        shape = self._shape
        size = shape.size if self.rings is None else 0

        def inject() -> Done:
            made: list[Done] = []

            def act(calls: RemoteCalls, _: Halt) -> None:
                with OwnMemory(target.proc, target.machine.memory) as own:
                    made.append(self._map(calls, own, new, size))

            by_a_thread(target, self._timeout, mapping.wanted(new, size), act)
            return made[0]

        try:
            value, descriptor = apart(target.name, inject)
        except BaseException:
            for region, _ in new:  # or a site would call what is not there
                del self._code[region]
            raise
        if size:
            self._at = int(str(value))
            is_locked = self._offsets.rseq is None
            try:
                self.rings = Rings(
                    descriptor, shape, is_locked=is_locked, overwrites=self._overwrites
                )  # fmt: skip
            except OSError as error:
                what = f"{size:,} bytes of memory for the rings: {reason(error)}"
                raise StateError(target.name, what) from error

    def _map(self, calls: RemoteCalls, own: OwnMemory, new: Sequence[NewRegion], size: int) -> Done:
        """Map the new regions, and rings of so many bytes, in a halt; then we own all of it."""
        memory = self.target.machine.memory
        if os.getppid() != self._owner.pid:  # who was to end this, and may be detached already
            raise StateError(memory.path, "patcher was killed; nothing was changed")
        if size:
            refuse_traced(memory.path, regions.find(memory))
        mapping.map_regions(calls, own, new)
        address, descriptor = self._at, -1
        try:
            if size:
                first = next(iter(self._code))
                address, descriptor = mapping.map_rings(
                    calls, own, self.target.proc, first, size
                )  # fmt: skip
            for region in self._code:
                own.own(region, self._owner)
        except BaseException:
            mapping.unmap_regions(calls, new)
            raise
        return Done(address, descriptor)

    def _control(self) -> Control:
        shape = self._shape
        limit = NO_LIMIT if self._overwrites else shape.data - EVENT_SIZE + 1
        return Control(
            gate=1, cpus=shape.cpus, stride=shape.stride, rings=self._at, mask=shape.data - 1,
            limit=limit, counters=self._at + shape.counters_at,
            counters_stride=shape.counters_stride, stubs=shape.counters,
        )  # fmt: skip
