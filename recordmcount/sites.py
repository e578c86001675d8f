"""Find the call sites of an object: relocations that name mcount, proven by the bytes around them.

The result holds whole columns per section and not an object per site: a kernel has hundreds of
thousands of sites, nearly all of them the same five bytes, and columns can be checked in bulk.
"""

from _operator import itemgetter, lt
from itertools import islice

from . import elf, x86
from .errors import FormatError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .elf import Object, Relocations
    from .x86 import CallForm

# A piece of code up to this size is read for one piece of relocations; beyond it, all of it.
WINDOW = 1 << 20


class SectionSites:
    """The calls in one text section, in the order of their relocations; columns of equal length.

    `section` and `relocations` are section indices, `starts` the section offsets of the
    instructions' first bytes, `entries` the numbers of their relocations, `forms` their shapes.
    """

    __slots__ = ("section", "relocations", "starts", "entries", "forms")

    def __init__(self, section: int, relocations: int) -> None:
        self.section = section
        self.relocations = relocations
        self.starts: list[int] = []
        self.entries: list[int] = []
        self.forms: list[CallForm] = []

    def __len__(self) -> int:
        return len(self.starts)


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
            for start, entry, form in zip(part.starts, part.entries, part.forms, strict=True):
                yield CallSite(part.section, start, entry, form)


def find(obj: "Object", extra_names: tuple[str, ...] = ()) -> Found:
    """Every call to mcount in the executable sections of a relocatable object.

    `extra_names` are further symbol names, as given to gcc's -mfentry-name. Raises FormatError
    where a relocation that matters cannot be trusted.
    """
    found = Found()
    names = [name.encode("utf-8", "surrogateescape") for name in (*x86.MCOUNT_NAMES, *extra_names)]
    symbols = obj.symbols_named(names)
    if symbols:
        for relocations, target in _text_relocations(obj):
            _find_in_section(obj, found, symbols, SectionSites(target, relocations))
    return found


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


def _find_in_section(
    obj: "Object", found: Found, symbols: frozenset[int], result: SectionSites
) -> None:
    code = _Code(obj, result.section)
    plain, types = x86.PLAIN_CALL[obj.machine]
    infos = {obj.layout.info(symbol, kind) for symbol in symbols for kind in types}
    for piece in obj.relocations_naming(result.relocations, symbols):
        starts = _plain_calls(plain, infos, code, piece)
        if starts is not None:
            result.starts += starts
            result.entries += piece.numbers
            result.forms += [plain] * len(starts)
        else:
            _decode_each(obj, code, piece, result, found)
    if not _ascending(result.starts) and len(set(result.starts)) != len(result):
        raise FormatError(obj.path, f"section {result.section}: two relocations for one call")
    if result.starts:
        found.sections.append(result)


def _ascending(values: list[int]) -> bool:
    return all(map(lt, values, islice(values, 1, None)))


def _plain_calls(
    form: "CallForm", infos: set[int], code: "_Code", piece: "Relocations"
) -> list[int] | None:
    """Section offsets of the instructions if all are plain 5-byte calls, else None.

    This is the bulk path: whole columns are compared, and nothing is decided site by site.
    `infos` are the values of r_info that such a call can have.
    """
    fields = piece.offsets
    if len(fields) < 2 or not infos.issuperset(piece.infos):
        return None
    if piece.addends is None or set(piece.addends) != {form.addend}:
        return None
    low, high = min(fields), max(fields)
    if not 1 <= low <= high <= code.size - form.width:
        return None
    base, text = code.around(low, high)
    starts = [field - 1 for field in fields]
    pick = itemgetter(*[start - base for start in starts])
    if set(pick(text)) != set(form.prefix):
        return None
    return None if code.unproven(starts, pick(b"\0" + text)) else starts


def _decode_each(
    obj: "Object", code: "_Code", piece: "Relocations", result: SectionSites, found: Found
) -> None:
    type_of = obj.layout.type_of
    base, text = code.around(min(piece.offsets), max(piece.offsets))
    before = [text[max(0, field - base - 2)] for field in piece.offsets]
    unproven = code.unproven([field - 1 for field in piece.offsets], before)
    for i, (entry, field) in enumerate(zip(piece.numbers, piece.offsets, strict=True)):
        at = field - base
        kind = type_of(piece.infos[i])
        addend = piece.addends[i] if piece.addends else elf.in_place(text, at)
        form = x86.decode(obj.machine, kind, addend, text, at)
        if form is None:
            if x86.is_unsupported_call(obj.machine, kind, text, at):
                found.unsupported.append((result.section, field, "a call in an unsupported form"))
            else:
                found.references += kind != 0  # R_*_NONE is a call turned off long ago
            continue
        start = field - len(form.prefix)
        if start in unproven and len(form.prefix) == 1:
            what = "a call, or the immediate of an imul or sub"
            found.unsupported.append((result.section, field, what))
            continue
        result.starts.append(start)
        result.entries.append(entry)
        result.forms.append(form)


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
        """Those of `starts` whose opcode may be a ModRM byte: by the byte before, and no symbol.

        Where a symbol stands, an instruction begins.
        """
        if x86.BEFORE_MODRM.isdisjoint(before):
            return set()
        pairs = zip(starts, before, strict=True)
        doubtful = [start for start, byte in pairs if byte in x86.BEFORE_MODRM]
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
