"""Find the call sites of an object: relocations that name mcount, proven by the bytes around them.

The result holds whole columns per section and not an object per site: a kernel has hundreds of
thousands of sites, nearly all of them the same five bytes, and columns can be checked in bulk.
"""

from _operator import itemgetter, lt
from itertools import islice

from . import elf, jobs, x86
from .errors import FormatError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .elf import Object, Relocations
    from .x86 import CallForm

    # Relocation section, text section, pieces of the former (see Object.relocation_pieces).
    Part = tuple[int, int, range]
    # Starts, entries, forms, references, unsupported: of a part, as in SectionSites and Found.
    Answer = tuple[list[int], list[int], bytes, int, list[tuple[int, int, str]]]

# A piece of code up to this size is read for one piece of relocations; beyond it, all of it.
WINDOW = 1 << 20
# Below this many bytes of relocations, one process is done before others would have started.
WORTH_FORKING = 4 << 20


class SectionSites:
    """The calls in one text section, in the order of their relocations; columns of equal length.

    `section` and `relocations` are section indices, `starts` the section offsets of the
    instructions' first bytes, `entries` the numbers of their relocations, `forms` their shapes as
    indices into `x86.ALL_FORMS`, a byte each.
    """

    __slots__ = ("section", "relocations", "starts", "entries", "forms")

    def __init__(self, section: int, relocations: int) -> None:
        self.section = section
        self.relocations = relocations
        self.starts: list[int] = []
        self.entries: list[int] = []
        self.forms = bytearray()

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> "Iterator[CallSite]":
        for start, entry, form in zip(self.starts, self.entries, self.forms, strict=True):
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
    no entry, as (section index, section offset of the relocated field, what it is).
    """

    __slots__ = ("sections", "references", "unsupported")

    def __init__(self) -> None:
        self.sections: list[SectionSites] = []
        self.references = 0
        self.unsupported: list[tuple[int, int, str]] = []

    def __iter__(self) -> "Iterator[CallSite]":
        for part in self.sections:
            yield from part


def find(obj: "Object", extra_names: tuple[str, ...] = (), processes: int = 1) -> Found:
    """Every call to mcount in the executable sections of a relocatable object.

    `extra_names` are further symbol names, as given to gcc's -mfentry-name. A large object is
    searched by several processes. Raises FormatError where a relocation that matters cannot be
    trusted.
    """
    found = Found()
    names = [name.encode("utf-8", "surrogateescape") for name in (*x86.MCOUNT_NAMES, *extra_names)]
    symbols = obj.symbols_named(names)
    if not symbols:
        return found
    pairs = _text_relocations(obj)
    if sum(obj.headers[index][5] for index, _ in pairs) < WORTH_FORKING:
        processes = 1
    parts = _parts(obj, pairs, processes)

    def search(number: int) -> "Answer":
        return _Search(obj, symbols, parts[number]).run()

    for number, answer in enumerate(jobs.run(len(parts), processes, search)):
        relocations, target, _ = parts[number]
        # A process that died tells no error: here it is raised where it can be seen.
        _add(found, SectionSites(target, relocations), answer or search(number))
    _check_unique(obj, found)
    return found


def _check_unique(obj: "Object", found: Found) -> None:
    """Refuse two relocations for one call, be they in one relocation section or in two."""
    starts: dict[int, list[int]] = {}
    for part in found.sections:
        known = starts.get(part.section)
        starts[part.section] = part.starts if known is None else known + part.starts
    for section, all_starts in starts.items():
        if not _ascending(all_starts) and len(set(all_starts)) != len(all_starts):
            raise FormatError(obj.path, f"section {section}: two relocations for one call")


def _add(found: Found, part: SectionSites, answer: "Answer") -> None:
    starts, entries, forms, references, unsupported = answer
    found.references += references
    found.unsupported += unsupported
    if not starts:
        return
    if found.sections and found.sections[-1].relocations == part.relocations:
        part = found.sections[-1]
    else:
        found.sections.append(part)
    part.starts += starts
    part.entries += entries
    part.forms += forms


def _ascending(values: list[int]) -> bool:
    return all(map(lt, values, islice(values, 1, None)))


def _parts(obj: "Object", pairs: list[tuple[int, int]], processes: int) -> "list[Part]":
    """What there is to search, in order; for several processes cut into pieces."""
    parts = []
    for index, target in pairs:
        pieces = obj.relocation_pieces(index)
        step = max(1, len(pieces) if processes == 1 else len(pieces) // (2 * processes))
        starts = range(0, len(pieces), step)
        parts += [(index, target, pieces[start : start + step]) for start in starts]
    return parts


def _text_relocations(obj: "Object") -> list[tuple[int, int]]:
    """(relocation section, text section) pairs, in file order."""
    headers = obj.headers
    pairs = []
    total = 0
    for index in obj.of_type(elf.SHT_RELA, elf.SHT_REL, elf.SHT_CREL):
        _, kind, _, _, _, size, symtab, target, _, _ = headers[index]
        if target >= len(headers):
            raise FormatError(obj.path, f"relocation section {index} is for no section")
        if headers[target][1] != elf.SHT_PROGBITS or not headers[target][2] & elf.SHF_EXECINSTR:
            continue
        if kind == elf.SHT_CREL:
            raise FormatError(obj.path, f"section {index}: CREL relocations are not supported")
        if symtab != obj.symtab:
            raise FormatError(obj.path, f"relocation section {index} has another symbol table")
        total += size
        if total > obj.size:
            raise FormatError(obj.path, "relocation sections overlap")
        pairs.append((index, target))
    return pairs


class _Search:
    """The search of one part: pieces of one relocation section, and the text they are for."""

    def __init__(self, obj: "Object", symbols: frozenset[int], part: "Part") -> None:
        self.obj = obj
        self.symbols = symbols
        self.relocations, self.target, self.pieces = part
        self.code = _Code(obj, self.target)
        self.plain, types = x86.PLAIN_CALL[obj.machine]
        self.plain_infos = {obj.layout.info(symbol, kind) for symbol in symbols for kind in types}
        self.starts: list[int] = []
        self.entries: list[int] = []
        self.forms = bytearray()
        self.references = 0
        self.unsupported: list[tuple[int, int, str]] = []

    def run(self) -> "Answer":
        """What was found, in values that can go from process to process."""
        for piece in self.obj.relocations_naming(self.relocations, self.symbols, self.pieces):
            starts = self.plain_calls(piece)
            if starts is None:
                self.decode_each(piece)
            else:
                self.starts += starts
                self.entries += piece.numbers
                self.forms += bytes((self.plain.number,)) * len(starts)
        return self.starts, self.entries, bytes(self.forms), self.references, self.unsupported

    def plain_calls(self, piece: "Relocations") -> list[int] | None:
        """Section offsets of the instructions if all are plain 5-byte calls, else None.

        This is the bulk path: whole columns are compared, and nothing is decided site by site.
        """
        form, fields = self.plain, piece.offsets
        if len(fields) < 2 or not self.plain_infos.issuperset(piece.infos):
            return None
        if piece.addends is None or set(piece.addends) != {form.addend}:
            return None
        low, high = min(fields), max(fields)
        if not 1 <= low <= high <= self.code.size - form.width:
            return None
        base, text = self.code.around(low, high)
        starts = [field - 1 for field in fields]
        pick = itemgetter(*[start - base for start in starts])
        if set(pick(text)) != set(form.prefix):
            return None
        return None if self.code.unproven(starts, pick(b"\0" + text)) else starts

    def decode_each(self, piece: "Relocations") -> None:
        """Decide relocation by relocation."""
        fields = piece.offsets
        base, text = self.code.around(min(fields), max(fields))
        before = [text[max(0, field - base - 2)] for field in fields]
        unproven = self.code.unproven([field - 1 for field in fields], before)
        for i, (entry, field) in enumerate(zip(piece.numbers, fields, strict=True)):
            at = field - base
            kind = self.obj.layout.type_of(piece.infos[i])
            addend = piece.addends[i] if piece.addends else elf.in_place(text, at)
            form = x86.decode(self.obj.machine, kind, addend, text, at)
            if form is None:
                self.no_call(kind, field, text, at)
            elif len(form.prefix) == 1 and field - 1 in unproven:
                what = "a call, or the immediate of an imul or sub"
                self.unsupported.append((self.target, field, what))
            else:
                self.starts.append(field - len(form.prefix))
                self.entries.append(entry)
                self.forms.append(form.number)

    def no_call(self, kind: int, field: int, text: bytes, at: int) -> None:
        """Account for a relocation that names mcount and is not one of the known calls."""
        if x86.is_unsupported_call(self.obj.machine, kind, text, at):
            self.unsupported.append((self.target, field, "a call in an unsupported form"))
        else:
            self.references += kind != 0  # R_*_NONE is a call turned off long ago


class _Code:
    """A text section's bytes, read where relocations lie and not as a whole."""

    __slots__ = ("_obj", "_section", "_offset", "size", "_base", "_text")

    # The longest instruction pair of a call form reaches this far around its relocated field.
    MARGIN = 16

    def __init__(self, obj: "Object", section: int) -> None:
        self._obj = obj
        self._section = section
        _, _, _, _, self._offset, self.size, _, _, _, _ = obj.headers[section]
        self._base = 0
        self._text = b""

    def unproven(self, starts: "Sequence[int]", before: "Sequence[int]") -> set[int]:
        """Those of `starts` whose opcode may be a ModRM byte, going by the byte before.

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
        return set(doubtful) - self._obj.values_named(self._section, doubtful)

    def around(self, low: int, high: int) -> tuple[int, bytes]:
        """(section offset of the first byte, bytes) that hold every field from `low` to `high`."""
        if low < 0 or high >= self.size:
            name = self._obj.section(self._section).name
            raise FormatError(self._obj.path, "relocation outside the section", name, high)
        first = max(0, low - self.MARGIN)
        last = min(self.size, high + self.MARGIN)
        if first < self._base or last > self._base + len(self._text):
            if last - first > WINDOW:
                first, last = 0, self.size
            self._base = first
            self._text = self._obj.read(self._offset + first, last - first, "a text section")
        return self._base, self._text
