"""What the entries of an object's tables name: sections and offsets therein.

An entry is a word of a table with the relocation that makes it an address (see `mcount_loc`).
Nearly all tables are read in columns; any other word by word, and both tell the same.
"""

from _operator import ne
from itertools import chain, compress, pairwise

from recordmcount import columns, mcount_loc, x86
from recordmcount.columns import is_ascending
from recordmcount.elf import object as elf
from recordmcount.errors import FormatError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from recordmcount.elf.object import Object

    # Section offsets, in any order, by section index.
    Places = dict[int, list[int]]
    # Section index and section offset, None of a word that names no place.
    Claim = tuple[int, int] | None

# The section that the kernel's build puts into every module, and its loader looks for.
MODULE = b".gnu.linkonce.this_module"
# A table word by its relocation; gcc -mx32 has the 8-byte words of x86-64.
_ENTRY_SIZES = {
    x86.EM_X86_64: {x86.R_X86_64_64: 8, x86.R_X86_64_32: 4},
    x86.EM_386: {x86.R_386_32: 4},
}


class Entries:
    """What all tables of an object name, its compiler's included.

    `places` are distinct section offsets, ascending, by section index. `dead` counts words that
    name no place, `repeated` entries beyond the first for one place. `loose` are the sections of
    which entries count from a symbol that is not local, by index, with its name: a linker may bind
    that to another function, and the entries with it.
    """

    __slots__ = ("places", "dead", "repeated", "loose")

    def __init__(self, places: "Places", dead: int, repeated: int, loose: dict[int, str]) -> None:
        self.places = places
        self.dead = dead
        self.repeated = repeated
        self.loose = loose


def entries_of(obj: "Object") -> Entries:
    """Read what the tables of an object name; FormatError where a relocation makes no entry."""
    tables = tables_of(obj)
    places: Places = {}
    dead = 0
    for index, relocations in tables.items():
        named, nowhere = places_of(obj, index, relocations)
        dead += nowhere
        for section, offsets in named.items():
            places.setdefault(section, []).extend(offsets)
    distinct = {section: _distinct(offsets) for section, offsets in sorted(places.items())}
    total = sum(map(len, places.values()))
    repeated = total - sum(map(len, distinct.values()))
    return Entries(distinct, dead, repeated, _loose(obj, chain.from_iterable(tables.values())))


def tables_of(obj: "Object", names: "Sequence[bytes]" = mcount_loc.NAMES) -> dict[int, list[int]]:
    """Map the tables of an object with these names to their relocation sections, by index."""
    tables: dict[int, list[int]] = {index: [] for name in names for index in obj.named(name)}
    for index in obj.of_type(elf.SHT_RELA, elf.SHT_REL):
        if obj.headers[index][elf.SH_INFO] in tables:
            tables[obj.headers[index][elf.SH_INFO]].append(index)
    involved = [index for pair in tables.items() for index in (pair[0], *pair[1])]
    if sum(obj.headers[index][elf.SH_SIZE] for index in involved) > obj.size:
        raise FormatError(obj.path, "tables overlap", names[0].decode())
    return tables


def places_of(obj: "Object", index: int, relocations: list[int]) -> "tuple[Places, int]":
    """Return (places, how many words name none) of a table that has these relocation sections."""
    return _in_columns(obj, index, relocations) or _word_by_word(obj, index, relocations)


def _loose(obj: "Object", relocations: "Iterable[int]") -> dict[int, str]:
    """Map sections to the symbol, not a local one, that entries for them count from.

    None of a kernel module, which is linked for the last time: its loader looks into it alone.
    """
    loose: dict[int, str] = {}
    if obj.named(MODULE):
        return loose
    for index in relocations:
        for symbol in sorted(obj.symbols_of_relocations(index)):
            fields = obj.raw_symbol(symbol)
            if fields[elf.ST_SHNDX] and fields[elf.ST_INFO] >> 4 != elf.STB_LOCAL:
                name = elf.string_at(obj.symbol_names, fields[elf.ST_NAME])
                loose.setdefault(fields[elf.ST_SHNDX], name)
    return loose


def _distinct(offsets: list[int]) -> list[int]:
    return offsets if is_ascending(offsets) else sorted(set(offsets))


def _in_columns(obj: "Object", index: int, relocations: list[int]) -> "tuple[Places, int] | None":
    """Return (places, how many words name none) of a usual table, None of any other."""
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
    distinct = set(infos)
    types = {*map(layout.type_of, distinct)}
    if offsets != list(words) or types != {mcount_loc.word_relocation(obj)}:
        return None
    if max(map(layout.symbol_of, distinct)) >= obj.symbol_count:
        return None
    symbols = {info: obj.raw_symbol(layout.symbol_of(info)) for info in distinct}
    places: Places = {}
    changes = compress(range(1, len(infos)), map(ne, infos, infos[1:]))
    for start, end in pairwise((0, *changes, len(infos))):
        symbol = symbols[infos[start]]
        offsets = [symbol[elf.ST_VALUE] + addend for addend in addends[start:end]]
        places.setdefault(symbol[elf.ST_SHNDX], []).extend(offsets)
    return places, len(places.pop(elf.SHN_UNDEF, ()))


def _word_by_word(obj: "Object", index: int, relocations: list[int]) -> "tuple[Places, int]":
    """Return (places, how many words name none) of a table."""
    claims = _claims(obj, index, relocations)
    places: Places = {}
    for offset, claim in claims.items():
        if claim == UNKNOWN:
            raise FormatError(obj.path, "unknown relocation", obj.section(index).name, offset)
        if claim:
            places.setdefault(claim[0], []).append(claim[1])
    return places, len(claims) - sum(map(len, places.values()))


# What is claimed by a word whose relocation makes it no address.
UNKNOWN = (-1, 0)


def claims_of(obj: "Object") -> "Iterator[tuple[int, int, Claim]]":
    """Yield (index of a table, offset of a word in it, what that claims) of all tables' words.

    Where `entries_of` raises FormatError for a relocation, the claim is UNKNOWN.
    """
    for index, relocations in tables_of(obj).items():
        for offset, claim in _claims(obj, index, relocations).items():
            yield index, offset, claim


def _claims(obj: "Object", index: int, relocations: list[int]) -> "dict[int, Claim]":
    """Map the offset of each word of a table to (section index, section offset); None of no place.

    A word without a relocation names no place.
    """
    word, content = obj.layout.word, obj.content(index)
    claims: dict[int, Claim] = dict.fromkeys(range(0, obj.section(index).size - word + 1, word))
    for each in relocations:
        for offset, relocation_type, symbol, explicit in obj.relocations(each):
            if relocation_type == x86.RELOCATION_NONE:
                continue
            size = _ENTRY_SIZES[obj.machine].get(relocation_type)
            if size is None or symbol >= obj.symbol_count or offset + word > len(content):
                claims[offset] = UNKNOWN
                continue
            named = obj.raw_symbol(symbol)
            addend = elf.in_place(content, offset) if explicit is None else explicit
            section = named[elf.ST_SHNDX]
            claims[offset] = (section, named[elf.ST_VALUE] + addend) if section else None
            if size > word and not claims.get(offset + word):
                claims.pop(offset + word, None)
    return claims
