"""Why a function has no call site: by evidence, and where there is none it is called unknown.

Evidence is the function's name, where compilers give names of their own, and what the debug
information tells of its unit. (What compilers do was measured with gcc 12 and clang 14.)
"""

from __future__ import annotations

import io
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from enum import StrEnum
from functools import cached_property
from typing import Any, NamedTuple

from recordmcount import x86
from recordmcount.elf import object as elf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from recordmcount.elf.object import Object


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
_INLINED = (1, 3)  # DW_INL_inlined, DW_INL_declared_inlined
# How gcc spells -pg in DW_AT_producer, where it lists its options. (clang lists none.)
_PROFILING = (" -p ", " -pg ")
# Beyond so many bytes of .debug_info not all of its functions are looked at.
_MOST_INFO = 1 << 20


class Unit(NamedTuple):
    """A unit of compilation: addresses from `start` to before `end`; all of them in an object."""

    start: int
    end: int
    producer: str
    language: int


class _Stream(io.RawIOBase):
    """The bytes of a file, as pyelftools reads them."""

    def __init__(self, obj: Object) -> None:
        self._obj = obj
        self._at = 0

    def readinto(self, buffer: Any) -> int:
        size = max(0, min(len(buffer), self._obj.size - self._at))
        buffer[:size] = self._obj.raw(self._at, size)
        self._at += size
        return size

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + (0, self._at, self._obj.size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True


class Reasons:
    """The reasons of one file; `debug` is the file that has its debug information."""

    def __init__(self, obj: Object, debug: Object, names: Sequence[str] = ()) -> None:
        self._is_object = obj.type == elf.ET_REL
        self._file = _Stream(debug)
        self._tracers = {*x86.MCOUNT_NAMES, *names}

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
        if self._is_object:  # of several units it cannot be told which; nearly always there is one
            kinds = {(unit.producer, unit.language) for unit in self._units}
            return self._units[0] if len(kinds) == 1 else None
        number = bisect_right(self._units, address, key=lambda unit: unit.start) - 1
        found = self._units[number] if number >= 0 else None
        return found if found and address < found.end else None

    def inlined(self) -> list[str]:
        """Name the functions that exist in inlined copies alone, as far as that can be known."""
        return sorted({name for name in self._inlined() if name})

    # --- debug information --------------------------------------------------------------------

    @cached_property
    def _dwarf(self) -> Any:
        """The debug information by pyelftools; None without any that it can read."""
        from elftools.common.exceptions import ELFError
        from elftools.elf.elffile import ELFFile

        try:
            file = ELFFile(io.BufferedReader(self._file))
            return file.get_dwarf_info() if file.has_dwarf_info() else None
        except (ELFError, *_BROKEN):
            return None

    @cached_property
    def _units(self) -> list[Unit]:
        units: list[Unit] = []
        try:
            for unit in self._dwarf.iter_CUs() if self._dwarf else ():
                top = unit.get_top_DIE()
                producer, language = (_value(top, f"DW_AT_{it}") for it in ("producer", "language"))
                told = (producer or b"").decode("utf-8", "backslashreplace"), language or 0
                units += [Unit(*each, *told) for each in self._ranges(unit, top)]
        except _BROKEN:
            pass
        return sorted(units)

    def _ranges(self, unit: Any, top: Any) -> Iterator[tuple[int, int]]:
        low, high = _value(top, "DW_AT_low_pc"), top.attributes.get("DW_AT_high_pc")
        if low is not None and high is not None:
            from elftools.dwarf.descriptions import describe_form_class

            is_length = describe_form_class(high.form) == "constant"
            yield low, low + high.value if is_length else high.value
            return
        ranges, lists = _value(top, "DW_AT_ranges"), self._dwarf.range_lists()
        base = low or 0
        for entry in lists.get_range_list_at_offset(ranges, cu=unit) if ranges and lists else ():
            if hasattr(entry, "base_address"):
                base = entry.base_address
            else:
                offset = 0 if getattr(entry, "is_absolute", False) else base
                yield entry.begin_offset + offset, entry.end_offset + offset
        if self._is_object and not ranges:
            yield 0, 0

    def _inlined(self) -> Iterator[str]:
        if self._dwarf is None or self._dwarf.debug_info_sec.size > _MOST_INFO:
            return
        try:
            for unit in self._dwarf.iter_CUs():
                for entry in unit.get_top_DIE().iter_children():
                    if (
                        entry.tag == "DW_TAG_subprogram"
                        and _value(entry, "DW_AT_inline") in _INLINED
                    ):
                        yield (_value(entry, "DW_AT_name") or b"").decode("utf-8", "replace")
        except _BROKEN:
            return


# What pyelftools raises where its input is not sound, beside its own exceptions.
_BROKEN = (
    ArithmeticError, AssertionError, AttributeError, LookupError, NotImplementedError, TypeError,
    ValueError, RecursionError, MemoryError, OSError,
)  # fmt: skip


def _value(entry: Any, attribute: str) -> Any:
    found = entry.attributes.get(attribute)
    return found.value if found else None
