"""The call sites of a linked image that has a `__mcount_loc` table, each proven by its bytes.

An entry is only a claim. What makes it a site is that the call which stands there reaches mcount
and nothing else: its operand must name a definition of mcount, a PLT stub that jumps through a
slot of mcount's, or such a slot (`targets`). A call of anything else is foreign.

A site that was turned off is a NOP that still tells what it was: which form of call by its shape,
and in one byte, never 0, which of how many targets (on i386 also, which table the operand counts
from). So every site, in either state, knows the bytes of both, and no state but the image's own is
needed.

That byte is our mark as well: compilers and assemblers leave it 0 in their padding. A NOP without
the mark is a site only where gcc -mnop-mcount leaves one and no padding is: of five bytes, at a
function's first instruction (or behind its endbr), in an image with one target. Any other, and
any whose call cannot be told, is foreign.
"""

from _bisect import bisect_left, bisect_right
from _operator import lt, sub
from itertools import chain, compress, repeat

from recordmcount import mcount_loc, x86
from recordmcount.columns import pick, positions
from recordmcount.elf import object as elf
from recordmcount.elf.segments import LoadView
from recordmcount.elf.symbols import Functions
from recordmcount.errors import FormatError

from .decoder import ENDBR_SIZE, Decoder, Found, Way, in_function
from .state import State
from .targets import Targets, Words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from recordmcount.elf.object import Object, Section

# Code is read in pieces of this many bytes, so that what is compared is still in the cache.
PIECE = 1 << 18
# More ways than these are not compared with: then decoding each site is as fast.
MOST_WAYS = 8


class Site:
    """One entry of the table, and what stands there.

    `vaddr` is a link-time virtual address and `offset` the file offset of the same byte.
    `function` is the STT_FUNC symbol whose code this is, None where no symbol covers it,
    `function_offset` the distance to its first byte and `aliases` all names that byte has. `code`
    are the bytes that stand there, of the form's length or, if foreign, of the longest call that
    could stand there. `form` is the name of the call's form (of a NOP: of the call it replaced),
    `target` the name of the function it calls; both are empty if unknown.

    `call` and `nop` are the bytes of either state. Both are None for a foreign site, and `nop` is
    for a call that a NOP could not tell for certain. `reason` then says why, and `expected` are
    the calls that could stand at a foreign site.
    """

    __slots__ = (
        "vaddr", "offset", "section", "function", "function_offset", "aliases", "code", "state",
        "form", "target", "call", "nop", "reason", "expected",
    )  # fmt: skip

    def __init__(
        self, vaddr: int, place: "tuple[str, int]", functions: Functions, found: Found
    ) -> None:
        self.vaddr = vaddr
        self.section, self.offset = place
        self.function, self.function_offset = functions.covering(vaddr)
        self.aliases = functions.names(vaddr - self.function_offset)
        self.code = found.code
        self.state = found.state
        way = found.way
        self.form = way.form.name if way else ""
        self.target = way.name if way else ""
        self.call = way.call(vaddr) if way else None
        self.nop = way.nop if way else None
        self.reason = found.reason
        self.expected = found.expected

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Site) and self._fields() == other._fields()

    def __hash__(self) -> int:
        return hash(self._fields())

    def _fields(self) -> tuple[object, ...]:
        return tuple([getattr(self, name) for name in self.__slots__])

    @property
    def place(self) -> str:
        """`function` or `function+0xoffset`; `section:0xaddress` where no symbol covers it."""
        if self.function is None:
            return f"{self.section}:{self.vaddr:#x}"
        return in_function(self.function, self.function_offset)


class Sites:
    """The sites of an image in ascending order, each once: columns, of which each Site is made.

    `vaddrs` are their link-time virtual addresses, `codes` the bytes that stand there.
    """

    def __init__(
        self, vaddrs: list[int], code: "Code", functions: Functions, decoder: Decoder
    ) -> None:
        self.vaddrs = vaddrs
        self.codes = [b""] * len(vaddrs)
        self._code = code
        self._functions = functions
        self._decoder = decoder
        self._ways: list[Way] = []
        # For each site 1 + the number of its way; 0: it was decoded alone, and is in `_alone`.
        self._kinds = bytearray(len(vaddrs))
        self._alone: dict[int, Found] = {}
        for numbers, start, text in code.pieces(vaddrs):
            self._decode(numbers, start, text)
        alone = [found.way for found in self._alone.values() if found.way]
        self._forms = list(dict.fromkeys([way.form for way in (*self._ways, *alone)]))

    def __len__(self) -> int:
        return len(self.vaddrs)

    def __getitem__(self, number: int) -> Site:
        vaddr, kind = self.vaddrs[number], self._kinds[number]
        if kind:
            found = Found(self.codes[number], self._ways[kind - 1])
        else:
            found = self._told(vaddr, self._alone[number % len(self)])
        return Site(vaddr, self._code.place(vaddr), self._functions, found)

    def _told(self, vaddr: int, found: Found) -> Found:
        """The same, and at a foreign site what is expected now that all others are known."""
        if not found.expected:
            return found
        _, text = self._code.around(vaddr)
        expected = self._decoder.expected(vaddr, text, self._forms)
        code = text[: max(map(len, expected))]
        return Found(code, reason=found.reason, expected=expected)

    def __iter__(self) -> "Iterator[Site]":
        return map(self.__getitem__, range(len(self)))

    def at(self, vaddr: int) -> Site:
        """The site at a link-time virtual address, which must be one's."""
        return self[bisect_left(self.vaddrs, vaddr)]

    def names(self, number: int) -> tuple[str, ...]:
        """All names of the function that a site is in."""
        vaddr = self.vaddrs[number]
        return self._functions.names(vaddr - self._functions.covering(vaddr)[1])

    def where(self, numbers: "Sequence[int]", state: State) -> "Sequence[int]":
        """Those of ascending `numbers` whose sites are in `state`."""
        kinds = {kind for kind, way in enumerate(self._ways, 1) if way.state is state}
        column = self._kinds_of(numbers)
        if not column.strip(column[:1]) and 0 not in column:  # nearly always: all alike
            return numbers if column[:1] and column[0] in kinds else []
        found = [numbers[at] for at in positions(column, kinds)]
        if 0 in column:
            found += [at for at in numbers if self._is_alone(at) and self._alone[at].state is state]
            found.sort()
        return found

    def stuck(self, numbers: "Sequence[int]") -> "Sequence[int]":
        """Those of `numbers` whose sites cannot be turned to the other state and back."""
        if not self._alone:
            return []
        ways = [(at, self._alone[at].way) for at in numbers if self._is_alone(at)]
        return [at for at, way in ways if way is None or way.nop is None]

    def changes(
        self, numbers: "Sequence[int]", state: State
    ) -> "tuple[Sequence[int], Sequence[bytes], Sequence[bytes]]":
        """What brings the sites of ascending `numbers` to `state`: none may be stuck.

        (Link-time virtual addresses, bytes that stand there, bytes that shall), columns.
        """
        kinds = self._kinds_of(numbers)
        if not kinds.strip(kinds[:1]):  # all alike, or none
            new = self._turned(kinds[0], numbers, state) if kinds else []
        else:
            columns = {
                kind: self._turned(kind, pick(numbers, positions(kinds, {kind})), state)
                for kind in set(kinds)
            }
            new = _merged(kinds, columns)
        return pick(self.vaddrs, numbers), pick(self.codes, numbers), new

    def _turned(self, kind: int, numbers: "Sequence[int]", state: State) -> list[bytes]:
        """The bytes in `state` of sites of one kind."""
        if kind:
            return self._ways[kind - 1].turned(pick(self.vaddrs, numbers), state)
        ways = [(self._alone[number].way, self.vaddrs[number]) for number in numbers]
        return [code for way, vaddr in ways if way for code in way.turned([vaddr], state)]

    def _kinds_of(self, numbers: "Sequence[int]") -> bytes:
        if len(numbers) == len(self):
            return bytes(self._kinds)
        return bytes([self._kinds[number] for number in numbers])

    def _is_alone(self, number: int) -> bool:
        return not self._kinds[number]

    # --- decoding -----------------------------------------------------------------------------

    def alone(self, number: int) -> Found:
        """What stands at a site, by a look at it alone."""
        vaddr = self.vaddrs[number]
        return self._decoder.decode(vaddr, *self._code.around(vaddr))

    def _decode(self, numbers: "Sequence[int]", start: int, text: bytes) -> None:
        """Decode the sites that are in `text`, whose first byte is at `start`."""
        for kind in range(1, len(self._ways) + 1):
            numbers = self._compare(kind, numbers, start, text)
        while numbers:
            numbers = self._decode_alone(numbers, start, text)

    def _compare(
        self, kind: int, numbers: "Sequence[int]", start: int, text: bytes
    ) -> "Sequence[int]":
        """Find the sites that stand in a known way; the numbers of the others."""
        if not numbers:
            return numbers
        vaddrs, way = pick(self.vaddrs, numbers), self._ways[kind - 1]
        if not way.reaches(vaddrs):
            return numbers
        codes = way.turned(vaddrs, way.state)
        alike = list(map(text.startswith, codes, map(sub, vaddrs, repeat(start))))
        if isinstance(numbers, range) and all(alike):
            self.codes[numbers.start : numbers.stop] = codes
            self._kinds[numbers.start : numbers.stop] = bytes((kind,)) * len(numbers)
            return ()
        for number, code in compress(zip(numbers, codes, strict=True), alike):
            self.codes[number] = code
            self._kinds[number] = kind
        return [number for number, is_so in zip(numbers, alike, strict=True) if not is_so]

    def _decode_alone(self, numbers: "Sequence[int]", start: int, text: bytes) -> "Sequence[int]":
        """Decode site by site up to one with which the rest can be compared; those left."""
        for done, number in enumerate(numbers):
            found = self.alone(number)
            way = self._decoder.way_for_many(found)
            if way is not None and len(self._ways) < MOST_WAYS:
                self._ways.append(way)
                return self._compare(len(self._ways), numbers[done:], start, text)
            self._alone[number] = found
            self.codes[number] = found.code
        return ()


class Image:
    """The table of one linked file.

    `dead` counts entries of 0 or -1, which linkers leave for code they dropped; `repeated` counts
    entries beyond the first for one address, which identical code folding leaves. `targets` are
    the link-time virtual addresses of code, and `slots` those of GOT slots, through which mcount
    is reached, with its name.
    """

    __slots__ = ("path", "machine", "sites", "dead", "repeated", "targets", "slots")

    def __init__(
        self, obj: "Object", sites: Sites, dead: int, repeated: int, targets: Targets
    ) -> None:
        self.path = obj.path
        self.machine = obj.machine
        self.sites = sites
        self.dead = dead
        self.repeated = repeated
        self.targets = targets.code
        self.slots = targets.slots


def read(obj: "Object", extra_names: "Sequence[str]" = ()) -> Image:
    """The sites of an executable or a shared object.

    `extra_names` are further names of mcount, as given to gcc's -mfentry-name. Raises FormatError
    where there is no table, or an entry names no code that is loaded from the file.
    """
    view = LoadView(obj)
    if not obj.headers:
        raise FormatError(obj.path, "no section headers, by which a table is found")
    tables = [obj.section(index) for index in obj.named(mcount_loc.NAME)]
    if not tables:
        raise FormatError(obj.path, f"no {mcount_loc.NAME.decode()} table")
    names = [name.encode("utf-8", "surrogateescape") for name in (*x86.MCOUNT_NAMES, *extra_names)]
    gots = [obj.section(index) for name in (b".got", b".got.plt") for index in obj.named(name)]
    words = Words(view, [*tables, *gots], names)
    targets = Targets(view, words, gots, names)
    entries = sorted(chain.from_iterable(map(words.entries, tables)))
    live = entries[bisect_right(entries, 0) : bisect_left(entries, obj.layout.highest)]
    distinct = live if all(map(lt, live, live[1:])) else sorted(set(live))
    functions = Functions(obj)
    decoder = Decoder(obj, targets, functions, words.in_code)
    sites = Sites(distinct, Code(view), functions, decoder)
    return Image(obj, sites, len(entries) - len(live), len(live) - len(distinct), targets)


def odd_entries(dead: int, repeated: int) -> list[str]:
    """`1 dead entry`, `2 repeated entries`, if there are any, for people."""
    return [
        f"{number} {what} {'entry' if number == 1 else 'entries'}"
        for number, what in ((dead, "dead"), (repeated, "repeated"))
        if number
    ]


def _merged(kinds: bytes, columns: dict[int, list[bytes]]) -> list[bytes]:
    """One column of several: each value from the column of its kind, in order."""
    each = {kind: iter(column) for kind, column in columns.items()}
    return [next(each[kind]) for kind in kinds]


class Code:
    """The bytes of the executable sections, by link-time virtual address."""

    def __init__(self, view: LoadView) -> None:
        self._view = view
        self._sections = _code_sections(view.obj)
        self._starts = [section.vaddr for section in self._sections]

    def pieces(self, vaddrs: list[int]) -> "Iterator[tuple[range, int, bytes]]":
        """All `vaddrs`, which ascend, in groups: (their indices, an address, the bytes from there).

        Behind the last of a group there are x86.LONGEST_SITE bytes, or less where a section ends.
        Raises FormatError where one is not in code that is loaded from the file.
        """
        first = 0
        while first < len(vaddrs):
            start = vaddrs[first]
            section = self._section(start)
            end = min(start + PIECE, section.vaddr + section.size)
            end = min([end, *self._starts[bisect_right(self._starts, start) :][:1]])
            last = bisect_left(vaddrs, end, first)
            if not self._is_loaded(section, start, end):
                for vaddr in vaddrs[first:last]:
                    self.place(vaddr)
            size = min(end + x86.LONGEST_SITE, section.vaddr + section.size) - start
            what = f"section {section.index}"
            yield (
                range(first, last), start,
                self._view.obj.read(section.offset + start - section.vaddr, size, what),
            )  # fmt: skip
            first = last

    def around(self, vaddr: int) -> tuple[bytes, bytes]:
        """(ENDBR_SIZE bytes before, x86.LONGEST_SITE at `vaddr`), less where a section ends."""
        section = self._section(vaddr)
        at = vaddr - section.vaddr
        before = min(at, ENDBR_SIZE)
        size = min(x86.LONGEST_SITE, section.size - at)
        what = f"section {section.index}"
        content = self._view.obj.read(section.offset + at - before, before + size, what)
        return content[:before], content[before:]

    def place(self, vaddr: int) -> tuple[str, int]:
        """(section name, file offset) of `vaddr`."""
        section = self._section(vaddr)
        offset = section.offset + vaddr - section.vaddr
        if self._view.file_offset(vaddr, 1, executable=True) != offset:
            raise FormatError(
                self._view.obj.path,
                f"entry {vaddr:#x} is not in code that is loaded from the file",
                mcount_loc.NAME.decode(),
            )
        return section.name, offset

    def _section(self, vaddr: int) -> "Section":
        number = bisect_right(self._starts, vaddr) - 1
        section = self._sections[number] if number >= 0 else None
        if section is None or vaddr >= section.vaddr + section.size:
            raise FormatError(
                self._view.obj.path, f"entry {vaddr:#x} is not in an executable section",
                mcount_loc.NAME.decode(),
            )  # fmt: skip
        return section

    def _is_loaded(self, section: "Section", start: int, end: int) -> bool:
        """Whether all bytes from `start` to before `end` are loaded as code, by one segment."""
        offset = section.offset + start - section.vaddr
        return self._view.file_offset(start, end - start, executable=True) == offset


def _code_sections(obj: "Object") -> "list[Section]":
    flags = elf.SHF_ALLOC | elf.SHF_EXECINSTR
    sections = [
        obj.section(index)
        for index, header in enumerate(obj.headers)
        if header[elf.SH_FLAGS] & flags == flags
        and header[elf.SH_TYPE] != elf.SHT_NOBITS
        and header[elf.SH_SIZE]
    ]
    return sorted(sections, key=lambda section: section.vaddr)
