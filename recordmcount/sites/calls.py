"""Find the call sites of an object: relocations that name mcount, proven by the bytes around them.

What is said of mcount goes for `__return__` as well, which gcc calls where a function ends.

The result holds whole columns per section and not an object per site: a kernel has hundreds of
thousands of sites, nearly all of them the same five bytes, and columns can be checked in bulk.
"""

from _struct import pack, unpack
from itertools import pairwise

from recordmcount import x86
from recordmcount.columns import is_ascending, picked, shifted
from recordmcount.elf import object as elf
from recordmcount.errors import FormatError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from recordmcount.columns import Relocations
    from recordmcount.elf.object import Object
    from recordmcount.x86 import CallForm

    from .opcodes import Opcodes, Verdict

    # Relocation section, text section, pieces of the former (Object.relocation_pieces; None: all).
    Part = tuple[int, int, range | None]
    # What is looked for, and where.
    Work = tuple["_Search", Part]
    # Section index, section offset of the relocated field, what it is.
    Unsupported = tuple[int, int, str]
    # Relocation section, text section; numbers, section offsets, r_info and addends.
    TurnedOff = tuple[int, int, Sequence[int], Sequence[int], Sequence[int], Sequence[int] | None]
    # Starts, entries, forms, types, idle, references, unsupported, turned off: as below.
    Answer = tuple[
        list[int], bytes, bytes, bytes, dict[int, bytes], int, list[Unsupported], list[TurnedOff]
    ]

UNPROVEN = "a call, or a part of another instruction"
CHANGED = "a call behind a prefix that changes it"

# A section up to this size is read as a whole, and of a larger one a piece up to this size for one
# piece of relocations; where these lie further apart, all of it.
WINDOW = 1 << 20
# Below this many bytes of relocations, one process is done before others would have started.
WORTH_FORKING = 4 << 20


class SectionSites:
    """The calls in one text section, in the order of their relocations; columns of equal length.

    `section` and `relocations` are section indices, `starts` the section offsets of the
    instructions' first bytes, `entries` the numbers of their relocations, packed in 8 bytes each
    (few ask for them), `forms` their shapes as indices into `x86.ALL_FORMS` and `types` those of
    their relocations, a byte each. `idle` are the prefixes of the few calls that have some, by
    section offset: `starts` names the first of them. `are_returns` tells that they call
    `__return__`, and not mcount.
    """

    __slots__ = (
        "section", "relocations", "starts", "entries", "forms", "types", "idle", "are_returns",
    )  # fmt: skip

    def __init__(
        self,
        section: int,
        relocations: int,
        starts: list[int],
        entries: bytes,
        forms: bytes,
        types: bytes,
        *,
        idle: dict[int, bytes],
        are_returns: bool = False,
    ) -> None:
        self.section = section
        self.relocations = relocations
        self.starts = starts
        self.entries = entries
        self.forms = forms
        self.types = types
        self.idle = idle
        self.are_returns = are_returns

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> "Iterator[CallSite]":
        entries = unpack(f"<{len(self)}Q", self.entries)
        for start, entry, number in zip(self.starts, entries, self.forms, strict=True):
            yield CallSite(self.section, start, entry, self.form(start, number))

    def form(self, start: int, number: int) -> "CallForm":
        """Give the form of the call at `start` whose number in `forms` is this."""
        return x86.behind(self.idle.get(start, b""), x86.ALL_FORMS[number])


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

    `sections` has the calls, those of mcount first; `references` counts relocations that name
    mcount or `__return__` and are no call (a function pointer, a `lea`, a tail jump); `unsupported`
    lists what may be a call and can have no entry, as (section index, section offset of the
    relocated field, what it is). `turned_off` has the relocations of calls that were turned into
    NOPs. `symbols` are those of both functions, and `has_local` tells whether one is local:
    assemblers may call it without a relocation.
    """

    __slots__ = ("sections", "references", "unsupported", "turned_off", "symbols", "has_local")

    def __init__(self, symbols: frozenset[int]) -> None:
        self.symbols = symbols
        self.has_local = False
        self.sections: list[SectionSites] = []
        self.references = 0
        self.unsupported: list[Unsupported] = []
        self.turned_off: list[TurnedOff] = []

    def __iter__(self) -> "Iterator[CallSite]":
        for part in self.sections:
            yield from part


def find(
    obj: "Object", extra_names: tuple[str, ...] = (), processes: int = 1, *, all_off: bool = False
) -> Found:
    """Find every call to mcount and `__return__` in the executable sections of an object.

    `extra_names` are further symbol names, as given to gcc's -mfentry-name. A large object is
    searched by several processes, 0 of them being as many as there are processors. With `all_off`
    those of `turned_off` are found that name no symbol, and whatever else is R_*_NONE without one.
    Raises FormatError where a relocation that matters cannot be trusted.
    """
    named = obj.symbols_with_names([*x86.mcount_names(extra_names), x86.RETURN_NAME])
    found = Found(frozenset(named))
    if not named and not all_off:
        return found
    if named:
        found.has_local = min(named) < obj.headers[obj.symtab or 0][elf.SH_INFO]
    pairs = text_relocations(obj)
    is_large = sum(obj.headers[index][elf.SH_SIZE] for index, _ in pairs) >= WORTH_FORKING
    answers = _in_parallel if is_large and processes != 1 else _one_by_one
    for (search, part), answer in answers(_searches(obj, named, all_off=all_off), pairs, processes):
        if answer is not None:
            _add(found, part, answer, are_returns=search.are_returns)
    _check_unique(obj, found)
    return found


def _searches(obj: "Object", named: "Mapping[int, bytes]", *, all_off: bool) -> "list[_Search]":
    """Tell what to look for: calls of mcount, and of `__return__` if there is such a symbol."""
    returns = frozenset(symbol for symbol in named if named[symbol] == x86.RETURN_NAME)
    mcount = frozenset(named) - returns
    searches = [_Search(obj, mcount, all_off=all_off)] if mcount or all_off else []
    return [*searches, _Search(obj, returns, are_returns=True)] if returns else searches


def _one_by_one(
    searches: "list[_Search]", pairs: list[tuple[int, int]], _: int
) -> "Iterator[tuple[Work, Answer | None]]":
    for search in searches:
        for part in _parts(search.obj, pairs, 1):
            yield (search, part), search.part(part)


def _in_parallel(
    searches: "list[_Search]", pairs: list[tuple[int, int]], processes: int
) -> "Iterator[tuple[Work, Answer | None]]":
    from recordmcount import jobs  # of many objects hardly one is so large

    processes = processes or jobs.available()
    work = [(search, part) for search in searches for part in _parts(search.obj, pairs, processes)]

    def share(number: int) -> "list[Answer | None]":
        return [search.part(part) for search, part in work[number::processes]]

    answers = jobs.share(processes, share)
    for number, each in enumerate(work):
        yield each, answers[number % processes][number // processes]


def _check_unique(obj: "Object", found: Found) -> None:
    """Refuse two relocations for one call, be they in one relocation section or in two."""
    starts: dict[int, list[int]] = {}
    for part in found.sections:
        known = starts.get(part.section)
        starts[part.section] = part.starts if known is None else known + part.starts
    doubled = len({place[:2] for place in found.unsupported}) != len(found.unsupported)
    for all_starts in starts.values():
        # Of many a set would be in no cache of a processor, and they nearly always ascend.
        doubled |= not is_ascending(all_starts) and len(set(all_starts)) != len(all_starts)
    if doubled:
        raise FormatError(obj.path, "two relocations for one call")


def _add(found: Found, part: "Part", answer: "Answer", *, are_returns: bool) -> None:
    relocations, target, _ = part
    starts, entries, forms, types, idle, references, unsupported, turned_off = answer
    found.references += references
    found.unsupported += unsupported
    found.turned_off += turned_off
    last = found.sections[-1] if found.sections else None
    if last and last.relocations == relocations and last.are_returns == are_returns:
        last.starts += starts
        last.entries += entries
        last.forms += forms
        last.types += types
        last.idle.update(idle)
    elif starts:
        columns = starts, entries, forms, types
        sites = SectionSites(target, relocations, *columns, idle=idle, are_returns=are_returns)
        found.sections.append(sites)


def _range(values: "Sequence[int]") -> tuple[int, int]:
    """Return (least, greatest); of what ascends already, as it nearly always does, fastest so."""
    ordered = sorted(values)
    return ordered[0], ordered[-1]


def _parts(obj: "Object", pairs: list[tuple[int, int]], processes: int) -> "list[Part]":
    """Tell what there is to search, in order: of each section as many parts as processes."""
    if processes == 1:
        return [(index, target, None) for index, target in pairs]
    parts: list[Part] = []
    for index, target in pairs:
        pieces = obj.relocation_pieces(index)
        ends = [len(pieces) * number // processes for number in range(processes + 1)]
        parts += [(index, target, pieces[start:end]) for start, end in pairwise(ends)]
    return parts


def text_relocations(obj: "Object") -> list[tuple[int, int]]:
    """Return (relocation section, text section) pairs, in file order."""
    headers, symtab = obj.headers, obj.symtab
    pairs = []
    total = 0
    for index in obj.of_type(elf.SHT_RELA, elf.SHT_REL, elf.SHT_CREL):
        header = headers[index]
        target = header[elf.SH_INFO]
        if target >= len(headers):
            raise FormatError(obj.path, f"relocation section {index} is for no section")
        text = headers[target]
        if not text[elf.SH_FLAGS] & elf.SHF_EXECINSTR or text[elf.SH_TYPE] != elf.SHT_PROGBITS:
            continue
        obj.require_plain(target)
        if header[elf.SH_TYPE] == elf.SHT_CREL:
            what = "CREL relocations are not supported: assemble without -Wa,--crel"
            raise FormatError(obj.path, f"section {index}: {what}")
        if header[elf.SH_LINK] != symtab:
            raise FormatError(obj.path, f"relocation section {index} has another symbol table")
        total += header[elf.SH_SIZE]
        if total > obj.size:
            raise FormatError(obj.path, "relocation sections overlap")
        pairs.append((index, target))
    return pairs


class _Search:
    """The search of one object for calls of one function, part by part."""

    def __init__(
        self,
        obj: "Object",
        symbols: frozenset[int],
        *,
        all_off: bool = False,
        are_returns: bool = False,
    ) -> None:
        self.obj = obj
        self.are_returns = are_returns
        self.sought = symbols | {0} if all_off else symbols
        self.plain, types = x86.PLAIN_CALL[obj.machine]
        # By r_info, what is the type of a relocation; none of a call is greater than 255.
        self.plain_types = {
            obj.layout.info(symbol, each): each for symbol in symbols for each in types
        }
        proving = x86.PROVING_TYPES[obj.machine]
        self.proving_infos = {info for info, each in self.plain_types.items() if each in proving}
        self.idle = x86.IDLE_PREFIXES[obj.machine]
        self._opcodes: Opcodes | None = None

    def part(self, part: "Part") -> "Answer | None":
        """Tell what is in one part, in values that can go to another process; None: nothing."""
        relocations, target, pieces = part
        seen: _Seen | None = None
        for piece in self.obj.relocations_naming(relocations, self.sought, pieces):
            seen = seen or _Seen(_Code(self.obj, target))
            if not self.plain_types.keys() >= piece.distinct:
                piece = self.without_off(part, piece, seen)
            plain = self.plain_calls(seen.code, piece)
            if plain is not None:
                seen.add_plain(plain, piece.numbers, self.plain.number, self.types(piece))
            elif piece.numbers:
                self.decode_each(seen.code, piece, seen)
        return seen.answer() if seen else None

    def without_off(self, part: "Part", piece: "Relocations", seen: "_Seen") -> "Relocations":
        """Put aside the relocations of calls that are off, R_*_NONE; return what is left."""
        code, layout = seen.code, self.obj.layout
        off = {info for info in piece.distinct if layout.type_of(info) == x86.RELOCATION_NONE}
        if off:
            gone = piece.having(off)
            if any(off):
                code.require(*_range(gone.having(off - {0}).offsets))
            if 0 in off:  # what names no symbol may be anybody's, and stand anywhere
                gone = gone.chosen([0 <= offset < code.size for offset in gone.offsets])
            columns = gone.numbers, gone.offsets, gone.infos, gone.addends
            seen.turned_off.append((*part[:2], *columns))
        if off or 0 in self.sought:
            return piece.having({info for info in piece.distinct - off if layout.symbol_of(info)})
        return piece

    def types(self, piece: "Relocations") -> bytes:
        """Give the types of the relocations of plain calls, of which nearly all have the same."""
        known = self.plain_types
        if len(piece.distinct) == 1:
            return bytes((known[piece.infos[0]],)) * len(piece.infos)
        return bytes(map(known.__getitem__, piece.infos))

    def plain_calls(self, code: "_Code", piece: "Relocations") -> list[int] | None:
        """Return section offsets of the instructions if all are plain 5-byte calls, else None.

        This is the bulk path: whole columns are compared, and nothing is decided site by site.
        """
        form, fields = self.plain, piece.offsets
        if not fields or not self.plain_types.keys() >= piece.distinct:
            return None
        if piece.addends is None or set(piece.addends) != {form.addend}:
            return None
        low, high = _range(fields)
        if not 1 <= low <= high <= code.size - form.width:
            return None
        base, text = code.around(low, high)
        starts = [field - 1 for field in fields]
        if set(picked([text], shifted(fields, base + 1))[0]) != set(form.prefix):
            return None
        doubtful: Sequence[int] = starts
        if self.proving_infos.issuperset(piece.distinct):
            before = picked([text], shifted(starts, base + 1))[0]
            if x86.MAY_BE_PREFIXES[self.obj.machine].isdisjoint(set(before)):
                return starts
            doubtful = self.behind_prefixes(starts, before)
        judged, left = self.judge(code, doubtful)
        usual = all(each.start == start and each.is_opcode for start, each in judged.items())
        return starts if usual and not left else None

    def behind_prefixes(self, starts: "Sequence[int]", before: "Sequence[int]") -> list[int]:
        """Choose those of `starts` before which there may be a prefix, by the byte before."""
        prefixes = x86.MAY_BE_PREFIXES[self.obj.machine]
        return [start for start, byte in zip(starts, before, strict=True) if byte in prefixes]

    def judge(
        self, code: "_Code", opcodes: "Sequence[int]"
    ) -> "tuple[dict[int, Verdict], set[int]]":
        """Judge all of `opcodes` at which no function begins: (verdicts, those without one)."""
        if not opcodes:
            return {}, set()
        if self._opcodes is None:
            from .opcodes import Opcodes  # few calls are in doubt

            self._opcodes = Opcodes(self.obj)
        doubtful = self._opcodes.doubtful(code.section, opcodes)
        judged = self._opcodes.judge(code.section, doubtful, code.read)
        return judged, doubtful - judged.keys()

    def decode_each(self, code: "_Code", piece: "Relocations", seen: "_Seen") -> None:
        """Decide relocation by relocation."""
        machine, fields = self.obj.machine, piece.offsets
        base, text = code.around(*_range(fields))
        proving, prefixes = x86.PROVING_TYPES[machine], x86.MAY_BE_PREFIXES[machine]
        rows: list[tuple[int, int, int, CallForm]] = []
        doubtful = []
        for i, (entry, field) in enumerate(zip(piece.numbers, fields, strict=True)):
            at = field - base
            relocation_type = self.obj.layout.type_of(piece.infos[i])
            addend = piece.addends[i] if piece.addends else elf.in_place(text, at)
            form = x86.decode(machine, relocation_type, addend, text, at)
            if form is None and x86.is_unsupported_call(machine, relocation_type, text, at):
                seen.unsupported.append((code.section, field, "a call in an unsupported form"))
            elif form is None:
                seen.references += 1
            else:
                start = field - len(form.prefix)
                rows.append((entry, start, relocation_type, form))
                before = text[start - base - 1] if start > base else 0
                if relocation_type not in proving or before in prefixes:
                    doubtful.append(start + form.opcode)
        judged, unknown = self.judge(code, doubtful)
        for entry, start, relocation_type, form in rows:
            field = start + len(form.prefix)
            verdict = judged.get(start + form.opcode)
            if verdict and not (verdict.is_opcode and verdict.start <= start):
                self.no_call(code, field, verdict, seen)
                continue
            idle = text[(verdict.start if verdict else start) - base : start - base]
            # Before a call that is known to be one, an idle byte does not matter.
            last = text[start - base - 1 : start - base]
            sure = relocation_type in proving and self.is_idle(last, form)
            if start + form.opcode in unknown and not sure:
                seen.unsupported.append((code.section, field, UNPROVEN))
            elif not self.is_idle(idle, form):
                seen.unsupported.append((code.section, field, CHANGED))
            else:
                seen.add(start - len(idle), entry, form.number, relocation_type, idle)

    def is_idle(self, prefixes: bytes, form: "CallForm") -> bool:
        """Tell whether a call of this form is the same behind these prefixes."""
        return self.idle.issuperset(prefixes) and x86.can_be_behind(prefixes, form)

    def no_call(self, code: "_Code", field: int, verdict: "Verdict", seen: "_Seen") -> None:
        """Count what is no call though it looks like one; say it if that is not certain."""
        if verdict.is_proven:
            seen.references += 1
        else:
            seen.unsupported.append((code.section, field, UNPROVEN))


class _Seen:
    """What was seen of a part so far, in `code`; columns are those of SectionSites and Found."""

    __slots__ = (
        "code", "starts", "entries", "forms", "types", "idle", "references", "unsupported",
        "turned_off",
    )  # fmt: skip

    def __init__(self, code: "_Code") -> None:
        self.code = code
        self.starts: list[int] = []
        self.entries: list[int] = []
        self.forms = bytearray()
        self.types = bytearray()
        self.idle: dict[int, bytes] = {}
        self.references = 0
        self.unsupported: list[Unsupported] = []
        self.turned_off: list[TurnedOff] = []

    def add(self, start: int, entry: int, form: int, relocation_type: int, idle: bytes) -> None:
        """Add a call behind `idle` prefixes, of which most have none."""
        self.starts.append(start)
        self.entries.append(entry)
        self.forms.append(form)
        self.types.append(relocation_type)
        if idle:
            self.idle[start] = idle

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
        return *columns, self.idle, self.references, self.unsupported, self.turned_off


class _Code:
    """A text section's bytes, read where relocations lie and not as a whole."""

    __slots__ = ("_obj", "section", "_offset", "size", "_is_small", "_base", "_text")

    # The longest instruction pair of a call form reaches this far around its relocated field.
    MARGIN = 16

    def __init__(self, obj: "Object", section: int) -> None:
        self._obj = obj
        self.section = section
        header = obj.headers[section]
        self._offset, self.size = header[elf.SH_OFFSET], header[elf.SH_SIZE]
        # And all in the file: if not, what there is of it may do.
        self._is_small = self.size <= WINDOW and self._offset + self.size <= obj.size
        self._base = 0
        self._text = b""

    def read(self, start: int, size: int) -> bytes:
        """Read up to `size` bytes at a section offset; fewer where the section ends."""
        if start >= self._base and start + size <= self._base + len(self._text):
            return self._text[start - self._base : start - self._base + size]
        size = max(0, min(size, self.size - start))
        return self._obj.read(self._offset + start, size, "a text section")

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
            # Of code that is read from its beginning, offsets are the places in what was read.
            if self._is_small or last - first > WINDOW:
                first, last = 0, self.size
            text = self._obj.read(self._offset + first, last - first, "a text section")
            self._base, self._text = (first, text) if first else (-1, b"\0" + text)
        return self._base, self._text
