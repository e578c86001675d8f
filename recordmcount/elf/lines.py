"""Source files and lines of code, by the line number programs of DWARF 2 to 5.

(DWARF 5, chapter 6.2.) A file has millions of rows, and few are asked for. So the programs are not
run: the places where a sequence of rows begins are searched for (DW_LNE_set_address is three bytes
that hardly stand elsewhere), and only the sequence that begins last before an address is decoded.
What was found so is checked: decoding must pass that very place, and end behind the address. Where
it does not, the whole program is run.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

from recordmcount import x86
from recordmcount.errors import FormatError

from . import object as elf

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
_FIXED = {_DATA1: 1, _DATA2: 2, _DATA4: 4, _DATA8: 8, _DATA16: 16}
# Relocation types that fill words of debug information with addresses or offsets.
_WORDS = {
    x86.EM_X86_64: {x86.R_X86_64_64: 8, x86.R_X86_64_32: 4},
    x86.EM_386: {x86.R_386_32: 4},
}


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
        self._content = _relocated(obj, b".debug_line")
        self._strings: dict[bytes, bytes] = {}
        self._files: dict[int, list[str]] = {}

    def of(self, section: int, addresses: Sequence[int]) -> list[Line | None]:
        """Find the lines of ascending places, section offsets or link-time virtual addresses.

        None where a line is not known. `section` matters in objects only.
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
            except (IndexError, FormatError):  # a table or a program that is cut short
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
        before = self._content.data.rfind(_END_SEQUENCE, unit.program, position)
        begin = unit.program if before < 0 else before + len(_END_SEQUENCE)
        found, is_there = self._run(unit, begin, position, addresses)
        if is_there or begin == unit.program:
            return found
        return self._run(unit, unit.program, position, addresses)[0]

    def _run(  # noqa: PLR0912 - a branch for each opcode, in the order of how often they come
        self, unit: _Unit, at: int, position: int, addresses: list[int]
    ) -> tuple[dict[int, tuple[int, int]], bool]:
        """Run a program from `at`, where a sequence begins, to the end of that set at `position`.

        The second value tells whether there was one: then decoding was in step.
        """
        data, size, least = self._content.data, self._obj.layout.word, unit.least_length
        base = len(unit.operands) + 1
        advances = [(op - base) // unit.line_range * least for op in range(256)]
        steps = [(op - base) % unit.line_range + unit.line_base for op in range(256)]
        found: dict[int, tuple[int, int]] = {}
        goals = iter(addresses)
        goal = none = 1 << 64
        address, file, line, last = 0, 1, 1, (0, 0)
        is_there = False
        while at < unit.end:
            op = data[at]
            at += 1
            if op >= base or op == _COPY:
                if op != _COPY:
                    address += advances[op]
                    line += steps[op]
                while goal < address:
                    found[goal] = last
                    goal = next(goals, none)
                last = file, line
            elif op == _ADVANCE_PC:
                value, at = _uleb(data, at)
                address += value * least
            elif op == _ADVANCE_LINE:
                value, at = _sleb(data, at)
                line += value
            elif op == _SET_FILE:
                file, at = _uleb(data, at)
            elif op == _CONST_ADD_PC:
                address += advances[255]
            elif op == _FIXED_ADVANCE_PC:
                address += int.from_bytes(data[at : at + 2], "little")
                at += 2
            elif op:
                for _ in range(unit.operands[op - 1]):
                    _, at = _uleb(data, at)
            else:
                length, at = _uleb(data, at)
                if data[at] == _LNE_ADDRESS:
                    address = int.from_bytes(data[at + 1 : at + 1 + size], "little")
                    if at - 2 == position:
                        is_there, goal = True, next(goals, none)
                elif data[at] == _LNE_END:
                    while goal < address:
                        found[goal] = last
                        goal = next(goals, none)
                    if is_there:
                        return found, True
                    address, file, line, last = 0, 1, 1, (0, 0)
                at += max(length, 1)
        return {}, False

    # --- file tables --------------------------------------------------------------------------

    def _file(self, unit: _Unit, number: int) -> str:
        if unit.start not in self._files:
            tables = self._tables_5 if unit.version >= 5 else self._tables_2
            self._files[unit.start] = tables(unit)
        return self._files[unit.start][number]

    def _tables_2(self, unit: _Unit) -> list[str]:
        """Read the tables of DWARF 2 to 4; file 0 is none, folder 0 that of the compilation."""
        data, position = self._content.data, unit.tables
        folders = [""]
        while data[position]:
            folder, position = _string(data, position)
            folders.append(folder)
        position += 1
        files = [""]
        while data[position]:
            name, position = _string(data, position)
            folder_number, position = _uleb(data, position)
            for _ in range(2):  # time and length
                _, position = _uleb(data, position)
            files.append(_joined(folders[folder_number], name))
        return files

    def _tables_5(self, unit: _Unit) -> list[str]:
        folders, position = self._table_5(unit, unit.tables)
        files, _ = self._table_5(unit, position)
        names = [folder for folder, _ in folders]
        first = names[0] if names else ""
        joined = [_joined(names[folder], name) for name, folder in files]
        return [name.removeprefix(f"{first}/") for name in joined]

    def _table_5(self, unit: _Unit, position: int) -> tuple[list[tuple[str, int]], int]:
        """Read one table: (path, folder number) rows, and the position behind it."""
        data = self._content.data
        formats = []
        count = data[position]
        position += 1
        for _ in range(count):
            content, position = _uleb(data, position)
            form, position = _uleb(data, position)
            formats.append((content, form))
        length, position = _uleb(data, position)
        rows = []
        for _ in range(length if formats else 0):
            path, folder = "", 0
            for content, form in formats:
                value, position = self._value(unit, form, position)
                if content == _LNCT_PATH and isinstance(value, str):
                    path = value
                elif content == _LNCT_DIRECTORY and isinstance(value, int):
                    folder = value
            rows.append((path, folder))
        return rows, position

    def _value(self, unit: _Unit, form: int, position: int) -> tuple[str | int, int]:
        data = self._content.data
        if form in _FIXED:
            end = position + _FIXED[form]
            if end > unit.end:
                raise IndexError
            return int.from_bytes(data[position:end], "little"), end
        if form == _STRING:
            return _string(data, position)
        if form == _UDATA:
            return _uleb(data, position)
        if form == _BLOCK_FORM:
            length, position = _uleb(data, position)
            return 0, position + length
        if form in (_STRP, _LINE_STRP):
            end = position + unit.offset_size
            name = b".debug_str" if form == _STRP else b".debug_line_str"
            if name not in self._strings:
                self._strings[name] = _relocated(self._obj, name).data
            return _string(self._strings[name], int.from_bytes(data[position:end], "little"))[
                0
            ], end
        raise IndexError(f"DW_FORM {form:#x}")


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


class _Content(NamedTuple):
    """A section's bytes, relocated; and by the position of a word the section that it points to."""

    data: bytes
    places: dict[int, int]


def _relocated(obj: Object, name: bytes) -> _Content:
    """Read a section of debug information; in objects with its relocations applied."""
    indices = obj.named(name)
    if not indices:
        return _Content(b"", {})
    section = obj.section(indices[0])
    data = obj.read(section.offset, section.size, section.name)
    if section.flags & elf.SHF_COMPRESSED:
        data = _decompressed(obj, data, name)
    if obj.type != elf.ET_REL:
        return _Content(data, {})
    content, places = bytearray(data), {}
    sizes = _WORDS[obj.machine]
    for index in obj.of_type(elf.SHT_RELA, elf.SHT_REL):
        if obj.headers[index][elf.SH_INFO] != indices[0]:
            continue
        for at, kind, number, addend in obj.relocations(index):
            size = sizes.get(kind)
            if size is None or at + size > len(content) or number >= obj.symbol_count:
                continue
            symbol = obj.raw_symbol(number)
            before = int.from_bytes(content[at : at + size], "little") if addend is None else addend
            value = symbol[elf.ST_VALUE] + before & (1 << 8 * size) - 1
            content[at : at + size] = value.to_bytes(size, "little")
            places[at] = symbol[elf.ST_SHNDX]
    return _Content(bytes(content), places)


def _decompressed(obj: Object, data: bytes, name: bytes) -> bytes:
    """Decompress a section with SHF_COMPRESSED (gABI, "Section Compression")."""
    import zlib

    head = 24 if obj.layout.is_64 else 12
    kind = int.from_bytes(data[:4], "little")
    size = int.from_bytes(data[8:16] if obj.layout.is_64 else data[4:8], "little")
    if kind != 1 or size > 1032 * len(data):  # the most that zlib can make of it
        raise FormatError(obj.path, "a compressed section that is not supported", name.decode())
    try:
        return zlib.decompress(data[head:])
    except zlib.error as error:
        raise FormatError(obj.path, "a compressed section is broken", name.decode()) from error


def _string(data: bytes, position: int) -> tuple[str, int]:
    end = data.find(b"\0", position)
    if end < 0:
        raise IndexError
    return data[position:end].decode("utf-8", "backslashreplace"), end + 1


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
