"""Find the call sites of an object: relocations that name mcount, proven by the bytes around them.

The result holds whole columns per section and not an object per site: a kernel has hundreds of
thousands of sites, nearly all of them the same five bytes, and columns can be checked in bulk.
"""

from _operator import itemgetter

from . import elf, x86
from .errors import FormatError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

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
    (a function pointer, a `lea`, a tail jump); `unsupported` lists calls in a form that no table
    entry can name, as (section index, section offset of the relocated field).
    """

    __slots__ = ("sections", "references", "unsupported")

    def __init__(self) -> None:
        self.sections: list[SectionSites] = []
        self.references = 0
        self.unsupported: list[tuple[int, int]] = []

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
            _find_in_section(obj, found, symbols, relocations, target)
    return found


def _text_relocations(obj: "Object") -> list[tuple[int, int]]:
    """(relocation section, text section) pairs, in file order."""
    headers = obj.headers
    pairs = []
    total = 0
    for index, header in enumerate(headers):
        if header[1] not in (elf.SHT_RELA, elf.SHT_REL, elf.SHT_CREL):
            continue
        target = header[7]
        if target >= len(headers):
            raise FormatError(obj.path, f"relocation section {index} is for no section")
        _, kind, flags, *_ = headers[target]
        if kind != elf.SHT_PROGBITS or not flags & elf.SHF_EXECINSTR:
            continue
        if header[1] == elf.SHT_CREL:
            raise FormatError(obj.path, f"section {index}: CREL relocations are not supported")
        if header[6] != obj.symtab:
            raise FormatError(obj.path, f"relocation section {index} has another symbol table")
        total += header[5]
        if total > obj.size:
            raise FormatError(obj.path, "relocation sections overlap")
        pairs.append((index, target))
    return pairs


def _find_in_section(
    obj: "Object", found: Found, symbols: frozenset[int], relocations: int, target: int
) -> None:
    result = SectionSites(target, relocations)
    code = _Code(obj, target)
    plain_infos = {
        obj.layout.info(symbol, kind)
        for symbol in symbols
        for kind in x86.PLAIN_CALL[obj.machine][1]
    }
    for piece in obj.relocations_naming(relocations, symbols):
        starts = _plain_calls(obj.machine, code, piece, plain_infos)
        if starts is not None:
            result.starts += starts
            result.entries += piece.numbers
            result.forms += [x86.PLAIN_CALL[obj.machine][0]] * len(starts)
        else:
            _decode_each(obj, code, piece, result, found)
    if len(set(result.starts)) != len(result):
        raise FormatError(obj.path, f"section {target}: two relocations for one call")
    if result.starts:
        found.sections.append(result)


def _plain_calls(
    machine: int, code: "_Code", piece: "Relocations", infos: set[int]
) -> list[int] | None:
    """Section offsets of the instructions if all are plain 5-byte calls, else None.

    This is the bulk path: whole columns are compared, and nothing is decided site by site.
    """
    form, _ = x86.PLAIN_CALL[machine]
    fields = piece.offsets
    if piece.addends is None or set(piece.addends) != {form.addend} or len(fields) < 2:
        return None
    low, high = min(fields), max(fields)
    if not infos.issuperset(piece.infos) or not 1 <= low <= high <= code.size - form.width:
        return None
    base, text = code.around(low, high)
    starts = [field - 1 for field in fields]
    opcodes = itemgetter(*[start - base for start in starts])(text)
    return starts if set(opcodes) == set(form.prefix) else None


def _decode_each(
    obj: "Object", code: "_Code", piece: "Relocations", result: SectionSites, found: Found
) -> None:
    type_of = obj.layout.type_of
    base, text = code.around(min(piece.offsets), max(piece.offsets))
    for i, (entry, field) in enumerate(zip(piece.numbers, piece.offsets, strict=True)):
        at = field - base
        kind = type_of(piece.infos[i])
        addend = piece.addends[i] if piece.addends else elf.in_place(text, at)
        form = x86.decode(obj.machine, kind, addend, text, at)
        if form is not None:
            result.starts.append(field - len(form.prefix))
            result.entries.append(entry)
            result.forms.append(form)
        elif kind in x86.UNSUPPORTED_CALLS[obj.machine]:
            found.unsupported.append((result.section, field))
        else:
            found.references += kind != 0  # R_*_NONE is a call turned off long ago


class _Code:
    """A text section's bytes, read where relocations lie and not as a whole."""

    __slots__ = ("_obj", "_section", "size", "_base", "_text")

    # The longest instruction pair of a call form reaches this far around its relocated field.
    MARGIN = 16

    def __init__(self, obj: "Object", section: int) -> None:
        self._obj = obj
        self._section = obj.section(section)
        self.size = self._section.size
        self._base = 0
        self._text = b""

    def around(self, low: int, high: int) -> tuple[int, bytes]:
        """(section offset of the first byte, bytes) that hold every field from `low` to `high`."""
        section = self._section
        if low < 0 or high >= section.size:
            raise FormatError(self._obj.path, "relocation outside the section", section.name, high)
        first = max(0, low - self.MARGIN)
        last = min(section.size, high + self.MARGIN)
        if first < self._base or last > self._base + len(self._text):
            if last - first > WINDOW:
                first, last = 0, section.size
            self._base = first
            self._text = self._obj.read(section.offset + first, last - first, "a text section")
        return self._base, self._text
