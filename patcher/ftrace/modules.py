"""Modules: what is loaded where, in which state, and which of its points may be changed.

The points of a module are read from its file before it runs, never from memory at run time, and
are dropped before its memory is freed. An address is valid only while a live module has it.
(States as the kernel's module_state; init text is freed as Linux's ftrace_free_mem expects it.)
"""

from bisect import bisect_right, insort
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from itertools import pairwise
from types import MappingProxyType
from typing import NamedTuple

from patcher.errors import ModuleError, NoModuleError, NoSiteError, StateError
from recordmcount import x86, x86_code

from . import mappings as maps
from .mappings import Range


class ModuleState(StrEnum):
    """COMING: mapped, no code has run yet. LIVE: its code runs. GOING: it will be unmapped."""

    COMING = "coming"
    LIVE = "live"
    GOING = "going"


class Kind(StrEnum):
    """What stands at a point."""

    SITE = "site"  # the call of mcount in a traced function
    TRAMPOLINE = "trampoline"  # the one call inside a trampoline, the kernel's `ftrace_call`
    HOOK = "hook"  # a jump to the graph tracer or a NOP, the kernel's `ftrace_graph_call`


class Point(NamedTuple):
    """One place of a module that may be changed, as the module's file declares it.

    `address` is a run-time address. `code` is what the file has there: either `call`, which for a
    hook is a jump, or `nop`, of the same length. `symbol` is `function` or `function+0xoffset`;
    `names` are all names of the function.
    """

    address: int
    code: bytes
    call: bytes
    nop: bytes
    symbol: str = ""
    names: tuple[str, ...] = ()
    kind: Kind = Kind.SITE


@dataclass(frozen=True, slots=True)
class Identity:
    """The file of a module, and where it was loaded.

    `build_id` is empty if there is none; `device` and `inode` are st_dev and st_ino; `bias` is
    added to a link-time virtual address to give a run-time address.
    """

    path: str
    build_id: bytes
    device: int
    inode: int
    bias: int

    def __str__(self) -> str:
        build_id = f"build-id {self.build_id.hex()}" if self.build_id else "no build-id"
        return f"{self.path} ({build_id}, load bias {self.bias:#x})"


@dataclass(frozen=True, slots=True, eq=False)
class Module:
    """One load of one file; a file that is loaded again is another module.

    `text` and `init` are disjoint ranges of run-time addresses, `init` those that are freed once
    the module is initialised; all `points` lie in them. `machine` is e_machine.
    """

    identity: Identity
    text: tuple[Range, ...]
    points: tuple[Point, ...]
    init: tuple[Range, ...] = ()
    machine: int = x86.EM_X86_64

    @property
    def path(self) -> str:
        """Path of the module's file."""
        return self.identity.path


class _LoadedRange(NamedTuple):
    """A range of a loaded module."""

    range: Range
    module: Module


class _FreedRange(NamedTuple):
    """A range that a module once had: `what` became of it, and `when`."""

    range: Range
    identity: Identity
    what: str
    when: datetime


def _now() -> datetime:
    return datetime.now(UTC)


class Modules:
    """The modules of one address space.

    `mappings` returns its present mappings, `clock` the time, in UTC, for messages.
    """

    def __init__(
        self,
        mappings: Callable[[], Sequence[maps.Mapping]],
        clock: Callable[[], datetime] = _now,
    ) -> None:
        self.mappings = mappings
        self._clock = clock
        self._states: dict[Module, ModuleState] = {}
        self._points: dict[int, tuple[Module, Point]] = {}
        self._loaded: list[_LoadedRange] = []  # ascending
        self._freed: list[_FreedRange] = []

    @property
    def states(self) -> Mapping[Module, ModuleState]:
        """The state of every loaded module, in the order of loading."""
        return MappingProxyType(self._states)

    # --- what happens to a module -------------------------------------------------------------

    def load(self, module: Module) -> None:
        """Register a module that is mapped and has not run: it is COMING, its points are known.

        Raises ModuleError if a range is not text of the module's file or is another module's, or if
        a point is not inside a range or overlaps another; StateError if the module is loaded
        already.
        """
        if module in self._states:
            raise StateError(module.path, f"loaded already, and {self._states[module]}")
        ranges = sorted((*module.text, *module.init))
        self._check_ranges(module, ranges)
        _check_points(module, ranges)
        self._states[module] = ModuleState.COMING
        for each in ranges:
            insort(self._loaded, _LoadedRange(each, module), key=lambda loaded: loaded.range)
        self._points.update((point.address, (module, point)) for point in module.points)

    def live(self, module: Module) -> None:
        """Make the module LIVE: its code runs from now on. Raises StateError if not COMING."""
        if self._states.get(module) is not ModuleState.COMING:
            raise StateError(module.path, f"not coming, but {self._state_name(module)}")
        self._states[module] = ModuleState.LIVE

    def free_init(self, module: Module) -> None:
        """Drop the points of the module's init text, which is about to be freed.

        Raises StateError if the module is not LIVE.
        """
        if self._states.get(module) is not ModuleState.LIVE:
            raise StateError(module.path, f"not live, but {self._state_name(module)}")
        self._drop_points(module, module.init)
        self._drop_ranges(module, module.init, "its init text was here until it was freed at")

    def going(self, module: Module) -> None:
        """Make the module GOING: drop its points while its memory is still there.

        Raises StateError if it is not COMING or LIVE.
        """
        if self._states.get(module) in (None, ModuleState.GOING):
            raise StateError(module.path, f"cannot go: {self._state_name(module)}")
        self._drop_points(module, (*module.text, *module.init))
        self._states[module] = ModuleState.GOING

    def unload(self, module: Module) -> None:
        """Forget the module: its memory is gone, whether `going` announced that or not.

        Raises StateError if it was not loaded.
        """
        if module not in self._states:
            raise StateError(module.path, "is not loaded")
        ranges = (*module.text, *module.init)
        self._drop_points(module, ranges)
        self._drop_ranges(module, ranges, "it was here until it went at")
        del self._states[module]

    # --- what is where ------------------------------------------------------------------------

    def find(self, address: int) -> tuple[Module, Point]:
        """Find the live module and its point at run-time address `address`.

        Raises NoModuleError if no live module is there, NoSiteError if it has no point there.
        """
        found = self._points.get(address)
        module = self._range_at(address).module if found is None else found[0]
        state = self._states[module]
        if state is not ModuleState.LIVE:
            what = f"in no live module: this one is {state}"
            raise NoModuleError(module.path, what, address=address)
        if found is None:
            raise NoSiteError(module.path, "no site of this module", address=address)
        return found

    def text_at(self, address: int) -> Range:
        """Find the module's range around run-time address `address`. Raises NoModuleError."""
        return self._range_at(address).range

    def has(self, module: Module, point: Point) -> bool:
        """Tell whether the point is still the module's: not dropped, nor another module's now."""
        return self._points.get(point.address, (None, None)) == (module, point)

    def _range_at(self, address: int) -> _LoadedRange:
        """Find the range that holds run-time address `address`. Raises NoModuleError."""
        number = bisect_right(self._loaded, address, key=lambda loaded: loaded.range.start) - 1
        if number >= 0 and self._loaded[number].range.holds(address):
            return self._loaded[number]
        for freed in reversed(self._freed):
            if freed.range.holds(address):
                raise NoModuleError(
                    freed.identity.path,
                    f"in no live module: {freed.what} {freed.when:%Y-%m-%d %H:%M:%S} UTC: "
                    f"{freed.identity}",
                    address=address,
                )
        raise NoModuleError("modules", "in no live module, and none was ever here", address=address)

    def _state_name(self, module: Module) -> str:
        return self._states.get(module, "not loaded")

    # --- loading and dropping -----------------------------------------------------------------

    def _check_ranges(self, module: Module, ranges: Sequence[Range]) -> None:
        identity, mappings = module.identity, self.mappings()
        for each in ranges:
            size = each.end - each.start
            if size <= 0 or not x86_code.is_address(module.machine, each.start, size):
                raise ModuleError(identity.path, f"{each} is no range of addresses")
            if why := maps.why_not_text(each, mappings, identity.device, identity.inode):
                raise ModuleError(identity.path, f"{each} {why}")
            for loaded in self._loaded:
                if loaded.range.overlaps(each):
                    raise ModuleError(
                        identity.path,
                        f"{each} overlaps {loaded.range}, which is {loaded.module.identity}",
                    )
        for before, each in pairwise(ranges):
            if before.overlaps(each):
                raise ModuleError(identity.path, f"{each} overlaps {before} of the same module")

    def _drop_points(self, module: Module, ranges: Sequence[Range]) -> None:
        for point in module.points:
            if any(each.holds(point.address) for each in ranges) and self.has(module, point):
                del self._points[point.address]

    def _drop_ranges(self, module: Module, ranges: Sequence[Range], what: str) -> None:
        when = self._clock()
        for each in ranges:
            loaded = _LoadedRange(each, module)
            if loaded in self._loaded:
                self._loaded.remove(loaded)
                # What was at the same addresses before is never reported again.
                self._freed = [freed for freed in self._freed if not _covers(each, freed.range)]
                self._freed.append(_FreedRange(each, module.identity, what, when))


def _covers(outer: Range, inner: Range) -> bool:
    return outer.holds(inner.start, inner.end - inner.start)


def _check_points(module: Module, ranges: Sequence[Range]) -> None:
    """Raise ModuleError if a point is malformed, outside the sorted `ranges`, or overlapping."""
    starts = [each.start for each in ranges]
    points = sorted(module.points)
    for point in points:
        is_hook = point.kind is Kind.HOOK
        lengths = {x86_code.JUMP_LENGTH} if is_hook else x86_code.CALL_LENGTHS[module.machine]
        if len(point.call) not in lengths:
            raise _point_error(module, point, f"no {point.kind} is {len(point.call)} bytes long")
        if len(point.call) != len(point.nop):
            raise _point_error(module, point, "its call and its NOP differ in length")
        if point.code not in (point.call, point.nop):
            raise _point_error(module, point, "neither its call nor its NOP stands there")
        number = bisect_right(starts, point.address) - 1
        if number < 0 or not ranges[number].holds(point.address, len(point.code)):
            raise _point_error(module, point, "not inside the module's text")
    for before, point in pairwise(points):
        if before.address + len(before.code) > point.address:
            raise _point_error(module, point, f"overlaps {before.symbol} ({before.address:#x})")


def _point_error(module: Module, point: Point, what: str) -> ModuleError:
    return ModuleError(module.path, what, address=point.address, symbol=point.symbol)
