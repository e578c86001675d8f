"""The dynamic relocations of an image, with those of a table more, and the tags they are found by.

The table that grows is written anew, and the tags are changed where they stand. New relocations
stand behind those that DT_RELACOUNT counts, and are counted in. Where there is no table to grow an
image's DT_RELR does, or what its linker left room for. (System V gABI, "Dynamic Section"; how
DT_RELACOUNT and ranges that overlap are read: glibc, elf/dynamic-link.h and elf/do-rel.h.)

Relocations by the names of the table's bounds, which nobody defined when the image was linked,
become relative ones. On i386 their addend stands in the word that they fill.
"""

from _struct import Struct, pack
from itertools import repeat

from recordmcount import x86
from recordmcount.elf import object as elf
from recordmcount.elf import segments as seg
from recordmcount.errors import FormatError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from recordmcount.elf.segments import LoadView

DT_RELAENT, DT_RELENT = 9, 19
DT_RELACOUNT, DT_RELCOUNT = 0x6FFFFFF9, 0x6FFFFFFA


class Format:
    """A table of dynamic relocations: the tags of its place, size, entry size and count."""

    __slots__ = ("place", "size", "entry_size", "count")

    def __init__(self, place: int, size: int, entry_size: int = 0, count: int = 0) -> None:
        self.place = place
        self.size = size
        self.entry_size = entry_size
        self.count = count


RELA = Format(seg.DT_RELA, seg.DT_RELASZ, DT_RELAENT, DT_RELACOUNT)
REL = Format(seg.DT_REL, seg.DT_RELSZ, DT_RELENT, DT_RELCOUNT)
RELR = Format(seg.DT_RELR, seg.DT_RELRSZ)


class NewRelocations:
    """The relocations of an image of which the words at `slots` are to become `addresses`.

    Both are link-time virtual addresses. `bounds` are those of the table, by symbol name, `words`
    the names of bounds by the addresses of words that are to hold them. `content` is the new table
    of relocations, empty if none is needed; `old` are (link-time virtual address, bytes) of the one
    it replaces. `found` are the names of bounds that are referred to, `unknown` those of them that
    are so in a way that is not.

    Raises FormatError where no relocation can be added.
    """

    def __init__(
        self,
        view: "LoadView",
        slots: range,
        addresses: "Sequence[int]",
        bounds: "Mapping[bytes, int]",
        words: "Mapping[int, bytes]",
    ) -> None:
        self._view = view
        self._bounds = bounds
        self._tags = _Tags(view)
        self._edits: list[tuple[int, bytes]] = []
        self.found: set[bytes] = set()
        self.unknown: set[bytes] = set()
        self.content = b""
        is_rel = view.obj.machine == x86.EM_386
        self._entry = view.obj.layout.rel if is_rel else view.obj.layout.rela
        self._format = REL if is_rel else RELA
        has_table = {self._format.place, self._format.size} <= self._tags.values.keys()
        if not has_table and seg.DT_RELR in self._tags.values:
            self._format = RELR
        self.old = self._old()
        rows = self._rows() if has_table else b""
        known = self._refer(rows)
        relocated = {slot for slot, *_ in self._entry.iter_unpack(rows)} if words else set()
        words = {slot: name for slot, name in words.items() if slot not in relocated}
        self._hold(words)
        if view.obj.type == elf.ET_EXEC:  # the words are what they will be
            slots, addresses, words = range(0), (), {}
        if self._format is RELR:
            if slots:
                new = _relr(slots, words, view.obj.layout.word)
                self.content = view.read(*self.old, "DT_RELR") + new
        elif slots or known != rows:
            at = self._tags.values.get(self._format.count, 0) * self._entry.size
            if at > len(known):
                raise FormatError(view.obj.path, "DT_RELACOUNT counts more than there are")
            values = [*addresses, *(bounds[name] for name in words.values())]
            self.content = known[:at] + self._relative([*slots, *words], values) + known[at:]

    @property
    def is_rela(self) -> bool:
        """Whether addends stand in the relocations."""
        return self._format is RELA

    def _old(self) -> tuple[int, int]:
        """Return (link-time virtual address, bytes) of the table, without what is DT_JMPREL's."""
        values = self._tags.values
        start, size = values.get(self._format.place, 0), values.get(self._format.size, 0)
        plt, plt_size = values.get(seg.DT_JMPREL, 0), values.get(seg.DT_PLTRELSZ, 0)
        if plt_size and start < plt + plt_size and plt < start + size:
            if plt + plt_size != start + size or plt < start:
                raise FormatError(self._view.obj.path, "DT_JMPREL overlaps other relocations")
            size -= plt_size
        return start, size

    def _rows(self) -> bytes:
        start, size = self.old
        if size % self._entry.size:
            raise FormatError(self._view.obj.path, f"dynamic relocations of {size:#x} bytes")
        return self._view.read(start, size, "the dynamic relocations") if size else b""

    def _relative(self, slots: "Sequence[int]", addresses: "Sequence[int]") -> bytes:
        """Return relative relocations for `slots`."""
        layout = self._view.obj.layout
        if not self.is_rela:
            return b"".join(map(self._entry.pack, slots, repeat(seg.R_RELATIVE)))
        code = "Q" if layout.is_64 else "I"
        signed = layout.words(pack(f"<{len(addresses)}{code}", *addresses))
        return b"".join(map(self._entry.pack, slots, repeat(seg.R_RELATIVE), signed))

    # --- references to the table's bounds -----------------------------------------------------

    def _hold(self, words: "Mapping[int, bytes]") -> None:
        """Have words hold bounds, unless a relocation will put them there."""
        self.found.update(words.values())
        if not self.is_rela or self._view.obj.type == elf.ET_EXEC:
            for slot, name in words.items():
                self._put(slot, self._bounds[name])

    def _put(self, slot: int, value: int) -> None:
        layout = self._view.obj.layout
        offset = self._view.file_offset(slot, layout.word) or 0  # there is one, or nothing is put
        self._edits.append((offset, (value & layout.highest).to_bytes(layout.word, "little")))

    def _refer(self, rows: bytes) -> bytes:
        """Make the relocations that name a bound relative; all others stay."""
        symbols = self._symbols(rows)
        if not symbols:
            return rows
        layout, new = self._view.obj.layout, bytearray(rows)
        for number, (slot, info, *addend) in enumerate(self._entry.iter_unpack(rows)):
            name = symbols.get(layout.symbol_of(info))
            if name is None:
                continue
            self.found.add(name)
            value = self._value(slot, layout.type_of(info), addend, self._bounds[name])
            if value is None:
                self.unknown.add(name)
                continue
            at = number * self._entry.size
            new[at : at + self._entry.size] = self._relative([slot], [value & layout.highest])
            if not addend:
                self._put(slot, value)
        return bytes(new)

    def _value(
        self, slot: int, relocation_type: int, addend: "Sequence[int]", bound: int
    ) -> int | None:
        """Return what a relocation by `bound` makes of its word, None if that is unknown."""
        obj = self._view.obj
        absolute = x86.R_386_32 if obj.machine == x86.EM_386 else x86.R_X86_64_64
        if not obj.layout.is_64 and obj.machine == x86.EM_X86_64:
            absolute = x86.R_X86_64_32
        if not addend and self._view.file_offset(slot, 4) is None:
            return None
        if relocation_type == seg.R_GLOB_DAT:
            return bound
        if relocation_type != absolute:
            return None
        return bound + (addend[0] if addend else self._view.word(slot))

    def _symbols(self, rows: bytes) -> dict[int, bytes]:
        """Map the symbols that `rows` name to the bounds of which they are the names."""
        view, values = self._view, self._tags.values
        if not {seg.DT_SYMTAB, seg.DT_STRTAB, seg.DT_STRSZ} <= values.keys():
            return {}
        strings = view.read(values[seg.DT_STRTAB], values[seg.DT_STRSZ], "the dynamic strings")
        places = {at: name for name in self._bounds for at in elf.string_places(strings, name)}
        if not places:
            return {}
        layout = view.obj.layout
        infos = {info for _, info, *_ in self._entry.iter_unpack(rows)}
        found = {}
        for symbol in {layout.symbol_of(info) for info in infos} - {0}:
            raw = view.read(
                values[seg.DT_SYMTAB] + symbol * layout.sym.size, layout.sym.size, "a symbol"
            )
            fields = layout.sym_fields(layout.sym.unpack(raw))
            if fields[elf.ST_NAME] in places and fields[elf.ST_SHNDX] == elf.SHN_UNDEF:
                found[symbol] = places[fields[elf.ST_NAME]]
        return found

    # --- edits --------------------------------------------------------------------------------

    def edits(self, vaddr: int) -> list[tuple[int, bytes]]:
        """Return the edits, in file offsets, that make loaders read the table, now at `vaddr`."""
        if not self.content:
            return self._edits
        form, tags = self._format, {self._format.place: vaddr, self._format.size: len(self.content)}
        if form.place not in self._tags.values:
            tags[form.entry_size] = self._entry.size
        if form.count in self._tags.values:
            grown = (len(self.content) - self.old[1]) // self._entry.size
            tags[form.count] = self._tags.values[form.count] + grown
        return [*self._edits, *self._tags.edits(tags)]


class _Tags:
    """The tags of the dynamic segment: `values`, and where each stands."""

    def __init__(self, view: "LoadView") -> None:
        self._path = view.obj.path
        self._pair = Struct("<QQ" if view.obj.layout.is_64 else "<II")
        self.values: dict[int, int] = {}
        self._offsets: dict[int, int] = {}
        self._spare: list[int] = []  # file offsets of DT_NULL, the last of which must stay
        for segment in view.segments:
            if segment.type == seg.PT_DYNAMIC:
                self._read(segment.offset, view.obj.read(segment.offset, segment.filesz, "tags"))
        for tag in seg.PACKED.keys() & self.values.keys():
            what = f"relocations packed for Android ({seg.PACKED[tag]}) are not supported"
            raise FormatError(self._path, what)

    def _read(self, offset: int, content: bytes) -> None:
        size = self._pair.size
        for at in range(0, len(content) - size + 1, size):
            tag, value = self._pair.unpack_from(content, at)
            if tag == seg.DT_NULL:
                self._spare.append(offset + at)
            elif self._spare:
                break  # behind the end
            else:
                self.values[tag] = value
                self._offsets[tag] = offset + at

    def edits(self, tags: "Mapping[int, int]") -> "Iterator[tuple[int, bytes]]":
        """Give tags values; new ones take the place of what ends the segment more than once."""
        new = [tag for tag in tags if tag not in self._offsets]
        if len(new) >= len(self._spare) and new:
            raise FormatError(self._path, "no room for a dynamic tag: nothing can relocate a table")
        places = self._offsets | dict(zip(new, self._spare, strict=False))
        return ((places[tag], self._pair.pack(tag, value)) for tag, value in tags.items())


def _relr(slots: range, others: "Iterable[int]", word: int) -> bytes:
    """Return DT_RELR words for slots without a gap, and for `others`.

    An address stands for a word, a bitmap behind it for those that follow.
    """
    bits = 8 * word - 1
    words = [slots.start]
    for first in range(1, len(slots), bits):
        count = min(bits, len(slots) - first)
        words.append(((1 << count) - 1) << 1 | 1)
    return b"".join(each.to_bytes(word, "little") for each in (*words, *others))
