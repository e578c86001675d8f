"""Source files and lines of code, by the line number programs of DWARF 2 to 5.

(DWARF 5, chapter 6.2.) A file has millions of rows, and few are asked for. So the programs are not
run: the places where a sequence of rows begins are searched for (DW_LNE_set_address is three bytes
that hardly stand elsewhere), and only the sequence that begins last before an address is decoded.
What was found so is checked: decoding must pass that very place, and end behind the address. Where
it does not, the whole program is run.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

from . import object as elf
from .debug_sections import DebugSections

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .object import Object

_END_SEQUENCE = b"\0\1\1"
# Standard opcodes; extended ones follow a 0 and their length.
(_COPY, _ADVANCE_PC, _ADVANCE_LINE, _SET_FILE, _SET_COLUMN, _NEGATE, _BLOCK, _CONST_ADD_PC,
 _FIXED_ADVANCE_PC) = range(1, 10)  # fmt: skip
_LNE_END, _LNE_ADDRESS = 1, 2
# Content types and forms of the file tables of DWARF 5.
_LNCT_PATH, _LNCT_DIRECTORY = 1, 2
(_DATA2, _DATA4, _DATA8, _STRING, _BLOCK_FORM, _DATA1, _STRP, _UDATA, _DATA16, _LINE_STRP) = (
    0x05, 0x06, 0x07, 0x08, 0x09, 0x0B, 0x0E, 0x0F, 0x1E, 0x1F,
)  # fmt: skip
_SOURCES = {_STRP: b".debug_str", _LINE_STRP: b".debug_line_str"}
_FIXED = {_DATA1: 1, _DATA2: 2, _DATA4: 4, _DATA8: 8, _DATA16: 16}

# How many times the size of all programs may be run; those of sound files are run once.
RUNS = 4
ESCAPED = "backslashreplace"


class Line(NamedTuple):
    """A place in source code; `file` is a path as the compiler was given it, joined."""

    file: str
    number: int


class _Unit(NamedTuple):
    """A program and its header. Positions count from the start of `.debug_line`."""

    start: int
    program: int
    end: int
    offset_size: int
    version: int
    least_length: int
    line_base: int
    line_range: int
    operands: bytes  # standard_opcode_lengths, from opcode 1 on
    tables: int


class Lines:
    """The lines of an object or a linked file that has them: `obj` may be a file of debug info."""

    def __init__(self, obj: Object) -> None:
        self._obj = obj
        self._sections = obj.once(DebugSections)
        self._content = self._sections.content(b".debug_line")
        self._left = RUNS * len(self._content.data)
        self._tables: dict[int, tuple[_Table, _Table]] = {}
        self._paths: dict[tuple[int, int], str] = {}
        self._steps: dict[tuple[int, ...], tuple[list[int], list[int]]] = {}

    def of(self, section: int, addresses: Sequence[int]) -> list[Line | None]:
        """Find the lines of ascending places, section offsets or link-time virtual addresses.

        None where a line is not known. `section` matters in objects only. Raises FormatError where
        the names of files would be too much to tell.
        """
        starts = self._starts.get(section if self._obj.type == elf.ET_REL else 0, [])
        wanted: dict[int, list[int]] = {}
        for address in addresses:
            number = bisect_right(starts, (address, len(self._content.data))) - 1
            if number >= 0:
                wanted.setdefault(starts[number][1], []).append(address)
        found: dict[int, Line] = {}
        for position, within in wanted.items():
            unit = self._units[bisect_right(self._units, position, key=lambda unit: unit.start) - 1]
            try:
                for address, (file, number) in self._rows(unit, position, within).items():
                    if number:
                        found[address] = Line(self._file(unit, file), number)
            except (IndexError, OverflowError):  # a table or a program that is cut short
                continue
        return list(map(found.get, addresses))

    # --- where rows are -----------------------------------------------------------------------

    @cached_property
    def _units(self) -> list[_Unit]:
        return list(_units(self._content.data))

    @cached_property
    def _starts(self) -> dict[int, list[tuple[int, int]]]:
        """By section (0 in linked files): (address, position of its op) of sequences, in order."""
        size = self._obj.layout.word
        data, places = self._content
        pattern = re.compile(re.escape(bytes((0, size + 1, _LNE_ADDRESS))))
        found: dict[int, list[tuple[int, int]]] = {}
        for match in pattern.finditer(data) if self._units else ():
            address = int.from_bytes(data[match.end() : match.end() + size], "little")
            if self._obj.type == elf.ET_REL:
                if match.end() in places:
                    found.setdefault(places[match.end()], []).append((address, match.start()))
            elif address:
                found.setdefault(0, []).append((address, match.start()))
        for starts in found.values():
            starts.sort()
        return found

    def _rows(self, unit: _Unit, position: int, addresses: list[int]) -> dict[int, tuple[int, int]]:
        """Find (file, line) of ascending addresses in the sequence that is set at `position`."""
        if self._left < 0:
            return {}
        before = self._content.data.rfind(_END_SEQUENCE, unit.program, position)
        begin = unit.program if before < 0 else before + len(_END_SEQUENCE)
        found, is_there = self._run(unit, begin, position, addresses)
        if is_there or begin == unit.program:
            return found
        return self._run(unit, unit.program, position, addresses)[0]

    def _special(self, unit: _Unit) -> tuple[list[int], list[int]]:
        """Tell what the special opcodes of a unit add: (to the address, to the line)."""
        base, least = len(unit.operands) + 1, unit.least_length
        kind = base, least, unit.line_range, unit.line_base
        if kind not in self._steps:
            self._steps[kind] = (
                [(op - base) // unit.line_range * least for op in range(256)],
                [(op - base) % unit.line_range + unit.line_base for op in range(256)],
            )
        return self._steps[kind]

    def _run(  # noqa: PLR0912, PLR0915 - a branch for each opcode, the most frequent first
        self, unit: _Unit, start: int, position: int, addresses: list[int]
    ) -> tuple[dict[int, tuple[int, int]], bool]:
        """Run a program from `start`, where a sequence begins, to the end of one.

        Of that which is set at `position`. The second value tells whether there was one: then
        decoding was in step.
        """
        data, size, least = self._content.data, self._obj.layout.word, unit.least_length
        base, at = len(unit.operands) + 1, start
        advances, steps = self._special(unit)
        skipped = [range(0), *map(range, unit.operands)]
        found: dict[int, tuple[int, int]] = {}
        goals = iter(addresses)
        goal = none = 1 << 64
        address, file, line, last_file, last_line = 0, 1, 1, 0, 0
        is_there, end = False, unit.end
        while at < end:
            op = data[at]
            at += 1
            if op >= base or op == _COPY:
                if op != _COPY:
                    address += advances[op]
                while goal < address:
                    found[goal] = last_file, last_line
                    goal = next(goals, none)
                if op != _COPY:
                    line += steps[op]
                last_file, last_line = file, line
            elif op == _ADVANCE_LINE:
                value = data[at]
                if value < 0x80:  # nearly always
                    at += 1
                    line += value if value < 0x40 else value - 0x80
                else:
                    value, at = _sleb(data, at)
                    line += value
            elif op == _ADVANCE_PC:
                value, at = _uleb(data, at)
                address += value * least
            elif op == _SET_FILE:
                file, at = _uleb(data, at)
            elif op == _CONST_ADD_PC:
                address += advances[255]
            elif op == _FIXED_ADVANCE_PC:
                address += int.from_bytes(data[at : at + 2], "little")
                at += 2
            elif op:
                for _ in skipped[op]:
                    while data[at] > 0x7F:
                        at += 1
                    at += 1
            else:
                length, at = (data[at], at + 1) if data[at] < 0x80 else _uleb(data, at)
                if data[at] == _LNE_ADDRESS:
                    address = int.from_bytes(data[at + 1 : at + 1 + size], "little")
                    if at - 2 == position:
                        is_there, goal = True, next(goals, none)
                elif data[at] == _LNE_END:
                    while goal < address:
                        found[goal] = last_file, last_line
                        goal = next(goals, none)
                    if is_there:
                        self._left -= at - start
                        return found, True
                    address, file, line, last_file, last_line = 0, 1, 1, 0, 0
                at += max(length, 1)
        self._left -= at - start
        return {}, False

    # --- file tables --------------------------------------------------------------------------

    def _file(self, unit: _Unit, number: int) -> str:
        key = unit.start, number
        if key not in self._paths:
            if unit.start not in self._tables:
                tables = self._tables_5 if unit.version >= 5 else self._tables_2
                self._tables[unit.start] = tables(unit)
            path = self._path(unit, *self._tables[unit.start], number)
            self._obj.budget.tell(path)
            self._paths[key] = path
        return self._paths[key]

    def _path(self, unit: _Unit, folders: _Table, files: _Table, number: int) -> str:
        """Join a file's name and its folder's; but the first folder is that of the compilation."""
        if unit.version < 5:  # numbers begin with 1
            folder = files.folders[number - 1] if number else 1 << 64
            return _joined(folders.name(folder - 1) if folder else "", files.name(number - 1))
        path = _joined(folders.name(files.folders[number]), files.name(number))
        return path.removeprefix(f"{folders.name(0)}/")

    def _tables_2(self, unit: _Unit) -> tuple[_Table, _Table]:
        """Read the tables of DWARF 2 to 4: folders, and files."""
        data, at = self._content.data, unit.tables
        folders, files = _Table(data), _Table(data)
        while data[at] and at < unit.program:
            folders.add(at, 0)
            at = _end(data, at)
        at += 1
        while data[at] and at < unit.program:
            name, at = at, _end(data, at)
            folder, at = _uleb(data, at)
            for _ in range(2):  # time and length
                _, at = _uleb(data, at)
            files.add(name, folder)
        return folders, files

    def _tables_5(self, unit: _Unit) -> tuple[_Table, _Table]:
        folders, at = self._table_5(unit, unit.tables)
        files, _ = self._table_5(unit, at)
        return folders, files

    def _table_5(self, unit: _Unit, at: int) -> tuple[_Table, int]:
        """Read one table, and the position behind it."""
        data = self._content.data
        formats = []
        count = data[at]
        at += 1
        for _ in range(count):
            content, at = _uleb(data, at)
            form, at = _uleb(data, at)
            formats.append((content, form))
        paths = [form for content, form in formats if content == _LNCT_PATH]
        source = _SOURCES.get(paths[-1]) if paths else None
        table = _Table(self._sections.content(source).data if source else data)
        length, at = _uleb(data, at)
        for _ in range(length if formats else 0):
            name = folder = 0
            for content, form in formats:
                value, at = self._value(unit, form, at)
                if content == _LNCT_PATH:
                    name = value
                elif content == _LNCT_DIRECTORY:
                    folder = value
                if at > unit.program:
                    raise IndexError("a table that ends behind its header")
            table.add(name, folder)
        return table, at

    def _value(self, unit: _Unit, form: int, at: int) -> tuple[int, int]:
        """Read a value, of a string where it stands, and the position behind it."""
        data = self._content.data
        if form in (_STRP, _LINE_STRP) or form in _FIXED:
            end = at + _FIXED.get(form, unit.offset_size)
            return int.from_bytes(data[at:end], "little"), end
        if form == _STRING:
            return at, _end(data, at)
        if form == _UDATA:
            return _uleb(data, at)
        if form == _BLOCK_FORM:
            length, at = _uleb(data, at)
            return 0, at + length
        raise IndexError(f"DW_FORM {form:#x}")


class _Table:
    """Names and the numbers of their folders; names are read, and decoded, when they are asked for.

    For many names may stand for one long one.
    """

    def __init__(self, source: bytes) -> None:
        self._source = source
        self._names = array("Q")
        self.folders = array("Q")

    def add(self, name: int, folder: int) -> None:
        """Add a name, by its position."""
        self._names.append(name)
        self.folders.append(folder)

    def name(self, number: int) -> str:
        """Read a name; raises IndexError for what is none."""
        start = self._names[number]
        return self._source[start : _end(self._source, start) - 1].decode("utf-8", ESCAPED)


def _joined(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder and not name.startswith("/") else name


def _units(data: bytes) -> Iterator[_Unit]:
    """Read the headers of all programs; one that is not sound ends the list."""
    start = 0
    while start + 4 < len(data):
        length, offset_size, at = int.from_bytes(data[start : start + 4], "little"), 4, start + 4
        if length == 0xFFFFFFFF:
            length, offset_size, at = int.from_bytes(data[at : at + 8], "little"), 8, at + 8
        end = at + length
        if end > len(data) or length < 16:
            return
        version = int.from_bytes(data[at : at + 2], "little")
        at += 4 if version >= 5 else 2  # address size, segment selector size
        program = at + offset_size + int.from_bytes(data[at : at + offset_size], "little")
        at += offset_size
        if 2 <= version <= 5 and program <= end:
            least = data[at]
            at += 2 if version >= 4 else 1  # maximum operations for each instruction
            at += 1  # default_is_stmt
            line_base = int.from_bytes(data[at : at + 1], "little", signed=True)
            line_range, base = data[at + 1], data[at + 2]
            operands = data[at + 3 : at + 2 + base]
            if line_range and base and len(operands) == base - 1:
                yield _Unit(
                    start, program, end, offset_size, version, least, line_base, line_range,
                    operands, at + 2 + base,
                )  # fmt: skip
        start = end


def _end(data: bytes, position: int) -> int:
    """Return the position behind a string."""
    end = data.find(b"\0", position)
    if end < 0:
        raise IndexError("a string without end")
    return end + 1


def _uleb(data: bytes, position: int) -> tuple[int, int]:
    byte = data[position]
    value, shift = byte & 0x7F, 0
    while byte & 0x80:
        position += 1
        shift += 7
        byte = data[position]
        value |= (byte & 0x7F) << shift
        if shift > 63:
            raise IndexError
    return value, position + 1


def _sleb(data: bytes, position: int) -> tuple[int, int]:
    value, end = _uleb(data, position)
    bits = 7 * (end - position)
    return value - (1 << bits) if value >> bits - 1 else value, end
