"""Modules: what is loaded where, in which state, and which points of it may be changed.

The points of a module come from its file before it runs, never from what is seen at run time, and
they are dropped before its memory goes. An address is good only as long as a live module has it.
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
from recordmcount import x86

from . import mappings as maps
from .mappings import Range


class ModuleState(StrEnum):
    """COMING: mapped, none of its code has run. LIVE: it runs. GOING: it will be unmapped."""

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
    hook is a jump, or `nop`, of the same length. `symbol` is `function` or `function+0xoffset`,
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
    """Which file a module is of, and where it was loaded.

    `build_id` is empty if there is none; `device` and `inode` are st_dev and st_ino; `bias` is
    what is added to a link-time virtual address to give a run-time address.
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
    """One load of one file; loaded again it is another module.

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
        """The module's file."""
        return self.identity.path


class _Owned(NamedTuple):
    """A range that is registered, in ascending order of address."""

    range: Range
    module: Module


class _Gone(NamedTuple):
    """A range that no longer is."""

    range: Range
    identity: Identity
    what: str
    when: datetime


def _now() -> datetime:
    return datetime.now(UTC)


class Modules:
    """The modules of one address space.

    `mappings` tells its mappings of now, `clock` the time, in UTC, for messages.
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
        self._owned: list[_Owned] = []
        self._gone: list[_Gone] = []

    @property
    def states(self) -> Mapping[Module, ModuleState]:
        """Every module there is, in the order of loading, with its state."""
        return MappingProxyType(self._states)

    # --- what happens to a module -------------------------------------------------------------

    def load(self, module: Module) -> None:
        """The module is mapped, and none of its code has run: it is COMING, its points are known.

        Raises ModuleError if a range is not the text of the module's file, is another module's, or
        a point is not inside of one or overlaps another; StateError if the module is loaded
        already.
        """
        if module in self._states:
            raise StateError(module.path, f"loaded already, and {self._states[module]}")
        ranges = sorted((*module.text, *module.init))
        self._check_ranges(module, ranges)
        _check_points(module, ranges)
        self._states[module] = ModuleState.COMING
        for each in ranges:
            insort(self._owned, _Owned(each, module), key=lambda owned: owned.range)
        self._points.update((point.address, (module, point)) for point in module.points)

    def live(self, module: Module) -> None:
        """The module's code runs from now on. Raises StateError if it is not COMING."""
        if self._states.get(module) is not ModuleState.COMING:
            raise StateError(module.path, f"not coming, but {self._state_in_words(module)}")
        self._states[module] = ModuleState.LIVE

    def free_init(self, module: Module) -> None:
        """The module's init text is about to be freed: its points are dropped.

        Raises StateError if the module is not LIVE.
        """
        if self._states.get(module) is not ModuleState.LIVE:
            raise StateError(module.path, f"not live, but {self._state_in_words(module)}")
        self._drop_points(module, module.init)
        self._drop_ranges(module, module.init, "its init text was here until it was freed at")

    def going(self, module: Module) -> None:
        """The module will be unmapped: its points are dropped while its memory is still there.

        Raises StateError if it is not COMING or LIVE.
        """
        if self._states.get(module) in (None, ModuleState.GOING):
            raise StateError(module.path, f"cannot go: {self._state_in_words(module)}")
        self._drop_points(module, (*module.text, *module.init))
        self._states[module] = ModuleState.GOING

    def unload(self, module: Module) -> None:
        """The module's memory is gone, announced by `going` or not.

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
        """The live module and its point at run-time address `address`.

        Raises NoModuleError where there is no live module, NoSiteError where it has no point.
        """
        found = self._points.get(address)
        module = self._owned_at(address).module if found is None else found[0]
        state = self._states[module]
        if state is not ModuleState.LIVE:
            what = f"in no live module: this one is {state}"
            raise NoModuleError(module.path, what, address=address)
        if found is None:
            raise NoSiteError(module.path, "no site of this module", address=address)
        return found

    def text_at(self, address: int) -> Range:
        """The range of a loaded module around run-time address `address`, or NoModuleError."""
        return self._owned_at(address).range

    def has(self, module: Module, point: Point) -> bool:
        """Whether the point is registered, and the module's: not dropped, nor another's since."""
        return self._points.get(point.address, (None, None)) == (module, point)

    def _owned_at(self, address: int) -> _Owned:
        """The range around `address` and whose it is; NoModuleError if it is nobody's."""
        number = bisect_right(self._owned, address, key=lambda owned: owned.range.start) - 1
        if number >= 0 and self._owned[number].range.holds(address):
            return self._owned[number]
        for gone in reversed(self._gone):
            if gone.range.holds(address):
                raise NoModuleError(
                    gone.identity.path,
                    f"in no live module: {gone.what} {gone.when:%Y-%m-%d %H:%M:%S} UTC: "
                    f"{gone.identity}",
                    address=address,
                )
        raise NoModuleError("modules", "in no live module, and none was ever here", address=address)

    def _state_in_words(self, module: Module) -> str:
        return self._states.get(module, "not loaded")

    # --- loading and dropping -----------------------------------------------------------------

    def _check_ranges(self, module: Module, ranges: Sequence[Range]) -> None:
        identity, mappings = module.identity, self.mappings()
        for each in ranges:
            size = each.end - each.start
            if size <= 0 or not x86.is_address(module.machine, each.start, size):
                raise ModuleError(identity.path, f"{each} is no range of addresses")
            if why := maps.why_not_text(each, mappings, identity.device, identity.inode):
                raise ModuleError(identity.path, f"{each} {why}")
            for owned in self._owned:
                if owned.range.meets(each):
                    raise ModuleError(
                        identity.path,
                        f"{each} overlaps {owned.range}, which is {owned.module.identity}",
                    )
        for before, each in pairwise(ranges):
            if before.meets(each):
                raise ModuleError(identity.path, f"{each} overlaps {before} of the same module")

    def _drop_points(self, module: Module, ranges: Sequence[Range]) -> None:
        for point in module.points:
            if any(each.holds(point.address) for each in ranges) and self.has(module, point):
                del self._points[point.address]

    def _drop_ranges(self, module: Module, ranges: Sequence[Range], what: str) -> None:
        when = self._clock()
        for each in ranges:
            owned = _Owned(each, module)
            if owned in self._owned:
                self._owned.remove(owned)
                # Nobody is told any more of what went before from the same addresses.
                self._gone = [gone for gone in self._gone if not _covers(each, gone.range)]
                self._gone.append(_Gone(each, module.identity, what, when))


def _covers(outer: Range, inner: Range) -> bool:
    return outer.holds(inner.start, inner.end - inner.start)


def _check_points(module: Module, ranges: Sequence[Range]) -> None:
    """ModuleError if a point is malformed, not inside one of the sorted `ranges`, or overlaps."""
    starts = [each.start for each in ranges]
    points = sorted(module.points)
    for point in points:
        is_hook = point.kind is Kind.HOOK
        lengths = {x86.JUMP_LENGTH} if is_hook else x86.CALL_LENGTHS[module.machine]
        if len(point.call) not in lengths:
            raise _bad_point(module, point, f"no {point.kind} is {len(point.call)} bytes long")
        if len(point.call) != len(point.nop):
            raise _bad_point(module, point, "its call and its NOP differ in length")
        if point.code not in (point.call, point.nop):
            raise _bad_point(module, point, "neither its call nor its NOP stands there")
        number = bisect_right(starts, point.address) - 1
        if number < 0 or not ranges[number].holds(point.address, len(point.code)):
            raise _bad_point(module, point, "not inside the module's text")
    for before, point in pairwise(points):
        if before.address + len(before.code) > point.address:
            raise _bad_point(module, point, f"overlaps {before.symbol} ({before.address:#x})")


def _bad_point(module: Module, point: Point, what: str) -> ModuleError:
    return ModuleError(module.path, what, address=point.address, symbol=point.symbol)
