"""The entries of a relocatable object's `__mcount_loc` tables: the places they name.

A word gets its value by a relocation: a symbol's section, and an offset therein. Nearly always
each word has one, all of the word's own type and in order; such a table is decoded in columns,
any other word by word.
"""

from _operator import ne
from itertools import compress, pairwise
from typing import NamedTuple

from recordmcount import columns, mcount_loc, x86
from recordmcount.columns import is_ascending
from recordmcount.elf import object as elf
from recordmcount.elf.object import Object
from recordmcount.errors import FormatError

# A table word by its relocation; gcc -mx32 has the 8-byte words of x86-64.
_ENTRY_SIZES = {
    x86.EM_X86_64: {x86.R_X86_64_64: 8, x86.R_X86_64_32: 4},
    x86.EM_386: {x86.R_386_32: 4},
}
# Places by section index: section offsets, in any order.
_Places = dict[int, list[int]]


class Entries(NamedTuple):
    """What all tables of an object name, its compiler's included.

    `places` are distinct section offsets, ascending, by section index. `dead` counts words that
    name no place, `repeated` entries beyond the first for one place.
    """

    places: _Places
    dead: int
    repeated: int


def read(obj: Object) -> Entries:
    """The entries of an object; FormatError where a relocation makes none."""
    tables: dict[int, list[int]] = {index: [] for index in obj.named(mcount_loc.NAME)}
    for index in obj.of_type(elf.SHT_RELA, elf.SHT_REL):
        if obj.headers[index][elf.SH_INFO] in tables:
            tables[obj.headers[index][elf.SH_INFO]].append(index)
    involved = [index for pair in tables.items() for index in (pair[0], *pair[1])]
    if sum(obj.headers[index][elf.SH_SIZE] for index in involved) > obj.size:
        raise FormatError(obj.path, "tables overlap", mcount_loc.NAME.decode())
    places: _Places = {}
    dead = 0
    for index, relocations in tables.items():
        named = _in_columns(obj, index, relocations) or _word_by_word(obj, index, relocations)
        dead += named[1]
        for section, offsets in named[0].items():
            places.setdefault(section, []).extend(offsets)
    distinct = {section: _distinct(offsets) for section, offsets in sorted(places.items())}
    total = sum(map(len, places.values()))
    return Entries(distinct, dead, total - sum(map(len, distinct.values())))


def _distinct(offsets: list[int]) -> list[int]:
    return offsets if is_ascending(offsets) else sorted(set(offsets))


def _in_columns(obj: Object, index: int, relocations: list[int]) -> tuple[_Places, int] | None:
    """(places, how many words name none) of a usual table, None of any other."""
    layout = obj.layout
    if len(relocations) != 1 or obj.section_type(relocations[0]) != elf.SHT_RELA:
        return None
    header = obj.headers[relocations[0]]
    size, entry_size = header[elf.SH_SIZE], header[elf.SH_ENTSIZE]
    words = range(0, len(obj.content(index)) - layout.word + 1, layout.word)
    if len(words) < columns.FEW or (entry_size, size) != (
        layout.rela.size,
        len(words) * entry_size,
    ):
        return None
    content = obj.content(relocations[0])
    offsets, infos, addends = (
        layout.column(content, place * layout.word, entry_size) for place in range(3)
    )
    kinds = set(infos)
    if offsets != list(words) or {*map(layout.type_of, kinds)} != {mcount_loc.word_relocation(obj)}:
        return None
    if max(map(layout.symbol_of, kinds)) >= obj.symbol_count:
        return None
    symbols = {info: obj.raw_symbol(layout.symbol_of(info)) for info in kinds}
    places: _Places = {}
    changes = compress(range(1, len(infos)), map(ne, infos, infos[1:]))
    for start, end in pairwise((0, *changes, len(infos))):
        symbol = symbols[infos[start]]
        offsets = [symbol[elf.ST_VALUE] + addend for addend in addends[start:end]]
        places.setdefault(symbol[elf.ST_SHNDX], []).extend(offsets)
    return places, len(places.pop(elf.SHN_UNDEF, ()))


def _word_by_word(obj: Object, index: int, relocations: list[int]) -> tuple[_Places, int]:
    """(places, how many words name none) of a table."""
    word, content = obj.layout.word, obj.content(index)
    # By offset of the word: (section index, section offset), None where it names no place.
    claims: dict[int, tuple[int, int] | None] = dict.fromkeys(
        range(0, obj.section(index).size - word + 1, word)
    )
    for each in relocations:
        for offset, kind, symbol, explicit in obj.relocations(each):
            if kind == x86.RELOCATION_NONE:
                continue
            size = _ENTRY_SIZES[obj.machine].get(kind)
            if size is None or symbol >= obj.symbol_count or offset + word > len(content):
                raise FormatError(obj.path, "unknown relocation", mcount_loc.NAME.decode(), offset)
            named = obj.raw_symbol(symbol)
            addend = elf.in_place(content, offset) if explicit is None else explicit
            section = named[elf.ST_SHNDX]
            claims[offset] = (section, named[elf.ST_VALUE] + addend) if section else None
            if size > word and not claims.get(offset + word):
                claims.pop(offset + word, None)
    places: _Places = {}
    for claim in filter(None, claims.values()):
        places.setdefault(claim[0], []).append(claim[1])
    return places, len(claims) - sum(map(len, places.values()))
