"""The words of an object's tables in their order, sorted by what they name.

Nearly always all are sound. Only if not, or where somebody has to know which word it is, they are
read one by one.
"""

from __future__ import annotations

from collections import defaultdict

from recordmcount.elf import object as elf
from recordmcount.errors import FormatError
from recordmcount.sites.entries import UNKNOWN, Entries, claims_of, entries_of, tables_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from recordmcount.elf.object import Object

# A word: the name of its table, and its offset therein in bytes.
Word = tuple[str, int]
TEXT = elf.SHF_ALLOC | elf.SHF_EXECINSTR


class Claims:
    """What the tables of an object name.

    `number` counts all words that are entries, `dead` those of 0 or -1. `entries` are those that
    name loaded code, `outside` the others, (section index, section offset). `unknown` are words
    with a relocation that makes no entry, or with a value of their own.
    """

    def __init__(self, obj: Object) -> None:
        self._obj = obj
        self._words: dict[tuple[int, int], list[Word]] | None = None
        self.outside: list[tuple[int, int]] = []
        self.unknown: list[Word] = []
        self.dead = 0
        try:
            decoded = entries_of(obj)
            self.dead = decoded.dead
        except FormatError:
            decoded = Entries(self._places(), 0, self._number_repeated(), {})
        self.entries = self._sound(decoded)
        if self.dead and self._words is None:
            self._places()
        live = decoded.repeated + sum(map(len, decoded.places.values()))
        self.number = live + self.dead + len(self.unknown)

    def words(self, section: int, offset: int) -> list[Word]:
        """Give the words that name a place, in their order."""
        if self._words is None:
            self._places()
        return (self._words or {}).get((section, offset), [])

    def repeated(self) -> Iterator[tuple[tuple[int, int], Word]]:
        """Yield the place and the word of each entry beyond the first for one place."""
        if self.entries.repeated:
            if self._words is None:
                self._places()
            for place, words in (self._words or {}).items():
                yield from ((place, word) for word in words[1:])

    def _number_repeated(self) -> int:
        return sum(len(words) - 1 for words in (self._words or {}).values())

    def _places(self) -> dict[int, list[int]]:
        """Read word by word: distinct section offsets, ascending, by section index."""
        words: dict[tuple[int, int], list[Word]] = defaultdict(list)
        tables = tables_of(self._obj)
        names = {index: self._obj.section(index).name for index in tables}
        self.unknown, self.dead = [], 0
        for table, offset, claim in claims_of(self._obj):
            word = names[table], offset
            if claim is None:
                self._add_dead(table, word)
            elif claim == UNKNOWN:
                self.unknown.append(word)
            else:
                words[claim].append(word)
        self._words = dict(words)
        places: dict[int, set[int]] = defaultdict(set)
        for section, offset in words:
            places[section].add(offset)
        return {section: sorted(offsets) for section, offsets in sorted(places.items())}

    def _add_dead(self, table: int, word: Word) -> None:
        """Count a word that has no relocation: it must be 0 or -1, as what linkers leave."""
        size = self._obj.layout.word
        content = self._obj.content(table)[word[1] : word[1] + size]
        if content in (bytes(size), b"\xff" * size):
            self.dead += 1
        else:
            self.unknown.append(word)

    def _sound(self, decoded: Entries) -> Entries:
        """Take out what names no loaded code."""
        headers = self._obj.headers
        places = {}
        for section, offsets in decoded.places.items():
            header = headers[section] if 0 < section < len(headers) else None
            is_code = header and header[elf.SH_FLAGS] & TEXT == TEXT
            is_code = is_code and header and header[elf.SH_TYPE] != elf.SHT_NOBITS
            size = header[elf.SH_SIZE] if header and is_code else 0
            if offsets and offsets[0] >= 0 and offsets[-1] < size:
                places[section] = offsets
                continue
            inside = [offset for offset in offsets if 0 <= offset < size]
            self.outside += [(section, each) for each in offsets if not 0 <= each < size]
            if inside:
                places[section] = inside
        return Entries(places, decoded.dead, decoded.repeated, decoded.loose)
