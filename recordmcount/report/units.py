"""The units of debug information, by pyelftools: who compiled them, from what, and to where.

pyelftools is given the sections and not the file: they are decompressed and relocated already. What
it makes of a file that is not sound is bounded here, for its own loops are not.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from io import BytesIO
from typing import Any, NamedTuple

from recordmcount import x86
from recordmcount.elf import object as elf
from recordmcount.elf.debug_sections import DebugSections

TYPE_CHECKING = False
if TYPE_CHECKING:
    from recordmcount.elf.object import Object

_INLINED = (1, 3)  # DW_INL_inlined, DW_INL_declared_inlined
# Beyond so many bytes of .debug_info not all of its functions are looked at.
_MOST_INFO = 1 << 20
_MOST_UNITS = 1 << 16  # more than in any program that was seen
# What pyelftools is given, by the names of its arguments; all others are None.
_READ = ("info", "abbrev", "str", "line_str", "str_offsets", "addr", "ranges", "rnglists")
_COUNTED = (b".debug_info", b".debug_abbrev", b".debug_ranges", b".debug_rnglists")
_UNREAD = ("aranges", "frame", "loc", "line", "pubtypes", "pubnames", "loclists", "sup", "types")


class Unit(NamedTuple):
    """A unit of compilation: addresses from `start` to before `end`; all of them in an object."""

    start: int
    end: int
    producer: str
    language: int


class _TooMuchError(Exception):
    """There is more in the file than is looked at."""


class Units:
    """The units of a file, as far as they can be read: `obj` may be a file of debug information.

    Raises FormatError, when it is made, for sections that cannot be read.
    """

    def __init__(self, obj: Object) -> None:
        self._is_object = obj.type == elf.ET_REL
        self._abbreviations: set[int] = set()
        self._dwarf: Any = _dwarf(obj) if obj.named(b".debug_info") else None
        # What is looked at, of whatever kind, is less than the bytes that a sound file has of it.
        contents = map(obj.once(DebugSections).content, _COUNTED) if self._dwarf else ()
        self._left = sum(len(content.data) for content in contents)

    @cached_property
    def listed(self) -> list[Unit]:
        """All units, by their addresses; those that stand behind something broken are left out."""
        units: list[Unit] = []
        try:
            for unit, top in self._tops():
                producer, language = (_value(top, f"DW_AT_{it}") for it in ("producer", "language"))
                told = _text(producer), language if isinstance(language, int) else 0
                units += [Unit(*each, *told) for each in self._ranges(unit, top)]
        except _broken():
            pass
        return sorted(units)

    @cached_property
    def inlined(self) -> list[str]:
        """Name the functions that exist in inlined copies alone, as far as that can be known."""
        names: set[str] = set()
        if self._dwarf is None or self._dwarf.debug_info_sec.size > _MOST_INFO:
            return []
        try:
            for unit, top in self._tops():
                for entry in self._children(unit, top):
                    is_function = entry.tag == "DW_TAG_subprogram"
                    if is_function and _value(entry, "DW_AT_inline") in _INLINED:
                        names.add(_text(_value(entry, "DW_AT_name")))
        except _broken():
            pass
        return sorted(names - {""})

    def _tops(self) -> Iterator[tuple[Any, Any]]:
        """Give each unit and its first entry."""
        from elftools.dwarf.die import DIE

        for number, unit in enumerate(self._dwarf.iter_CUs() if self._dwarf else ()):
            if number == _MOST_UNITS:
                raise _TooMuchError
            place = unit["debug_abbrev_offset"]
            if place not in self._abbreviations:  # each table is read once
                self._abbreviations.add(place)
                unit.get_abbrev_table()
                self._spend(self._dwarf.debug_abbrev_sec.stream.tell() - place)
            yield unit, DIE(unit, self._dwarf.debug_info_sec.stream, unit.cu_die_offset)

    def _children(self, unit: Any, top: Any) -> Iterator[Any]:
        """Give the entries right below the first one, reading ahead only."""
        from elftools.dwarf.die import DIE

        at, end = top.offset + top.size, unit.cu_offset + unit.size
        depth = int(top.has_children)
        while depth and at < end:
            self._spend(1)
            entry = DIE(unit, self._dwarf.debug_info_sec.stream, at)
            at += entry.size
            if entry.is_null():
                depth -= 1
                continue
            if depth == 1:
                yield entry
            next_one = (_value(entry, "DW_AT_sibling") or 0) + unit.cu_offset
            if entry.has_children and next_one > at:
                at = next_one
            else:
                depth += bool(entry.has_children)

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
            self._spend(1)
            if hasattr(entry, "base_address"):
                base = entry.base_address
            else:
                offset = 0 if getattr(entry, "is_absolute", False) else base
                yield entry.begin_offset + offset, entry.end_offset + offset
        if self._is_object and not ranges:
            yield 0, 0

    def _spend(self, parts: int) -> None:
        self._left -= parts
        if self._left < 0:
            raise _TooMuchError


def _dwarf(obj: Object) -> Any:
    """Give pyelftools the sections."""
    from elftools.dwarf.dwarfinfo import DebugSectionDescriptor, DwarfConfig, DWARFInfo

    sections = obj.once(DebugSections)
    given: dict[str, Any] = dict.fromkeys([f"debug_{name}_sec" for name in _UNREAD])
    given |= {"eh_frame_sec": None, "gnu_debugaltlink_sec": None}
    for each in _READ:
        name = f".debug_{each}"
        data = sections.content(name.encode()).data
        described = DebugSectionDescriptor(BytesIO(data), name, 0, len(data), 0)
        given[f"debug_{each}_sec"] = described if data else None
    architecture = "x86" if obj.machine == x86.EM_386 else "x64"
    return DWARFInfo(config=DwarfConfig(True, architecture, obj.layout.word), **given)


def _broken() -> tuple[type[Exception], ...]:
    """Return what pyelftools raises where its input is not sound."""
    from elftools.common.exceptions import DWARFError, ELFError
    from elftools.construct import ConstructError

    return (
        _TooMuchError, DWARFError, ELFError, ConstructError, ArithmeticError, AssertionError,
        AttributeError, LookupError, NotImplementedError, TypeError, ValueError, RecursionError,
    )  # fmt: skip


def _value(entry: Any, attribute: str) -> Any:
    found = entry.attributes.get(attribute)
    return found.value if found else None


def _text(value: Any) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else ""
