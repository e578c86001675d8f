"""The call sites of a linked image that has a `__mcount_loc` table, each proven by its bytes.

An entry is only a claim. What makes it a site is that the call which stands there reaches mcount
and nothing else: its operand must name a definition of mcount, a PLT stub that jumps through a
slot of mcount's, or such a slot. All of these are known before the first entry is looked at, from
the symbols and from what the loader will do (`dynamic`). A call of anything else is foreign.

A site that was turned off is a NOP that still tells what it was: which form of call by its shape,
and in one byte, never 0, which of how many targets (on i386 also, which table the operand counts
from). So every site, in either state, knows the
bytes of both, and no state but the image's own is needed.

That byte is our mark as well: compilers and assemblers leave it 0 in their padding. A NOP without
the mark is a site only where gcc -mnop-mcount leaves one and no padding is: of five bytes, at a
function's first instruction (or behind its endbr), in an image with one target. Any other, and
any whose call cannot be told, is foreign.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from . import elf, table, x86
from .dynamic import DT_PLTGOT, R_GLOB_DAT, R_JUMP_SLOT, R_RELATIVE, LoadView
from .elf import Object, Section
from .errors import FormatError
from .x86 import LinkedCall

LONGEST_SITE = 13
ENDBR_SIZE = 4
# How many targets one byte can tell apart: the high half is the number, the low half how many.
MOST_TARGETS = 15
UNMARKED = "a NOP without a mark, which may be padding"
OF_AN_OBJECT = "a NOP that was made in an object file"


class State(StrEnum):
    """What stands at a site."""

    CALL = "call"
    NOP = "nop"
    FOREIGN = "foreign"


@dataclass(frozen=True, slots=True)
class Site:
    """One entry of the table, and what stands there.

    `vaddr` is a link-time virtual address and `offset` the file offset of the same byte.
    `function` is the STT_FUNC symbol whose code this is, None where no symbol covers it,
    `function_offset` the distance to its first byte and `aliases` all names that byte has. `code`
    are the bytes that stand there, of the form's length or, if foreign, five. `form` is the name of
    the call's form (of a NOP: of the call it replaced), `target` the name of the function it calls;
    both are empty if unknown.

    `call` and `nop` are the bytes of either state. Both are None for a foreign site, and `nop` is
    for a call that a NOP could not tell for certain. `reason` then says why, and `expected` are
    the calls that could stand at a foreign site.
    """

    vaddr: int
    offset: int
    section: str
    function: str | None
    function_offset: int
    code: bytes
    state: State
    form: str = ""
    target: str = ""
    call: bytes | None = None
    nop: bytes | None = None
    reason: str = ""
    expected: tuple[bytes, ...] = ()
    aliases: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        """`function` or `function+0xoffset`; `section:0xaddress` where no symbol covers it."""
        if self.function is None:
            return f"{self.section}:{self.vaddr:#x}"
        return _in_function(self.function, self.function_offset)


def _in_function(name: str, offset: int) -> str:
    return f"{name}+{offset:#x}" if offset else name


@dataclass(frozen=True, slots=True)
class Image:
    """The table of one linked file.

    `sites` are in ascending order, each once. `dead` counts entries of 0 or -1, which linkers
    leave for code they dropped; `repeated` counts entries beyond the first for one address, which
    identical code folding leaves. `targets` are the link-time virtual addresses of code, and
    `slots` those of GOT slots, through which mcount is reached, with its name.
    """

    path: str
    machine: int
    sites: tuple[Site, ...]
    dead: int
    repeated: int
    targets: dict[int, str]
    slots: dict[int, str]


def read(obj: Object, extra_names: Sequence[str] = ()) -> Image:
    """The sites of an executable or a shared object.

    `extra_names` are further names of mcount, as given to gcc's -mfentry-name. Raises FormatError
    where there is no table, or an entry names no code that is loaded from the file.
    """
    view = LoadView(obj)
    if not obj.headers:
        raise FormatError(obj.path, "no section headers, by which a table is found")
    tables = [obj.section(index) for index in obj.named(table.NAME)]
    if not tables:
        raise FormatError(obj.path, f"no {table.NAME.decode()} table")
    names = [name.encode() for name in (*x86.MCOUNT_NAMES, *extra_names)]
    gots = [section for section in _sections(obj) if section.name in (".got", ".got.plt")]
    words = _Words(view, [*tables, *gots], names)
    targets = _Targets(view, words, gots, names)
    entries = [entry for one in tables for entry in words.entries(one)]
    live = [vaddr for vaddr in entries if not _is_dead(vaddr, obj)]
    distinct = sorted(set(live))
    code = _Code(view)
    functions = _Functions(obj)
    decoder = _Decoder(obj, targets, functions, words.in_code)
    return Image(
        obj.path,
        obj.machine,
        tuple(_site(vaddr, code, functions, decoder) for vaddr in distinct),
        len(entries) - len(live),
        len(live) - len(distinct),
        targets.code,
        targets.slots,
    )


def odd_entries(dead: int, repeated: int) -> list[str]:
    """`1 dead entry`, `2 repeated entries`, if there are any, for people."""
    return [
        f"{number} {what} {'entry' if number == 1 else 'entries'}"
        for number, what in ((dead, "dead"), (repeated, "repeated"))
        if number
    ]


def _site(vaddr: int, code: "_Code", functions: "_Functions", decoder: "_Decoder") -> Site:
    section, offset, before, text = code.at(vaddr)
    function, function_offset = functions.covering(vaddr)
    entries = (0, ENDBR_SIZE) if before in x86.ENDBR else (0,)
    is_entry = function is not None and function_offset in entries
    found = decoder.decode(vaddr, text, is_entry)
    return Site(
        vaddr, offset, section, function, function_offset, text[: found.length], found.state,
        found.form, found.target, found.call, found.nop, found.reason, found.expected,
        functions.names(vaddr - function_offset),
    )  # fmt: skip


def _is_dead(vaddr: int, obj: Object) -> bool:
    return vaddr in (0, _mask(obj))


def _mask(obj: Object) -> int:
    """The highest address of the file's class."""
    return (1 << 8 * obj.layout.word) - 1


def _sections(obj: Object) -> list[Section]:
    return [obj.section(index) for index in range(len(obj.headers))]


# --- what the image says about addresses ----------------------------------------------------------


class _Words:
    """What the loader will have put into the words that matter here.

    `values` are link-time virtual addresses, by slot, of words in `wanted` sections; `names` are
    slots that the loader fills with the address of a symbol of these names; `in_code` the sorted
    addresses of relocations in executable segments.
    """

    def __init__(self, view: LoadView, wanted: Sequence[Section], names: list[bytes]) -> None:
        self.view = view
        self.values: dict[int, int] = {}
        self.names: dict[int, str] = {}
        self.in_code: list[int] = []
        ranges = [range(section.vaddr, section.vaddr + section.size) for section in wanted]
        absolute = x86.R_386_32 if view.obj.machine == x86.EM_386 else x86.R_X86_64_64
        symbols: dict[int, tuple[bytes, int, int]] = {0: (b"", 0, 1)}
        for relocation in view.relocations():
            slot, kind, symbol = relocation.slot, relocation.type, relocation.symbol
            if kind in (R_GLOB_DAT, R_JUMP_SLOT):
                if symbol not in symbols:
                    symbols[symbol] = view.symbol(symbol)
                if symbols[symbol][0] in names:
                    self.names[slot] = symbols[symbol][0].decode()
            elif kind in (R_RELATIVE, absolute, table.word_relocation(view.obj)) and any(
                slot in one for one in ranges
            ):
                addend = view.word(slot) if relocation.addend is None else relocation.addend
                _, value, shndx = view.symbol(symbol) if symbol else (b"", 0, 1)
                if shndx != elf.SHN_UNDEF:
                    self.values[slot] = value + addend & _mask(view.obj)
            if view.file_offset(slot, 1, executable=True) is not None:
                self.in_code.append(slot)
        self.in_code.sort()

    def value(self, slot: int, content: int) -> int | None:
        """The link-time address in the word at `slot`, of which the file has `content`."""
        fixed = content if self.view.obj.type == elf.ET_EXEC else None
        return self.values.get(slot, fixed)

    def entries(self, section: Section) -> Iterator[int]:
        """The link-time virtual addresses in a table, in its order."""
        obj = self.view.obj
        word = obj.layout.word
        if section.type == elf.SHT_NOBITS or section.size % word:
            raise FormatError(obj.path, "not a table of addresses", section.name)
        for number, content in enumerate(obj.layout.words(obj.content(section.index))):
            value = self.value(section.vaddr + number * word, content & _mask(obj))
            if value is None:
                if content not in (0, -1):
                    raise FormatError(
                        obj.path, "an entry the loader would not relocate", section.name,
                        number * word,
                    )  # fmt: skip
                value = 0
            yield value


class _Targets:
    """Every way to mcount: `code` addresses (definitions and PLT stubs) and GOT `slots`."""

    def __init__(
        self, view: LoadView, words: _Words, gots: Sequence[Section], names: list[bytes]
    ) -> None:
        obj = view.obj
        self.code = _definitions(view, names)
        self.slots = dict(words.names)
        self.got_bases = _got_bases(view, gots)
        size = 4 if obj.machine == x86.EM_386 else 8
        for section in gots:
            content = obj.content(section.index)
            for at in range(0, len(content) - size + 1, size):
                slot = section.vaddr + at
                value = words.value(slot, int.from_bytes(content[at : at + size], "little"))
                if value in self.code and slot not in self.slots:
                    self.slots[slot] = self.code[value]
        self._add_stubs(obj)
        self.code = dict(sorted(self.code.items()))
        self.slots = dict(sorted(self.slots.items()))

    def _add_stubs(self, obj: Object) -> None:
        stub = re.compile(x86.PLT_STUB[obj.machine], re.DOTALL)
        for section in _sections(obj):
            if not section.name.startswith(".plt") or not section.flags & elf.SHF_EXECINSTR:
                continue
            content = obj.content(section.index)
            for at in range(0, len(content), 8):  # no linker aligns its stubs to less
                if match := stub.match(content, at):
                    for slot in self._stub_slots(obj, section.vaddr + match.end(), match):
                        if slot in self.slots:
                            self.code.setdefault(section.vaddr + at, self.slots[slot])

    def _stub_slots(self, obj: Object, end: int, match: re.Match[bytes]) -> Iterable[int]:
        displacement = int.from_bytes(match[2], "little", signed=True)
        if obj.machine == x86.EM_X86_64:
            return [end + displacement]
        if match[1] == b"\x25":
            return [displacement & _mask(obj)]
        return [base + displacement & _mask(obj) for base in self.got_bases]


def _got_bases(view: LoadView, gots: Sequence[Section]) -> list[int]:
    """What i386 code may have in its GOT register, as link-time virtual addresses, likely first."""
    of_the_loader = [view.dynamic[DT_PLTGOT]] if DT_PLTGOT in view.dynamic else []
    by_name = sorted(gots, key=lambda section: section.name != ".got.plt")
    return list(dict.fromkeys(of_the_loader + [section.vaddr for section in by_name]))


def _definitions(view: LoadView, names: list[bytes]) -> dict[int, str]:
    """Link-time virtual address -> name, of the functions of these names the image defines."""
    found: dict[int, bytes] = {}
    for name, value, _, info, shndx in _symbols(view.obj):
        name = name.partition(b"@")[0]  # bfd and gold append the version in .symtab
        if (
            name in names
            and elf.SHN_UNDEF < shndx < elf.SHN_LORESERVE
            and info & 0xF != elf.STT_GNU_IFUNC
            and view.file_offset(value, 1, executable=True) is not None
        ):
            found[value] = min(found.get(value, name), name, key=names.index)
    return {value: name.decode() for value, name in found.items()}


def _symbols(obj: Object) -> Iterator[tuple[bytes, int, int, int, int]]:
    """(name, st_value, st_size, st_info, st_shndx) of .symtab's and .dynsym's symbols."""
    layout = obj.layout
    for index in obj.of_type(elf.SHT_SYMTAB, elf.SHT_DYNSYM):
        content = obj.content(index)
        strings = obj.content(obj.section(index).link)
        whole = len(content) - len(content) % layout.sym.size
        for fields in layout.sym.iter_unpack(content[:whole]):
            if layout.is_64:
                name, info, _, shndx, value, size = fields
            else:
                name, value, size, info, _, shndx = fields
            yield strings[name : strings.find(b"\0", name)], value, size, info, shndx


class _Functions:
    """The STT_FUNC symbols by address; of several at one address a global one, then the first."""

    def __init__(self, obj: Object) -> None:
        order = (elf.STB_GLOBAL, elf.STB_WEAK, elf.STB_LOCAL)
        found = [
            (value, -order.index(info >> 4) if info >> 4 in order else -3, -number, name, size)
            for number, (name, value, size, info, shndx) in enumerate(_symbols(obj))
            if info & 0xF == elf.STT_FUNC and shndx != elf.SHN_UNDEF
        ]
        self._functions = sorted(found)
        self._starts = [value for value, *_ in self._functions]

    def covering(self, vaddr: int) -> tuple[str | None, int]:
        """(name, distance to its first byte) of the function at `vaddr`; (None, 0) if none."""
        number = bisect_right(self._starts, vaddr) - 1
        if number < 0:
            return None, 0
        value, _, _, name, size = self._functions[number]
        if size and vaddr >= value + size:
            return None, 0
        return _unversioned(name), vaddr - value

    def names(self, start: int) -> tuple[str, ...]:
        """All names of the function that begins at `start`, each once, the best first."""
        first, end = bisect_left(self._starts, start), bisect_right(self._starts, start)
        rows = reversed(self._functions[first:end])
        return tuple(dict.fromkeys(_unversioned(name) for *_, name, _ in rows))


def _unversioned(name: bytes) -> str:
    return name.partition(b"@")[0].decode("utf-8", "backslashreplace")


class _Code:
    """The bytes of the executable sections, by link-time virtual address."""

    def __init__(self, view: LoadView) -> None:
        self._view = view
        self._sections = sorted(
            (
                section
                for section in _sections(view.obj)
                if section.flags & elf.SHF_ALLOC
                and section.flags & elf.SHF_EXECINSTR
                and section.type != elf.SHT_NOBITS
                and section.size
            ),
            key=lambda section: section.vaddr,
        )
        self._starts = [section.vaddr for section in self._sections]
        self._contents: dict[int, bytes] = {}

    def at(self, vaddr: int) -> tuple[str, int, bytes, bytes]:
        """(section name, file offset, ENDBR_SIZE bytes before, bytes) at a link-time address."""
        path = self._view.obj.path
        number = bisect_right(self._starts, vaddr) - 1
        section = self._sections[number] if number >= 0 else None
        if section is None or vaddr >= section.vaddr + section.size:
            raise FormatError(
                path, f"entry {vaddr:#x} is not in an executable section", table.NAME.decode()
            )
        at = vaddr - section.vaddr
        if self._view.file_offset(vaddr, 1, executable=True) != section.offset + at:
            raise FormatError(
                path, f"entry {vaddr:#x} is not in code that is loaded from the file",
                table.NAME.decode(),
            )  # fmt: skip
        if section.index not in self._contents:
            self._contents[section.index] = self._view.obj.content(section.index)
        content = self._contents[section.index]
        before, text = content[max(0, at - ENDBR_SIZE) : at], content[at : at + LONGEST_SITE]
        return section.name, section.offset + at, before, text


# --- what stands at an address --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Found:
    state: State
    length: int = 5
    form: str = ""
    target: str = ""
    call: bytes | None = None
    nop: bytes | None = None
    reason: str = ""
    expected: tuple[bytes, ...] = ()


class _Decoder:
    """Tells what stands at an address: a call of mcount, a NOP that was one, or neither."""

    def __init__(
        self, obj: Object, targets: _Targets, functions: _Functions, relocated: Sequence[int]
    ) -> None:
        self._forms = x86.linked_calls(obj.machine)
        self._targets = targets
        self._functions = functions
        self._ways = {form: _ways(form, targets) for form in self._forms}
        self._names = {False: targets.code, True: targets.slots}
        self._relocated = relocated
        self._mask = _mask(obj)

    def decode(self, vaddr: int, text: bytes, is_entry: bool) -> _Found:
        """What `text` is, which stands at link-time virtual address `vaddr`.

        `is_entry` tells whether that is a function's first instruction but for an endbr.
        """
        found = self._decode(vaddr, text, is_entry)
        if self._is_relocated(vaddr, found.length):
            return _Found(
                State.FOREIGN, found.length, reason="code that the loader relocates (DT_TEXTREL)"
            )
        return found

    def _decode(self, vaddr: int, text: bytes, is_entry: bool) -> _Found:
        reason = "neither a call nor a NOP in the place of one"
        length = 5
        for form in self._forms:
            operand = form.operand(text)
            if operand is not None:
                found = self._call(form, vaddr, text[: form.length], operand)
                if found is not None:
                    return found
                reason = self._other_call(form, vaddr, operand)
                length = form.length
        for form in self._forms:
            selector = form.selector(text)
            if selector is not None:
                code = text[: form.length]
                if selector or (is_entry and code == x86.NOP5):
                    return self._nop(form, vaddr, code, selector)
                return _Found(State.FOREIGN, form.length, reason=UNMARKED)
        if re.match(x86.OBJECT_NOP, text, re.DOTALL):
            reason = OF_AN_OBJECT
        return _Found(
            State.FOREIGN, length, reason=reason, expected=self._expected(vaddr, text[:1])
        )

    def _call(self, form: LinkedCall, vaddr: int, code: bytes, operand: int) -> _Found | None:
        for number, (base, address) in enumerate(self._ways[form]):
            if _origin(form, vaddr, base) + operand & self._mask == address:
                nop = self._nop_for(form, number)
                certain = nop is not None and self._restored(vaddr, nop) == code
                return _Found(
                    State.CALL, form.length, form.name, self._name(form, address), code,
                    nop if certain else None,
                    "" if certain else "a NOP could not tell which call it replaced",
                )  # fmt: skip
        return None

    def _other_call(self, form: LinkedCall, vaddr: int, operand: int) -> str:
        base = next(iter(self._targets.got_bases), 0) if form.origin == x86.FROM_GOT else 0
        address = _origin(form, vaddr, base) + operand & self._mask
        if form.through_slot:
            return f"a call through {address:#x}, which is no GOT slot of mcount"
        name, distance = self._functions.covering(address)
        if name is None:
            return f"a call to {address:#x}, which is not mcount"
        hint = "" if distance else f" (if it is, say --symbol {name})"
        where = _in_function(name, distance)
        return f"a call to {address:#x} ({where}), which is not mcount{hint}"

    def _expected(self, vaddr: int, first: bytes) -> tuple[bytes, ...]:
        """The calls that could stand here; if any begins with `first`, only those that do."""
        calls = [
            call
            for form in self._forms
            if form.name in ("call", "call-got")
            for base, address in self._ways[form]
            if (call := self._spell(form, vaddr, base, address)) is not None
        ]
        return tuple([call for call in calls if call.startswith(first)] or calls)

    def _nop(self, form: LinkedCall, vaddr: int, code: bytes, selector: int) -> _Found:
        way, reason = self._selected(form, selector)
        if way is None:  # not one of ours, or the image is no longer what it was
            return _Found(State.FOREIGN, form.length, reason=reason)
        call = self._spell(form, vaddr, *way)
        if call is None:
            return _Found(State.FOREIGN, form.length, reason="a NOP whose target is out of reach")
        return _Found(State.NOP, form.length, form.name, self._name(form, way[1]), call, code)

    def _name(self, form: LinkedCall, address: int) -> str:
        return self._names[form.through_slot][address]

    def _restored(self, vaddr: int, nop: bytes) -> bytes | None:
        """The call that a NOP, read back, would be turned into."""
        for other in self._forms:
            selector = other.selector(nop)
            if selector is not None:
                way, _ = self._selected(other, selector)
                return None if way is None else self._spell(other, vaddr, *way)
        return None

    def _spell(self, form: LinkedCall, vaddr: int, base: int, address: int) -> bytes | None:
        return form.spell(address - _origin(form, vaddr, base))

    def _nop_for(self, form: LinkedCall, number: int) -> bytes | None:
        """The marked NOP for that one of the form's ways; None if it has no room for that."""
        count = len(self._ways[form])
        return form.nop_with(number << 4 | count) if count <= MOST_TARGETS else None

    def _selected(self, form: LinkedCall, selector: int) -> tuple[tuple[int, int] | None, str]:
        """(the way, "") that the selector of a NOP means, or (None, why there is none)."""
        ways = self._ways[form]
        number, count = divmod(selector, 16)
        what = "slots" if form.through_slot else "functions and stubs"
        if len(ways) != (count or 1) or number >= len(ways):
            return None, f"a NOP for one of {count or 1} {what} of mcount; there are {len(ways)}"
        return ways[number], ""

    def _is_relocated(self, vaddr: int, length: int) -> bool:
        """Whether a relocation of up to 8 bytes touches the `length` bytes at `vaddr`."""
        number = bisect_left(self._relocated, vaddr - 7)
        return number < len(self._relocated) and self._relocated[number] < vaddr + length


def _ways(form: LinkedCall, targets: _Targets) -> list[tuple[int, int]]:
    """(base, address) of all that a call of this form can reach mcount by.

    The base is that of the GOT in the register of an i386 call, and 0 for all others.
    """
    if form.origin == x86.FROM_GOT:
        return [(base, slot) for base in targets.got_bases for slot in targets.slots]
    return [(0, address) for address in (targets.slots if form.through_slot else targets.code)]


def _origin(form: LinkedCall, vaddr: int, base: int) -> int:
    """What the operand of a call at `vaddr` counts from, as a link-time virtual address."""
    if form.origin == x86.FROM_END:
        return vaddr + len(form.prefix) + form.width
    return base
