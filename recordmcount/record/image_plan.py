"""Plan a table for an image that is linked already: (image, addresses) -> a Plan. Pure.

No address moves, and no old byte of code or data changes. By default the table is a section that
is not loaded, for tools. A loaded one is in a segment of its own, behind all others in memory and
at the end of the file: the table; relocations, if there are; program headers, if they must move.
The rest is as for objects: section names, section headers, and the symbols of the table's bounds.
"""

from _struct import pack

from recordmcount import mcount_loc
from recordmcount.elf import object as elf
from recordmcount.elf.segments import LoadView
from recordmcount.errors import FormatError

from .dynamic import NewRelocations
from .new_sections import NewSections
from .plan import Plan, check_disjoint
from .program_headers import PF_R, PF_W, ProgramHeaders

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from recordmcount.elf.object import Object

GOT_SUFFIX = b"$got"
# A section over program headers that have moved.
PHDRS = b".phdrs"
START, STOP = b"__start_" + mcount_loc.NAME, b"__stop_" + mcount_loc.NAME
STV_PROTECTED = 3
SHT_RELR = 19


class ImagePlan(Plan):
    """A Plan for an image: `addresses` are the entries, link-time virtual addresses.

    `vaddr` is the table's own, None where it is not loaded; `relocated` tells whether its words
    have relocations, `rela` whether these have addends. `unbound` are the names of bounds that
    stay 0 where the program uses them, `warnings` lines for stderr. `headers_moved` tells whether
    the program headers stand elsewhere now, which a later strip does not bear.
    """

    __slots__ = ("addresses", "vaddr", "relocated", "rela", "unbound", "warnings", "headers_moved")

    def __init__(self, addresses: "Sequence[int]") -> None:
        super().__init__([], [])
        self.addresses = addresses
        self.vaddr: int | None = None
        self.relocated = False
        self.rela = False
        self.unbound: list[str] = []
        self.warnings: list[str] = []
        self.headers_moved = False


def make_plan(obj: "Object", addresses: "Sequence[int]", *, loaded: bool = False) -> ImagePlan:
    """Plan a table of `addresses`, ascending link-time virtual addresses, at least one.

    Raises FormatError where that cannot be done to the image.
    """
    if not obj.shstrndx:
        raise FormatError(obj.path, "there are no section headers, by which a table is found")
    view = LoadView(obj)
    _check_end(view)
    plan = ImagePlan(addresses)
    if loaded:
        _Loaded(view, plan).finish()
        return plan
    word = obj.layout.word
    new = NewSections(obj, mcount_loc.NAME, 1)
    new.add_section(0, (elf.SHT_PROGBITS, 0, 0, 0, word, word), words(obj, addresses))
    plan.header, plan.appended = new.finish()
    return plan


def words(obj: "Object", addresses: "Sequence[int]") -> bytes:
    """Return the bytes of a table of a linked file."""
    return pack(f"<{len(addresses)}{'Q' if obj.layout.is_64 else 'I'}", *addresses)


def _check_end(view: LoadView) -> None:
    """Refuse a file that goes on behind its ELF image: its program may look for that at the end."""
    obj = view.obj
    ends = [
        header[elf.SH_OFFSET] + header[elf.SH_SIZE]
        for header in obj.headers
        if header[elf.SH_TYPE] not in (elf.SHT_NULL, elf.SHT_NOBITS)
    ]
    ends += [segment.offset + segment.filesz for segment in view.segments]
    end = max(obj.shoff + len(obj.header_table), *ends)
    if end < obj.size and obj.read(end, obj.size - end, "the end").strip(b"\0"):
        what = f"{obj.size - end} bytes stand behind the image, and must stay at the end"
        raise FormatError(obj.path, what)


class _Loaded:
    """A table that is loaded, in the making: parts of a segment, one behind the other."""

    def __init__(self, view: LoadView, plan: ImagePlan) -> None:
        self._plan = plan
        self._obj = obj = view.obj
        if obj.type != elf.ET_EXEC and not view.dynamic:
            raise FormatError(obj.path, "no dynamic segment: nothing would relocate a table")
        self._moved: int | None = None  # section of relocations
        self._headers = ProgramHeaders(view)
        start = self._headers.vaddr
        stop = start + len(plan.addresses) * obj.layout.word
        self._bounds = {START: start, STOP: stop}
        slots = range(start, stop, obj.layout.word)
        words_of_bounds = dict(self._words_of_bounds(view))
        self._relocations = NewRelocations(
            view, slots, plan.addresses, self._bounds, words_of_bounds
        )
        self._undefined = self._find_undefined()
        plan.vaddr, plan.rela = start, self._relocations.is_rela
        plan.relocated = obj.type != elf.ET_EXEC

    def finish(self) -> None:
        """Complete the plan."""
        plan, obj, moved = self._plan, self._obj, self._headers.moved
        table, relocations = words(obj, plan.addresses), self._relocations.content
        size = len(table) + len(relocations) + (self._headers.size if moved else 0)
        offset, headers = self._headers.add(size, PF_R | (PF_W if plan.relocated else 0))
        plan.edits = self._relocations.edits(self._bounds[STOP])
        if not moved:
            plan.edits.append((offset, headers))
        plan.edits.sort()
        header, sections = self._sections(self._headers.start + size)
        fields = list(obj.layout.ehdr.unpack(header))
        fields[elf.E_PHOFF] = offset
        fields[elf.E_PHNUM] = len(headers) // fields[elf.E_PHENTSIZE]
        plan.header = obj.layout.ehdr.pack(*fields)
        gap = bytes(self._headers.start - obj.size)
        plan.appended = b"".join((gap, table, relocations, headers if moved else b"", sections))
        obj.extents()  # where sections overlap, an edit of one would change another
        check_disjoint(obj, plan.all_edits)
        plan.headers_moved = moved
        statically = self._undefined.keys() - self._relocations.found
        plan.unbound = sorted(name.decode() for name in statically | self._relocations.unknown)

    # --- sections and symbols -----------------------------------------------------------------

    def _sections(self, start: int) -> tuple[bytes, bytes]:
        """Return (the ELF header, the bytes from file offset `start` on) that describe it all."""
        obj, word = self._obj, self._obj.layout.word
        names = (mcount_loc.NAME, START, STOP, PHDRS)
        new = NewSections(obj, b"\0".join(names), 1 + self._headers.moved, start)
        flags = elf.SHF_ALLOC | (elf.SHF_WRITE if self._plan.relocated else 0)
        vaddr, size = self._bounds[START], self._bounds[STOP] - self._bounds[START]
        rest = (self._headers.start, size, 0, 0, word, word)
        index = new.add_header(0, (elf.SHT_PROGBITS, flags, vaddr, *rest))
        if self._headers.moved:  # tools keep of a segment what is in sections
            size = self._headers.size
            vaddr = self._bounds[STOP] + len(self._relocations.content)
            rest = (start - size, size, 0, 0, word, 0)
            name = sum(map(len, names[:-1])) + len(names) - 1
            new.add_header(name, (elf.SHT_PROGBITS, elf.SHF_ALLOC, vaddr, *rest))
        if self._relocations.content:
            self._move_relocations(new)
        if obj.symtab is not None:
            self._add_symbols(new, obj.symtab, index)
        return new.finish()

    def _move_relocations(self, new: NewSections) -> None:
        """Have the section of the relocations, if there is one, be where they are now."""
        types = (elf.SHT_RELA, elf.SHT_REL, SHT_RELR)
        for index in self._obj.of_type(*types):
            header = self._obj.headers[index]
            if (header[elf.SH_ADDR], header[elf.SH_SIZE]) == self._relocations.old:
                vaddr = self._bounds[STOP]
                offset = self._headers.start + vaddr - self._headers.vaddr
                size = len(self._relocations.content)
                new.change(index, {
                    elf.SH_ADDR: vaddr, elf.SH_OFFSET: offset, elf.SH_SIZE: size,
                })  # fmt: skip
                self._moved = index

    def _symbol(self, index: int) -> tuple[int, ...]:
        """Return a symbol's fields by ST_NAME and so on, as they stand in the symbol table."""
        sym = self._obj.layout.sym
        fields = sym.unpack_from(self._obj.symbol_bytes, index * sym.size)
        return tuple(self._obj.layout.sym_fields(fields))

    def _find_undefined(self) -> dict[bytes, int]:
        """Map names of bounds to their symbols; FormatError where the program has its own."""
        found = {}
        for name in self._bounds:
            for index in sorted(self._obj.symbols_named([name])):
                if self._symbol(index)[elf.ST_SHNDX] != elf.SHN_UNDEF:
                    what = f"{name.decode()} is defined, but there is no table"
                    raise FormatError(self._obj.path, what)
                found[name] = index
        return found

    def _words_of_bounds(self, view: LoadView) -> "Iterator[tuple[int, bytes]]":
        """Find the GOT slots for bounds that mold, which names them, has left 0 for good."""
        names = {bound + GOT_SUFFIX: bound for bound in self._bounds}
        for index in sorted(self._obj.symbols_named(names)):
            fields = self._symbol(index)
            name = elf.string_at(self._obj.symbol_names, fields[elf.ST_NAME]).encode()
            slot = fields[elf.ST_VALUE]
            if view.file_offset(slot, self._obj.layout.word) is not None and not view.word(slot):
                yield slot, names[name]

    def _add_symbols(self, new: NewSections, symtab: int, section: int) -> None:
        """Define the bounds: in their own symbols if there are any, else behind all others."""
        obj = self._obj
        if section >= elf.SHN_LORESERVE or obj.of_type(elf.SHT_SYMTAB_SHNDX):
            raise FormatError(obj.path, "too many sections")
        strings = obj.headers[symtab][elf.SH_LINK]
        size = obj.layout.sym.size
        table = bytearray(obj.symbol_bytes)
        names = obj.symbol_names + START + b"\0" + STOP + b"\0"
        name = len(obj.symbol_names)
        if strings == obj.shstrndx:
            name = len(obj.section_names) + len(mcount_loc.NAME) + 1
        else:
            new.replace_content(strings, names)
        if self._moved is not None:
            self._move_section_symbol(table, self._moved)
        for bound, value in self._bounds.items():
            old = self._undefined.get(bound)
            # mold makes them local, and local ones stand before all others.
            is_local = old is not None and self._symbol(old)[elf.ST_INFO] >> 4 == elf.STB_LOCAL
            binding = elf.STB_LOCAL if is_local else elf.STB_GLOBAL
            fields = (name, value, 0, binding << 4 | elf.STT_NOTYPE, STV_PROTECTED, section)
            at = len(table) if old is None else old * size
            table[at : at + size] = self._pack(fields)
            name += len(bound) + 1
        new.replace_content(symtab, bytes(table))

    def _move_section_symbol(self, table: bytearray, section: int) -> None:
        """Have the symbol of a section that has moved, if there is one, say where it is."""
        size = self._obj.layout.sym.size
        for index in range(len(table) // size):
            fields = self._symbol(index)
            if fields[elf.ST_INFO] >> 4 != elf.STB_LOCAL:
                break
            if fields[elf.ST_INFO] & 0xF == elf.STT_SECTION and fields[elf.ST_SHNDX] == section:
                moved = (fields[elf.ST_NAME], self._bounds[STOP], *fields[elf.ST_SIZE :])
                table[index * size : (index + 1) * size] = self._pack(moved)

    def _pack(self, fields: tuple[int, ...]) -> bytes:
        name, value, size, info, other, section = fields
        sym = self._obj.layout.sym
        if self._obj.layout.is_64:
            return sym.pack(name, info, other, section, value, size)
        return sym.pack(name, value, size, info, other, section)
