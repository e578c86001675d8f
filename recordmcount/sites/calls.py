"""Find the call sites of an object: relocations that name mcount, proven by the bytes around them.

The result holds whole columns per section and not an object per site: a kernel has hundreds of
thousands of sites, nearly all of them the same five bytes, and columns can be checked in bulk.
"""

from _operator import itemgetter
from _struct import pack, unpack

from recordmcount import x86
from recordmcount.columns import is_ascending
from recordmcount.elf import object as elf
from recordmcount.errors import FormatError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from recordmcount.columns import Relocations
    from recordmcount.elf.object import Object
    from recordmcount.x86 import CallForm

    # Relocation section, text section, pieces of the former (see Object.relocation_pieces).
    Part = tuple[int, int, range]
    # Section index, section offset of the relocated field, what it is.
    Unsupported = tuple[int, int, str]
    # Relocation section, text section; numbers, section offsets and addends of relocations.
    TurnedOff = tuple[int, int, Sequence[int], Sequence[int], Sequence[int] | None]
    # Starts, entries, forms, types, references, unsupported, turned off: of a part, as below.
    Answer = tuple[list[int], bytes, bytes, bytes, int, list[Unsupported], list[TurnedOff]]

# A piece of code up to this size is read for one piece of relocations; beyond it, all of it.
WINDOW = 1 << 20
# Below this many bytes of relocations, one process is done before others would have started.
WORTH_FORKING = 4 << 20


class SectionSites:
    """The calls in one text section, in the order of their relocations; columns of equal length.

    `section` and `relocations` are section indices, `starts` the section offsets of the
    instructions' first bytes, `entries` the numbers of their relocations, packed in 8 bytes each
    (few ask for them), `forms` their shapes as indices into `x86.ALL_FORMS` and `types` those of
    their relocations, a byte each.
    """

    __slots__ = ("section", "relocations", "starts", "entries", "forms", "types")

    def __init__(
        self,
        section: int,
        relocations: int,
        starts: list[int],
        entries: bytes,
        forms: bytes,
        types: bytes,
    ) -> None:
        self.section = section
        self.relocations = relocations
        self.starts = starts
        self.entries = entries
        self.forms = forms
        self.types = types

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> "Iterator[CallSite]":
        entries = unpack(f"<{len(self)}Q", self.entries)
        for start, entry, form in zip(self.starts, entries, self.forms, strict=True):
            yield CallSite(self.section, start, entry, x86.ALL_FORMS[form])


class CallSite:
    """One call: section index, section offset of its first byte, relocation number, form."""

    __slots__ = ("section", "offset", "entry", "form")

    def __init__(self, section: int, offset: int, entry: int, form: "CallForm") -> None:
        self.section = section
        self.offset = offset
        self.entry = entry
        self.form = form


class Found:
    """What was found in one object.

    `sections` has the calls; `references` counts relocations that name mcount and are no call
    (a function pointer, a `lea`, a tail jump); `unsupported` lists what may be a call and can have
    no entry, as (section index, section offset of the relocated field, what it is). `turned_off`
    has the relocations of calls that were turned into NOPs. `symbols` are those of mcount, and
    `has_local` tells whether one is local: assemblers may call it without a relocation.
    """

    __slots__ = ("sections", "references", "unsupported", "turned_off", "symbols", "has_local")

    def __init__(self) -> None:
        self.symbols: frozenset[int] = frozenset()
        self.has_local = False
        self.sections: list[SectionSites] = []
        self.references = 0
        self.unsupported: list[Unsupported] = []
        self.turned_off: list[TurnedOff] = []

    def __iter__(self) -> "Iterator[CallSite]":
        for part in self.sections:
            yield from part


def find(obj: "Object", extra_names: tuple[str, ...] = (), processes: int = 1) -> Found:
    """Find every call to mcount in the executable sections of a relocatable object.

    `extra_names` are further symbol names, as given to gcc's -mfentry-name. A large object is
    searched by several processes, 0 of them being as many as there are processors. Raises
    FormatError where a relocation that matters cannot be trusted.
    """
    found = Found()
    found.symbols = symbols = obj.symbols_named(x86.mcount_names(extra_names))
    if not symbols:
        return found
    found.has_local = min(symbols) < obj.headers[obj.symtab or 0][elf.SH_INFO]
    pairs = text_relocations(obj)
    is_large = sum(obj.headers[index][elf.SH_SIZE] for index, _ in pairs) >= WORTH_FORKING
    answers = _in_parallel if is_large and processes != 1 else _one_by_one
    search = _Search(obj, symbols)
    for part, answer in answers(search, pairs, processes):
        _add(found, part, answer)
    _check_unique(obj, found)
    return found


def _one_by_one(
    search: "_Search", pairs: list[tuple[int, int]], _: int
) -> "Iterator[tuple[Part, Answer]]":
    for part in _parts(search.obj, pairs, 1):
        yield part, search.part(part)


def _in_parallel(
    search: "_Search", pairs: list[tuple[int, int]], processes: int
) -> "Iterator[tuple[Part, Answer]]":
    from recordmcount import jobs  # of many objects hardly one is so large

    processes = processes or jobs.available()
    parts = _parts(search.obj, pairs, processes)
    answers = jobs.run(len(parts), processes, lambda number: search.part(parts[number]))
    yield from zip(parts, answers, strict=True)


def _check_unique(obj: "Object", found: Found) -> None:
    """Refuse two relocations for one call, be they in one relocation section or in two."""
    starts: dict[int, list[int]] = {}
    for part in found.sections:
        known = starts.get(part.section)
        starts[part.section] = part.starts if known is None else known + part.starts
    doubled = len({place[:2] for place in found.unsupported}) != len(found.unsupported)
    for all_starts in starts.values():
        doubled |= not is_ascending(all_starts) and len(set(all_starts)) != len(all_starts)
    if doubled:
        raise FormatError(obj.path, "two relocations for one call")


def _add(found: Found, part: "Part", answer: "Answer") -> None:
    relocations, target, _ = part
    starts, entries, forms, types, references, unsupported, turned_off = answer
    found.references += references
    found.unsupported += unsupported
    found.turned_off += turned_off
    last = found.sections[-1] if found.sections else None
    if last and last.relocations == relocations:
        last.starts += starts
        last.entries += entries
        last.forms += forms
        last.types += types
    elif starts:
        found.sections.append(SectionSites(target, relocations, starts, entries, forms, types))


def _range(values: "Sequence[int]") -> tuple[int, int]:
    """Return (least, greatest)."""
    return (values[0], values[-1]) if is_ascending(values) else (min(values), max(values))


def _parts(obj: "Object", pairs: list[tuple[int, int]], processes: int) -> "list[Part]":
    """Tell what there is to search, in order; for several processes cut into pieces."""
    parts = []
    for index, target in pairs:
        pieces = obj.relocation_pieces(index)
        step = max(1, len(pieces) if processes == 1 else len(pieces) // (2 * processes))
        starts = range(0, len(pieces), step)
        parts += [(index, target, pieces[start : start + step]) for start in starts]
    return parts


def text_relocations(obj: "Object") -> list[tuple[int, int]]:
    """Return (relocation section, text section) pairs, in file order."""
    headers = obj.headers
    pairs = []
    total = 0
    for index in obj.of_type(elf.SHT_RELA, elf.SHT_REL, elf.SHT_CREL):
        header = headers[index]
        target = header[elf.SH_INFO]
        if target >= len(headers):
            raise FormatError(obj.path, f"relocation section {index} is for no section")
        text_type, text_flags = headers[target][elf.SH_TYPE], headers[target][elf.SH_FLAGS]
        if text_type != elf.SHT_PROGBITS or not text_flags & elf.SHF_EXECINSTR:
            continue
        obj.require_plain(target)
        if header[elf.SH_TYPE] == elf.SHT_CREL:
            what = "CREL relocations are not supported: assemble without -Wa,--crel"
            raise FormatError(obj.path, f"section {index}: {what}")
        if header[elf.SH_LINK] != obj.symtab:
            raise FormatError(obj.path, f"relocation section {index} has another symbol table")
        total += header[elf.SH_SIZE]
        if total > obj.size:
            raise FormatError(obj.path, "relocation sections overlap")
        pairs.append((index, target))
    return pairs


class _Search:
    """The search of one object, part by part."""

    def __init__(self, obj: "Object", symbols: frozenset[int]) -> None:
        self.obj = obj
        self.symbols = symbols
        self.plain, types = x86.PLAIN_CALL[obj.machine]
        self.plain_infos = {obj.layout.info(symbol, each) for symbol in symbols for each in types}
        branch = x86.BRANCH_ONLY[obj.machine]
        self.branch_infos = {obj.layout.info(symbol, branch) for symbol in symbols}

    def part(self, part: "Part") -> "Answer":
        """Tell what is in one part, in values that can go from process to process."""
        relocations, target, pieces = part
        code = _Code(self.obj, target)
        seen = _Seen()
        for piece in self.obj.relocations_naming(relocations, self.symbols, pieces):
            off = {
                info
                for info in piece.distinct
                if self.obj.layout.type_of(info) == x86.RELOCATION_NONE
            }
            if off:
                gone = piece.having(off)
                code.require(*_range(gone.offsets))
                columns = gone.numbers, gone.offsets, gone.addends
                seen.turned_off.append((relocations, target, *columns))
                piece = piece.having(piece.distinct - off)
            plain = self.plain_calls(code, piece)
            if plain is not None:
                seen.add_plain(plain, piece.numbers, self.plain.number, self.types(piece.infos))
            elif piece.numbers:
                self.decode_each(code, piece, seen)
        return seen.answer()

    def types(self, infos: "Sequence[int]") -> bytes:
        """Give the relocations' types; none of a call is greater than 255."""
        known = {info: self.obj.layout.type_of(info) for info in set(infos)}
        if len(known) == 1:
            return bytes(known.values()) * len(infos)
        return bytes(map(known.__getitem__, infos))

    def plain_calls(self, code: "_Code", piece: "Relocations") -> list[int] | None:
        """Return section offsets of the instructions if all are plain 5-byte calls, else None.

        This is the bulk path: whole columns are compared, and nothing is decided site by site.
        """
        form, fields = self.plain, piece.offsets
        if len(fields) < 2 or not self.plain_infos.issuperset(piece.distinct):
            return None
        if piece.addends is None or set(piece.addends) != {form.addend}:
            return None
        low, high = _range(fields)
        if not 1 <= low <= high <= code.size - form.width:
            return None
        base, text = code.around(low, high)
        starts = [field - 1 for field in fields]
        pick = itemgetter(*[start - base - 1 for start in starts])
        if set(pick(memoryview(text)[1:])) != set(form.prefix):
            return None
        if self.branch_infos.issuperset(piece.distinct):
            return starts
        return None if code.unproven(starts, pick(text)) else starts

    def decode_each(self, code: "_Code", piece: "Relocations", seen: "_Seen") -> None:
        """Decide relocation by relocation."""
        machine, fields = self.obj.machine, piece.offsets
        base, text = code.around(*_range(fields))
        before = [text[max(0, field - base - 2)] for field in fields]
        unproven = code.unproven([field - 1 for field in fields], before)
        for i, (entry, field) in enumerate(zip(piece.numbers, fields, strict=True)):
            at = field - base
            relocation_type = self.obj.layout.type_of(piece.infos[i])
            addend = piece.addends[i] if piece.addends else elf.in_place(text, at)
            form = x86.decode(machine, relocation_type, addend, text, at)
            if form is None and x86.is_unsupported_call(machine, relocation_type, text, at):
                seen.unsupported.append((code.section, field, "a call in an unsupported form"))
            elif form is None:
                seen.references += 1
            elif field - 1 in unproven and relocation_type != x86.BRANCH_ONLY[machine]:
                what = "a call, or the immediate of an imul or sub"
                seen.unsupported.append((code.section, field, what))
            else:
                seen.starts.append(field - len(form.prefix))
                seen.entries.append(entry)
                seen.forms.append(form.number)
                seen.types.append(relocation_type)


class _Seen:
    """What was seen of a part so far; the columns are those of SectionSites and Found."""

    __slots__ = (
        "starts", "entries", "forms", "types", "references", "unsupported", "turned_off",
    )  # fmt: skip

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.entries: list[int] = []
        self.forms = bytearray()
        self.types = bytearray()
        self.references = 0
        self.unsupported: list[Unsupported] = []
        self.turned_off: list[TurnedOff] = []

    def add_plain(
        self, starts: list[int], entries: "Sequence[int]", form: int, types: bytes
    ) -> None:
        """Add calls of one form."""
        self.starts += starts
        self.entries += entries
        self.forms += bytes((form,)) * len(starts)
        self.types += types

    def answer(self) -> "Answer":
        """Give everything seen, in values that `marshal` knows."""
        entries = pack(f"<{len(self.entries)}Q", *self.entries)
        columns = self.starts, entries, bytes(self.forms), bytes(self.types)
        return *columns, self.references, self.unsupported, self.turned_off


class _Code:
    """A text section's bytes, read where relocations lie and not as a whole."""

    __slots__ = ("_obj", "section", "_offset", "size", "_base", "_text")

    # The longest instruction pair of a call form reaches this far around its relocated field.
    MARGIN = 16

    def __init__(self, obj: "Object", section: int) -> None:
        self._obj = obj
        self.section = section
        header = obj.headers[section]
        self._offset, self.size = header[elf.SH_OFFSET], header[elf.SH_SIZE]
        self._base = 0
        self._text = b""

    def unproven(self, starts: "Sequence[int]", before: "Sequence[int]") -> set[int]:
        """Find those of `starts` whose opcode may be a ModRM byte, going by the byte before.

        Where a symbol stands, or the alignment of a function, an instruction begins.
        """
        if x86.BEFORE_MODRM.isdisjoint(before):
            return set()
        pairs = zip(starts, before, strict=True)
        doubtful = [
            start
            for start, byte in pairs
            if byte in x86.BEFORE_MODRM and start % x86.FUNCTION_ALIGNMENT
        ]
        return set(doubtful) - self._obj.values_named(self.section, doubtful)

    def require(self, low: int, high: int) -> None:
        """Raise FormatError if a field from `low` to `high` is outside of the section."""
        if low < 0 or high >= self.size:
            name = self._obj.section(self.section).name
            raise FormatError(self._obj.path, "relocation outside the section", name, high)

    def around(self, low: int, high: int) -> tuple[int, bytes]:
        """Read (section offset of the first byte, bytes) around every field from `low` to `high`.

        A byte stands before the first instruction even where the section begins with it: a NUL.
        """
        self.require(low, high)
        first = max(0, low - self.MARGIN)
        last = min(self.size, high + self.MARGIN)
        if first <= self._base or last > self._base + len(self._text):
            if last - first > WINDOW:
                first, last = 0, self.size
            text = self._obj.read(self._offset + first, last - first, "a text section")
            self._base, self._text = (first, text) if first else (-1, b"\0" + text)
        return self._base, self._text
