"""The `__mcount_loc` table, encoded and decoded: one word for each site.

A word is 8 bytes in ELF64 and 4 in ELF32 (x32 included). In an object a relocation gives it its
value, the address of a symbol's section and an offset therein: RELA objects keep zeros in the table
and the value in the addend; REL objects (i386) keep the value in the table. A value is a section
offset minus the base symbol's st_value. (Layout as the kernel's recordmcount writes it and its
linker script collects it between __start_mcount_loc and __stop_mcount_loc.) In a linked file a word
is a link-time virtual address, or has a dynamic relocation that says which.
"""

from _operator import ne
from _struct import pack, unpack
from itertools import chain, compress, pairwise, repeat

from . import columns, x86
from .columns import is_ascending
from .elf import object as elf
from .errors import FormatError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Literal

    from .elf.object import Object

    Code = Literal["q", "I"]  # of a word, for `struct` and `memoryview`
    # Section offsets, in any order, by section index.
    Places = dict[int, list[int]]
    # Section index and section offset, None of a word that names no place.
    Claim = tuple[int, int] | None

NAME = b"__mcount_loc"
# The table of calls of `__return__`, which is alike: gcc -mrecord-return names it so.
RETURNS = b"__return_loc"
NAMES = NAME, RETURNS
# The section that the kernel's build puts into every module, and its loader looks for.
MODULE = b".gnu.linkonce.this_module"
# Entries are encoded in blocks of this many, so that no list of them all is made.
BLOCK = 4096


def word_relocation(obj: "Object") -> int:
    """Return the relocation type that fills a table word with an absolute address."""
    if obj.machine == x86.EM_386:
        return x86.R_386_32
    return x86.R_X86_64_64 if obj.layout.is_64 else x86.R_X86_64_32


def uses_rela(obj: "Object") -> bool:
    """Tell whether the object's machine keeps addends in relocations (i386 keeps them in place)."""
    return obj.machine != x86.EM_386


def encode(obj: "Object", runs: list[tuple[int, list[int]]]) -> tuple[bytes, bytes]:
    """Return (table bytes, relocation bytes) for runs of (base symbol index, values), in order."""
    layout, relocation_type, rela = obj.layout, word_relocation(obj), uses_rela(obj)
    words: list[bytes] = []
    relocations: list[bytes] = []
    code: Code = "q" if layout.is_64 else "I"
    at = 0
    for symbol, run in runs:
        info = layout.info(symbol, relocation_type).to_bytes(layout.word, "little")
        for start in range(0, len(run), BLOCK):
            values = run[start : start + BLOCK]
            count = len(values)
            if not layout.is_64:  # negative values too must fit an unsigned format
                values = [value & 0xFFFFFFFF for value in values]
            end = at + count * layout.word
            offsets = pack(f"<{count}{code}", *range(at, end, layout.word))
            packed = pack(f"<{count}{code}", *values)
            columns = (offsets, info * count, packed) if rela else (offsets, info * count)
            relocations.append(_interleave(code, columns))
            words.append(bytes(end - at) if rela else packed)
            at = end
    return b"".join(words), b"".join(relocations)


def _interleave(code: "Code", columns: "Sequence[bytes]") -> bytes:
    """Return rows of words from packed columns of words; `code` tells their size to `struct`."""
    rows = memoryview(bytearray(len(columns) * len(columns[0]))).cast(code)
    for i, column in enumerate(columns):
        rows[i :: len(columns)] = memoryview(column).cast(code)
    return rows.tobytes()


# --- the entries of an object ---------------------------------------------------------------------

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


def decode(obj: "Object") -> Entries:
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


def tables_of(obj: "Object", names: "Sequence[bytes]" = NAMES) -> dict[int, list[int]]:
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
    if offsets != list(words) or {*map(layout.type_of, distinct)} != {word_relocation(obj)}:
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


def claims(obj: "Object") -> "Iterator[tuple[int, int, Claim]]":
    """Yield (index of a table, offset of a word in it, what that claims) of all tables' words.

    Where `decode` raises FormatError for a relocation, the claim is UNKNOWN.
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


# --- the entries of a linked file -----------------------------------------------------------------

# What a word has that the loader would not make an address.
NOT_RELOCATED = -1


def addresses(
    obj: "Object", name: str, vaddrs: range, content: bytes, relocated: "Mapping[int, int]"
) -> tuple[int, ...]:
    """Read the link-time virtual addresses in a table of a linked file, in its order.

    The table is `content`, whole words at `vaddrs`, none if it is not loaded: then it has the
    addresses as they are. `name` is for messages. `relocated` are the values of words that have a
    dynamic relocation, by link-time virtual address. Raises FormatError where the loader would not
    make a word an address.
    """
    entries = words(obj, vaddrs, content, relocated)
    if NOT_RELOCATED in entries:
        raise FormatError(
            obj.path, "an entry the loader would not relocate", name,
            entries.index(NOT_RELOCATED) * obj.layout.word,
        )  # fmt: skip
    return entries


def words(
    obj: "Object", vaddrs: range, content: bytes, relocated: "Mapping[int, int]"
) -> tuple[int, ...]:
    """Read a table as `addresses` does, with NOT_RELOCATED for what it raises FormatError for."""
    word, highest = obj.layout.word, obj.layout.highest
    entries = unpack(f"<{len(content) // word}{'Q' if word == 8 else 'I'}", content)
    if not vaddrs:
        return entries
    if obj.type != elf.ET_EXEC:  # what has no relocation is no address
        entries = tuple(map({0: 0, highest: 0}.get, entries, repeat(NOT_RELOCATED)))
    if relocated:
        slots = vaddrs[::word]
        entries = tuple(map(relocated.get, slots, entries))
    return entries
