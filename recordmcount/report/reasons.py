"""Why a function has no call site: by evidence, and where there is none it is called unknown.

Evidence is the function's name, where compilers give names of their own, and what the debug
information tells of its unit. (What compilers do was measured with gcc 12 and clang 14.)
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from enum import StrEnum

from recordmcount import x86
from recordmcount.elf import object as elf

from .units import Units

TYPE_CHECKING = False
if TYPE_CHECKING:
    from recordmcount.elf.object import Object

    from .units import Unit


class Reason(StrEnum):
    """Why a function has no site, as it is told to people."""

    COLD = "the cold part of a function: the site is where that begins"
    THUNK = "a thunk of C++: it adjusts a pointer and jumps"
    TRACER = "the tracer itself"
    START_UP = "start-up code, likely: it has the name of such"
    ASSEMBLER = "written in assembler"
    NOT_PROFILED = "its unit was compiled without -pg"
    NO_CALLS = "its unit was compiled with -mnop-mcount"
    ATTRIBUTE = "an attribute against it, or its section: its unit was compiled with -pg"
    INLINED = "only inlined: there is no code of its own"
    UNKNOWN = "unknown"


_COLD = re.compile(r"\.cold(\.\d+)?$")
_THUNKS = ("_ZTh", "_ZTv", "_ZTc")  # Itanium C++ ABI, 5.1.4 "Other Special Functions"
_START_UP = frozenset(
    (
        "_start", "_init", "_fini", "frame_dummy", "register_tm_clones", "deregister_tm_clones",
        "__do_global_dtors_aux", "__libc_csu_init", "__libc_csu_fini", "_dl_relocate_static_pie",
        "__libc_start_main", "__x86.get_pc_thunk.ax", "__x86.get_pc_thunk.bx",
        "__x86.get_pc_thunk.cx", "__x86.get_pc_thunk.dx", "__x86.get_pc_thunk.si",
        "__x86.get_pc_thunk.di", "__x86.get_pc_thunk.bp",
    )
)  # fmt: skip
_ASSEMBLER = 0x8001  # DW_LANG_Mips_Assembler, which all assemblers take
# How gcc spells -pg in DW_AT_producer, where it lists its options. (clang lists none.)
_PROFILING = (" -p ", " -pg ")


class Reasons:
    """The reasons of one file; `debug` is the file that has its debug information."""

    def __init__(self, obj: Object, debug: Object, names: Sequence[str] = ()) -> None:
        self._is_object = obj.type == elf.ET_REL
        self._units = Units(debug)
        self._tracers = {*x86.KNOWN_NAMES, *names}

    def of(self, name: str, address: int) -> Reason:
        """Tell why a function has no site; `address` is link-time virtual, of no use in objects."""
        if _COLD.search(name):
            return Reason.COLD
        if name.startswith(_THUNKS):
            return Reason.THUNK
        if name in self._tracers:
            return Reason.TRACER
        if reason := self._of_unit(self._unit(address)):
            return reason
        return Reason.START_UP if name in _START_UP else Reason.UNKNOWN

    def _of_unit(self, unit: Unit | None) -> Reason | None:
        if unit is None:
            return None
        if unit.language == _ASSEMBLER:
            return Reason.ASSEMBLER
        if not unit.producer.startswith("GNU ") or " -m" not in unit.producer:
            return None  # which options it was given is not told
        if "-mnop-mcount" in unit.producer:
            return Reason.NO_CALLS
        is_profiled = any(option in f"{unit.producer} " for option in _PROFILING)
        return Reason.ATTRIBUTE if is_profiled else Reason.NOT_PROFILED

    def _unit(self, address: int) -> Unit | None:
        units = self._units.listed
        if self._is_object:  # of several units it cannot be told which; nearly always there is one
            kinds = {(unit.producer, unit.language) for unit in units}
            return units[0] if len(kinds) == 1 else None
        number = bisect_right(units, address, key=lambda unit: unit.start) - 1
        found = units[number] if number >= 0 else None
        return found if found and address < found.end else None

    def inlined(self) -> list[str]:
        """Name the functions that exist in inlined copies alone, as far as that can be known."""
        return self._units.inlined
