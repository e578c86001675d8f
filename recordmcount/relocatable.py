"""The call sites of a relocatable object, whoever recorded it: calls, NOPs and table entries.

Relocations that name mcount are the sites; a table is compared with them and proves nothing. So an
entry that names no site is shown as what it is, and a site without an entry too. A call that a
recorder turned into a NOP has left its relocation behind, as R_*_NONE that still names mcount. A
NOP of this project's own (x86.object_nop) tells of which type the relocation was.
"""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import NamedTuple

from . import elf, sites, table, x86
from .elf import Object, Section
from .errors import FormatError
from .state import State
from .x86 import CallForm

# A table word by its relocation; gcc -mx32 has the 8-byte words of x86-64.
_ENTRY_SIZES = {
    x86.EM_X86_64: {x86.R_X86_64_64: 8, x86.R_X86_64_32: 4},
    x86.EM_386: {x86.R_386_32: 4},
}
R_NONE = 0  # on both machines
_LONGEST_SITE = 13
_LONGEST_PREFIX = 2


class Relocation(NamedTuple):
    """The relocation of a site: a `form` of call and its relocation's type, now or before.

    `section` is the index of its section, `number` its place therein.
    """

    section: int
    number: int
    form: CallForm
    type: int


@dataclass(frozen=True, slots=True)
class Site:
    """A call of mcount, a NOP in its place, or what is neither: foreign.

    Foreign is what else an entry of a table names, and what may be a call but can have no entry.
    `offset` is the section offset of the first byte (for the latter, of the relocated field) and
    `index` that of the section. `function` is the nearest symbol at or before it, None where that
    one ends before it, `function_offset` the distance to its first byte and `aliases` all names
    that byte has. `code` are the bytes that stand there, of the form's length or, if foreign, up to
    five. `form` is the name of the call's form (of a NOP: of the call it replaced), empty if
    unknown. `recorded` tells whether a table has an entry for it. `reason` says why a site is
    foreign. `relocation` is known of a call, and of a NOP that tells it.
    """

    section: str
    offset: int
    function: str | None
    function_offset: int
    code: bytes
    state: State
    form: str
    recorded: bool
    reason: str
    index: int
    aliases: tuple[str, ...]
    relocation: Relocation | None


@dataclass(frozen=True, slots=True)
class Listing:
    """What one object holds.

    `sites` are in the order of section and offset, each once; `has_table` tells whether there is a
    `__mcount_loc`. `dead` counts words of tables that name no place in the object, `repeated`
    entries beyond the first for one place.
    """

    sites: tuple[Site, ...]
    has_table: bool
    dead: int
    repeated: int


class _Place(NamedTuple):
    section: int  # its index
    offset: int  # section offset


@dataclass(frozen=True, slots=True)
class _Thing:
    """What stands at a place."""

    state: State
    length: int = 5
    form: str = ""
    reason: str = ""
    relocation: Relocation | None = None


def read(obj: Object, extra_names: tuple[str, ...] = ()) -> Listing:
    """The sites and the entries of an object.

    `extra_names` are further names of mcount, as given to gcc's -mfentry-name. Raises FormatError
    where a relocation that matters cannot be trusted.
    """
    code = _Code(obj)
    things = dict(_calls(obj, extra_names))
    things.update(_turned_off(obj, code, extra_names))
    entries, dead = _entries(obj)
    recorded = set(entries)
    for place in sorted(recorded - things.keys()):
        things[place] = _claimed(place, code, things)
    functions = _Functions(obj)
    listed = tuple(
        _site(place, things[place], code, functions, place in recorded) for place in sorted(things)
    )
    return Listing(listed, bool(obj.named(table.NAME)), dead, len(entries) - len(recorded))


def _site(
    place: _Place, thing: _Thing, code: "_Code", functions: "_Functions", recorded: bool
) -> Site:
    function, distance = functions.at(place)
    return Site(
        code.section(place.section).name, place.offset, function, distance,
        code.at(place, thing.length), thing.state, thing.form, recorded, thing.reason,
        place.section, functions.names(place.section, place.offset - distance), thing.relocation,
    )  # fmt: skip


# --- what relocations name ------------------------------------------------------------------------


def _calls(obj: Object, extra_names: tuple[str, ...]) -> Iterator[tuple[_Place, _Thing]]:
    found = sites.find(obj, extra_names)
    for part in found.sections:
        words = obj.layout.words(obj.content(part.relocations))
        width = obj.headers[part.relocations][9] // obj.layout.word
        for call in part:
            kind = obj.layout.type_of(words[call.entry * width + 1])  # of r_info
            known = Relocation(part.relocations, call.entry, call.form, kind)
            thing = _Thing(State.CALL, call.form.length, call.form.name, relocation=known)
            yield _Place(call.section, call.offset), thing
    for section, field, what in found.unsupported:
        yield _Place(section, field), _Thing(State.FOREIGN, reason=what)


def _turned_off(
    obj: Object, code: "_Code", extra_names: tuple[str, ...]
) -> Iterator[tuple[_Place, _Thing]]:
    """The calls that were turned into NOPs. `sites.find` has checked the relocation sections."""
    names = (name.encode("utf-8", "surrogateescape") for name in (*x86.MCOUNT_NAMES, *extra_names))
    symbols = obj.symbols_named(names)
    if not symbols:
        return
    marked = x86.object_nops(obj.machine)
    for index in obj.of_type(elf.SHT_RELA, elf.SHT_REL):
        text = obj.headers[index][7]
        if not obj.headers[text][2] & elf.SHF_EXECINSTR:
            continue
        for piece in obj.relocations_naming(index, symbols, obj.relocation_pieces(index)):
            addends: Iterable[int | None] = piece.addends or repeat(None)
            rows = zip(piece.numbers, piece.offsets, piece.infos, addends, strict=False)
            for number, field, info, addend in rows:
                if obj.layout.type_of(info) == R_NONE:
                    around = code.around(_Place(text, field))
                    yield (
                        _marked_nop(around, marked, index, number, addend)
                        or _nop_around(around, code.forms)
                    )


def _marked_nop(
    around: "_Around",
    marked: dict[bytes, tuple[CallForm, int]],
    section: int,
    number: int,
    addend: int | None,
) -> tuple[_Place, _Thing] | None:
    """The NOP that tells which call it replaced, if its relocation fits that; REL has no addend."""
    for nop, (form, kind) in marked.items():
        if around.holds(nop, len(form.prefix)) and addend in (None, form.addend):
            known = Relocation(section, number, form, kind)
            return around.start(form), _Thing(State.NOP, form.length, form.name, relocation=known)
    return None


def _nop_around(around: "_Around", forms: list[CallForm]) -> tuple[_Place, _Thing]:
    for form in forms:
        if around.holds(form.nop, len(form.prefix)):
            return around.start(form), _Thing(State.NOP, form.length, form.name)
    reason = "the relocation of a call that was turned off, but no NOP"
    return around.field, _Thing(State.FOREIGN, reason=reason)


# --- what tables name -----------------------------------------------------------------------------


def _entries(obj: Object) -> tuple[list[_Place], int]:
    """(places, how many words name none) of every table in the object, its compiler's included."""
    indices = set(obj.named(table.NAME))
    relocated = [i for i in obj.of_type(elf.SHT_RELA, elf.SHT_REL) if obj.headers[i][7] in indices]
    if sum(obj.headers[index][5] for index in (*indices, *relocated)) > obj.size:
        raise FormatError(obj.path, "tables overlap", table.NAME.decode())
    word = obj.layout.word
    claims: dict[tuple[int, int], _Place | None] = {
        (index, offset): None
        for index in indices
        for offset in range(0, obj.section(index).size - word + 1, word)
    }
    symbols = list(obj.raw_symbols()) if relocated else []
    for relocations in relocated:
        index = obj.headers[relocations][7]
        content = obj.content(index)
        for offset, kind, symbol, explicit in obj.relocations(relocations):
            if kind == R_NONE:
                continue
            size = _ENTRY_SIZES[obj.machine].get(kind)
            if size is None or symbol >= len(symbols) or offset + word > len(content):
                raise FormatError(obj.path, "unknown relocation", table.NAME.decode(), offset)
            _, value, _, _, _, section = symbols[symbol]
            addend = elf.in_place(content, offset) if explicit is None else explicit
            claims[index, offset] = _Place(section, value + addend) if section else None
            if size > word and not claims.get((index, offset + word)):
                claims.pop((index, offset + word), None)
    places = [place for _, place in sorted(claims.items()) if place]
    return places, len(claims) - len(places)


def _claimed(place: _Place, code: "_Code", things: dict[_Place, _Thing]) -> _Thing:
    """What an entry names where no relocation names mcount: the NOP of -mnop-mcount, or no site."""
    for back in range(1, _LONGEST_SITE):
        around = things.get(_Place(place.section, place.offset - back))
        if around and around.state is not State.FOREIGN and around.length > back:
            return _Thing(State.FOREIGN, reason=f"{back:#x} into the {around.state}")
    if not code.at(place, 1):
        return _Thing(State.FOREIGN, 0, reason="outside the section")
    for form in code.forms:
        if code.at(place, form.length) == form.nop:
            return _Thing(State.NOP, form.length, form.name)
    if code.at(place, len(x86.NOP5)) == x86.NOP5:  # gcc -m32 -mnop-mcount
        return _Thing(State.NOP, len(x86.NOP5), x86.CALL.name)
    return _Thing(State.FOREIGN, reason="neither a call of mcount nor a NOP of one")


# --- what stands where ----------------------------------------------------------------------------


class _Code:
    """The bytes of sections, read where they are asked for.

    `forms` are the call forms, longest first: the NOP of a short one is the tail of a longer one's.
    """

    def __init__(self, obj: Object) -> None:
        self._obj = obj
        self._sections: dict[int, Section] = {}
        kinds = x86.CALL_FORMS[obj.machine].values()
        self.forms: list[CallForm] = sorted(
            dict.fromkeys(form for forms in kinds for form in forms),
            key=lambda form: -form.length,
        )

    def section(self, index: int) -> Section:
        """Section `index`; FormatError where there is none."""
        if index not in self._sections:
            self._sections[index] = self._obj.section(index)
        return self._sections[index]

    def at(self, place: _Place, length: int) -> bytes:
        """Up to `length` bytes at a place; fewer, or none, where the section ends."""
        section = self.section(place.section)
        length = min(length, section.size - place.offset)
        if length <= 0 or place.offset < 0 or section.type == elf.SHT_NOBITS:
            return b""
        return self._obj.read(section.offset + place.offset, length, "code")

    def around(self, field: _Place) -> "_Around":
        """The bytes on both sides of a relocated field."""
        start = max(0, field.offset - _LONGEST_PREFIX)
        before = field.offset - start
        code = self.at(_Place(field.section, start), before + _LONGEST_SITE)
        return _Around(field, code[:before], code[before:])


class _Around(NamedTuple):
    """The bytes of code before and from a relocated field, as far as any site reaches."""

    field: _Place
    before: bytes
    code: bytes

    def holds(self, site: bytes, prefix: int) -> bool:
        """Whether `site` stands there, whose field comes after so many bytes."""
        return self.before.endswith(site[:prefix]) and self.code.startswith(site[prefix:])

    def start(self, form: CallForm) -> _Place:
        """Where the site of this form begins."""
        return _Place(self.field.section, self.field.offset - len(form.prefix))


class _Functions:
    """The symbols of code by section; of several at one offset a function, a global one, the first.

    STT_NOTYPE counts: assembly sources often leave the type out.
    """

    _TYPES = (elf.STT_FUNC, elf.STT_GNU_IFUNC, 0)
    _BINDINGS = (elf.STB_GLOBAL, elf.STB_WEAK, elf.STB_LOCAL)

    def __init__(self, obj: Object) -> None:
        self._strings = obj.symbol_names
        symbols = defaultdict(list)
        for number, (name, value, size, info, _, shndx) in enumerate(obj.raw_symbols()):
            kind, binding = info & 0xF, info >> 4
            if shndx and name and kind in self._TYPES and binding in self._BINDINGS:
                rank = (-self._TYPES.index(kind), -self._BINDINGS.index(binding), -number)
                symbols[shndx].append((value, rank, name, size))
        self._symbols = {shndx: sorted(rows) for shndx, rows in symbols.items()}

    def at(self, place: _Place) -> tuple[str | None, int]:
        """(name, distance to its first byte) of the function at a place; (None, 0) if none."""
        rows = self._symbols.get(place.section, [])
        number = bisect_right(rows, place.offset, key=lambda row: row[0]) - 1
        if number < 0:
            return None, 0
        value, _, name, size = rows[number]
        if size and place.offset >= value + size:
            return None, 0
        return elf.string_at(self._strings, name), place.offset - value

    def names(self, section: int, start: int) -> tuple[str, ...]:
        """All names of the function that begins at a section offset, each once, the best first."""
        rows = self._symbols.get(section, [])
        first = bisect_left(rows, start, key=lambda row: row[0])
        end = bisect_right(rows, start, key=lambda row: row[0])
        found = (elf.string_at(self._strings, name) for _, _, name, _ in reversed(rows[first:end]))
        return tuple(dict.fromkeys(found))
