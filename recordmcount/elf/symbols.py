"""The symbols of a file: where these names stand, and which function is at a place of code.

The answer is the same for objects and for linked files: a symbol belongs to its section, and what
it names ends there. Names are those before an `@`: assemblers and linkers append the version.
"""

from __future__ import annotations

from _bisect import bisect_left, bisect_right
from itertools import accumulate, compress, zip_longest

from recordmcount.columns import positions
from recordmcount.errors import FormatError

from . import frames
from . import object as elf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from .object import Object

    # st_value, how good a name it is, -number in its table; that table's section index, st_name,
    # st_size. The first three are the order.
    _Row = tuple[int, int, int, int, int, int]


def named(obj: Object, names: Sequence[bytes]) -> Iterator[tuple[bytes, int, int, int]]:
    """Yield (name, st_value, st_info, st_shndx) of the symbols of these names in both tables."""
    size = obj.layout.sym.size
    for index in obj.of_type(elf.SHT_SYMTAB, elf.SHT_DYNSYM):
        section = obj.section(index)
        strings = obj.content(section.link)
        found = elf.name_places(strings, _present(strings, names))
        places = {place.to_bytes(4, "little"): name for place, name in found.items()}  # st_name
        low_bytes = {each[0] for each in places}
        step = elf.CHUNK * size
        for start in range(0, section.size - section.size % size, step):
            length = min(step, section.size - start)
            piece = obj.read(section.offset + start, length, f"section {index}")
            for number in positions(piece[::size], low_bytes) if places else ():
                at = number * size
                name = places.get(piece[at : at + 4])
                if name is not None and at + size <= length:
                    fields = obj.layout.sym_fields(obj.layout.sym.unpack_from(piece, at))
                    yield name, fields[elf.ST_VALUE], fields[elf.ST_INFO], fields[elf.ST_SHNDX]


def _present(strings: bytes, names: Iterable[bytes]) -> list[bytes]:
    """Choose the names that are there, the shortest first; what is not is in no longer one."""
    there: list[bytes] = []
    nowhere: list[bytes] = []
    for name in sorted(names, key=len):
        if not any(each in name for each in nowhere):
            (there if name in strings else nowhere).append(name)
    return there


def places(obj: Object, content: bytes, *types: int) -> list[int]:
    """Return st_value of the symbols of these types in a table of these contents, in its order."""
    layout = obj.layout
    size = layout.sym.size
    content = content[: len(content) - len(content) % size]
    infos = {binding << 4 | each for binding in _BINDINGS for each in types}
    is_one = bytes([info in infos for info in range(256)])
    chosen = content[layout.sym_info :: size].translate(is_one)
    values = layout.words(content)[layout.sym_value // layout.word :: size // layout.word]
    found = list(compress(values, chosen))  # most of a table are none: they come into no list
    return found if min(found, default=0) >= 0 else [one & layout.highest for one in found]


_START, _RANK, _TABLE, _NAME, _SIZE = 0, 1, 3, 4, 5  # of a row
# The types and bindings by how good a name they make for a function. What assembly gives any other
# type is still named so; a section, a file and a thread's variable are no places in code.
_FUNCTIONS = (elf.STT_FUNC, elf.STT_GNU_IFUNC, elf.STT_NOTYPE)
_TYPED = _FUNCTIONS[:2]
_NO_PLACES = (elf.STT_SECTION, elf.STT_FILE, elf.STT_TLS)
_TYPES = (*_FUNCTIONS, *(each for each in range(16) if each not in _FUNCTIONS + _NO_PLACES))
_BINDINGS = (elf.STB_GLOBAL, elf.STB_GNU_UNIQUE, elf.STB_WEAK, elf.STB_LOCAL)
# st_info -> how good a name its symbol is for a function; no other symbol is one.
_RANKS = {
    binding << 4 | each: -(len(_BINDINGS) * _TYPES.index(each) + _BINDINGS.index(binding))
    for each in _TYPES
    for binding in _BINDINGS
}
_ARE_PLACES = bytes([info in _RANKS for info in range(256)])
_LEAST_FUNCTION = _RANKS[elf.STB_LOCAL << 4 | elf.STT_FUNC]


def names_locals(obj: Object) -> bool:
    """Tell whether local functions have symbols: else it is not known what has lost its own."""
    local = elf.STB_LOCAL << 4 | elf.STT_FUNC
    return local in obj.symbol_bytes[obj.layout.sym_info :: obj.layout.sym.size]


class Functions:
    """The functions of code, by section and place.

    A place is a section offset in an object and a link-time virtual address in a linked file: it
    counts as st_value does. Assembly sources often leave the type out, so a symbol of any type
    counts. Of several at one place a function is the best, then one without a type, then a global
    one, then the first. The symbols are read when the first function is asked for.
    """

    def __init__(self, obj: Object) -> None:
        self._obj = obj
        self._names: dict[tuple[int, int], str] = {}
        self._aliases: dict[tuple[int, int], tuple[str, ...]] = {}
        self._sections: dict[int, _Column] | None = None
        self._most: list[int] | None = None

    def at(self, section: int, place: int, begins: int = 0) -> tuple[str | None, int]:
        """Find the function at a place: (name, bytes from its start), (None, 0) if there is none.

        A symbol at the very place names it. Else one whose size covers it does. Only then the last
        one before it does, if how far that reaches is not known: it has no size, and does not stand
        inside another one, with which it would end. It ends at the latest where another function
        is known to begin: at `begins`, if the code says so, and by an unwind entry. (Such a one may
        have no symbol: it was weak, and another definition is linked.)
        """
        column = self._column(section)
        number = bisect_right(column.starts, place) - 1
        if number < 0:
            return None, 0
        row = column.rows[number]
        if row[_START] != place and not place < row[_START] + row[_SIZE]:
            covering = column.rows[column.reaching()[number]]
            end = covering[_START] + covering[_SIZE]
            if place < end:
                row = covering
            elif row[_SIZE] or row[_START] < max(end, begins, self._begun(section, place)):
                return None, 0
        return self._name(row), place - row[_START]

    def _begun(self, section: int, place: int) -> int:
        """Return the last place up to this one at which an unwind entry begins; 0 if none does."""
        ranges = self._obj.once(frames.ranges).get(section, [])
        number = bisect_right(ranges, (place, self._obj.layout.highest + 1)) - 1
        return ranges[number][0] if number >= 0 else 0

    def names(self, section: int, start: int) -> tuple[str, ...]:
        """Return all names of the function that begins at a place, each once, the best first.

        Of several it is always the very same tuple: there may be many names, and many sites.
        """
        found = self._aliases.get((section, start))
        if found is None:
            column = self._column(section)
            starts = column.starts
            first = bisect_left(starts, start)
            if starts[first : first + 1] == [start] != starts[first + 1 : first + 2]:
                return (self._name(column.rows[first]),)  # nearly always
            rows = column.rows[first : bisect_right(starts, start)]
            found = tuple(dict.fromkeys(map(self._name, reversed(rows))))
            self._aliases[section, start] = found
        return found

    def listed(self) -> Iterator[tuple[int, int, str]]:
        """Yield (section, start, best name) of all that are typed as functions, in order."""
        self._column(0)
        for section, column in sorted((self._sections or {}).items()):
            rows = [each for each in column.rows if each[_RANK] >= _LEAST_FUNCTION]
            for row, behind in zip_longest(rows, rows[1:]):
                if behind is None or behind[_START] != row[_START]:
                    yield section, row[_START], self._name(row)

    def most_beginnings(self) -> list[int]:
        """Return st_value of symbols that are functions, ascending, of one table: nearly all."""
        if self._most is None:
            obj, table = self._obj, self._fullest_table()
            self._most = sorted(places(obj, obj.content(table), *_TYPED)) if table else []
        return self._most

    def more_beginnings(self) -> tuple[list[int], list[int]]:
        """Return st_value of further functions, ascending, and of symbols without a type.

        Functions are those of other tables than most are in; some may be there, too.
        """
        obj, most = self._obj, self._fullest_table()
        typed: list[int] = []
        untyped: list[int] = []
        for index in obj.of_type(elf.SHT_SYMTAB, elf.SHT_DYNSYM):
            content = obj.content(index)
            if index != most:
                typed += places(obj, content, *_TYPED)
            untyped += places(obj, content, elf.STT_NOTYPE)
        return sorted(typed), sorted(untyped)

    def _fullest_table(self) -> int:
        """Return the section index of the table that has nearly all symbols, 0 if there is none."""
        obj = self._obj
        tables = obj.of_type(elf.SHT_SYMTAB) or obj.of_type(elf.SHT_DYNSYM)
        return tables[0] if tables else 0

    def begins(self, section: int, place: int) -> bool:
        """Tell whether a symbol of type STT_FUNC stands at a place; any other type is no proof."""
        column = self._column(section)
        number = bisect_right(column.starts, place) - 1
        row = column.rows[number] if number >= 0 else None
        return row is not None and row[_START] == place and row[_RANK] >= _LEAST_FUNCTION

    def _name(self, row: _Row) -> str:
        """Read the name of a function, once; all names together may not be too long."""
        key = row[_TABLE], row[_NAME]
        name = self._names.get(key)
        if name is None:
            name = elf.string_at(self._strings[row[_TABLE]], row[_NAME]).partition("@")[0]
            self._names[key] = name
            if not self._obj.budget.reads(len(name)):
                what = "names of symbols overlap: they are too long together"
                raise FormatError(self._obj.path, what)
        return name

    def _column(self, section: int) -> _Column:
        if self._sections is not None and section in self._sections:
            return self._sections[section]
        if self._sections is None:
            self._strings: dict[int, bytes] = {}
            rows: dict[int, list[_Row]] = {}
            for table in self._obj.of_type(elf.SHT_SYMTAB, elf.SHT_DYNSYM):
                self._read(table, rows)
            self._sections = {shndx: _Column(sorted(each)) for shndx, each in rows.items()}
        return self._sections.get(section) or _Column([])

    def _read(self, table: int, rows: dict[int, list[_Row]]) -> None:
        """Sort the functions of a symbol table by section; data has as many symbols, or more."""
        obj = self._obj
        code = {
            index
            for index, header in enumerate(obj.headers)
            if header[elf.SH_FLAGS] & elf.SHF_EXECINSTR
        }
        content = obj.content(table)
        self._strings[table] = obj.content(obj.section(table).link)
        layout = obj.layout
        content = content[: len(content) - len(content) % layout.sym.size]
        symbols = map(layout.sym_fields, layout.sym.iter_unpack(content))
        is_place = content[layout.sym_info :: layout.sym.size].translate(_ARE_PLACES)
        for number, symbol in compress(enumerate(symbols), is_place):
            name, value, size, info, _other, shndx = symbol
            if not shndx or not name:
                continue
            rank = _RANKS[info]
            if shndx >= elf.SHN_LORESERVE and table == obj.symtab:
                shndx = obj.section_of(number, shndx)
            if shndx in code:
                rows.setdefault(shndx, []).append((value, rank, -number, table, name, size))


class _Column:
    """The functions of one section: `rows` in order of their `starts`."""

    __slots__ = ("rows", "starts", "_reaching")

    def __init__(self, rows: list[_Row]) -> None:
        self.rows = rows
        self.starts = [row[_START] for row in rows]
        self._reaching: list[int] = []

    def reaching(self) -> list[int]:
        """Number, for each row, the one that ends last of it and all before it."""
        if not self._reaching:
            ends = [(row[_START] + row[_SIZE], number) for number, row in enumerate(self.rows)]
            self._reaching = [number for _, number in accumulate(ends, max)]
        return self._reaching
