"""A read-only, bounds-checked model of an ELF file: 32 and 64 bit, REL and RELA, any section count.

Nothing is trusted: every offset, size and index is compared with what contains it before it is
used, and anything that does not fit is a `FormatError`. Only what is asked for is read, because
an object is mostly debug information and a build has thousands of objects.

Field names and numbers are those of the System V gABI (chapters "Object Files", "Sections",
"Symbol Table", "Relocation"), with SHF_/SHT_ extensions of GNU and LLVM where they are marked.
"""

from _operator import itemgetter
from _struct import Struct, unpack
from itertools import pairwise
from sys import byteorder

from recordmcount.columns import Relocations, pick, picked, positions, shifted
from recordmcount.errors import FormatError, UnrecognizedError
from recordmcount.x86 import EM_386, EM_X86_64

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any, Final, TypeVar

    Value = TypeVar("Value")
    # (section offset, type, symbol index, addend); the addend of a REL entry is None: in place.
    Relocation = tuple[int, int, int, int | None]
    # By ST_NAME and so on.
    RawSymbol = tuple[int, int, int, int, int, int]

# Numbers are Final, so that mypyc puts them in the place of their names.

# Headers stay tuples, as `struct` unpacks them, for most are never looked at. These are the places
# of their fields: of the ELF header,
E_IDENT: "Final" = 0
E_TYPE: "Final" = 1
E_MACHINE: "Final" = 2
E_VERSION: "Final" = 3
E_ENTRY: "Final" = 4
E_PHOFF: "Final" = 5
E_SHOFF: "Final" = 6
E_FLAGS: "Final" = 7
E_EHSIZE: "Final" = 8
E_PHENTSIZE: "Final" = 9
E_PHNUM: "Final" = 10
E_SHENTSIZE: "Final" = 11
E_SHNUM: "Final" = 12
E_SHSTRNDX: "Final" = 13
# of a section header,
SH_NAME: "Final" = 0
SH_TYPE: "Final" = 1
SH_FLAGS: "Final" = 2
SH_ADDR: "Final" = 3
SH_OFFSET: "Final" = 4
SH_SIZE: "Final" = 5
SH_LINK: "Final" = 6
SH_INFO: "Final" = 7
SH_ADDRALIGN: "Final" = 8
SH_ENTSIZE: "Final" = 9
TYPE_AT: "Final" = 4  # offset of sh_type in a section header, in bytes
# and of a symbol as `Object.raw_symbol` gives it.
ST_NAME: "Final" = 0
ST_VALUE: "Final" = 1
ST_SIZE: "Final" = 2
ST_INFO: "Final" = 3
ST_OTHER: "Final" = 4
ST_SHNDX: "Final" = 5

MAGIC = b"\x7fELF"
SIGNATURE = b"~Module signature appended~\n"  # Linux: include/linux/module_signature.h
ELFCLASS32: "Final" = 1
ELFCLASS64: "Final" = 2
ELFDATA2LSB: "Final" = 1
ET_REL: "Final" = 1
ET_EXEC: "Final" = 2
ET_DYN: "Final" = 3

SHN_UNDEF: "Final" = 0
SHN_LORESERVE: "Final" = 0xFF00
SHN_COMMON: "Final" = 0xFFF2
SHN_XINDEX: "Final" = 0xFFFF

SHT_NULL: "Final" = 0
SHT_PROGBITS: "Final" = 1
SHT_SYMTAB: "Final" = 2
SHT_STRTAB: "Final" = 3
SHT_RELA: "Final" = 4
SHT_NOTE: "Final" = 7
SHT_NOBITS: "Final" = 8
SHT_REL: "Final" = 9
SHT_DYNSYM: "Final" = 11
SHT_GROUP: "Final" = 17
SHT_SYMTAB_SHNDX: "Final" = 18
SHT_CREL: "Final" = 0x40000014  # LLVM 20, compact relocations
SHT_LLVM_ADDRSIG: "Final" = 0x6FFF4C03
SHT_LLVM_CALL_GRAPH_PROFILE_INDICES: "Final" = 0x6FFF4C02  # before LLVM 13: symbol indices inside
SHT_LLVM_CALL_GRAPH_PROFILE: "Final" = 0x6FFF4C09

SHF_WRITE: "Final" = 0x1
SHF_ALLOC: "Final" = 0x2
SHF_EXECINSTR: "Final" = 0x4
SHF_LINK_ORDER: "Final" = 0x80
SHF_GROUP: "Final" = 0x200
SHF_TLS: "Final" = 0x400
SHF_COMPRESSED: "Final" = 0x800

STB_LOCAL: "Final" = 0
STB_GLOBAL: "Final" = 1
STB_WEAK: "Final" = 2
STB_GNU_UNIQUE: "Final" = 10
STT_NOTYPE: "Final" = 0
STT_FUNC: "Final" = 2
STT_SECTION: "Final" = 3
STT_FILE: "Final" = 4
STT_TLS: "Final" = 6
STT_GNU_IFUNC: "Final" = 10

# Relocations are searched in pieces of this many entries: memory stays small and in the cache.
CHUNK = 16384
# String tables are searched in pieces of this many bytes.
STRINGS = 1 << 19
# How many times a file's size may be read from it; recording a sound object takes less than four.
READINGS = 8
# How many times its size may be told of it, in characters, and what may be told of any file.
TELLINGS, LEAST = 10, 1 << 16
# Characters of a row about one site but for its names, and those that one may be spelled by.
ROW, LONGEST_SPELLING = 170, 6
# How objects of gcc -flto become one that has its code for good.
JOIN_LTO = "join the objects with gcc -flto -flinker-output=nolto-rel -r"


class Layout:
    """Where the fields of one ELF class lie. Two exist: `ELF32` and `ELF64`."""

    __slots__ = (
        "is_64", "word", "highest", "ehdr", "shdr", "sym", "sym_fields", "sym_value", "sym_info",
        "sym_shndx", "rel", "rela", "symbol_shift", "last_symbol", "info_symbol",
    )  # fmt: skip

    def __init__(self, is_64: bool) -> None:
        self.is_64 = is_64
        self.word = 8 if is_64 else 4
        self.highest = (1 << 8 * self.word) - 1  # address
        self.ehdr = Struct("<16sHHIQQQIHHHHHH" if is_64 else "<16sHHIIIIIHHHHHH")
        self.shdr = Struct("<IIQQQQIIQQ" if is_64 else "<10I")
        self.sym = Struct("<IBBHQQ" if is_64 else "<IIIBBH")
        # What `sym` unpacks, in the order of ST_NAME and so on.
        self.sym_fields = itemgetter(*((0, 4, 5, 1, 2, 3) if is_64 else range(6)))
        self.sym_value = 8 if is_64 else 4  # offset of st_value in a symbol
        self.sym_info = 4 if is_64 else 12  # of st_info
        self.sym_shndx = 6 if is_64 else 14  # of st_shndx
        # r_offset, r_info, r_addend; r_info is symbol << symbol_shift | type.
        self.rel = Struct("<QQ" if is_64 else "<II")
        self.rela = Struct("<QQq" if is_64 else "<IIi")
        self.symbol_shift = 32 if is_64 else 8
        self.last_symbol = 0xFFFFFFFF if is_64 else 0xFFFFFF  # that r_info has room for
        self.info_symbol = 12 if is_64 else 5  # offset of the symbol's lowest byte in an entry

    def info(self, symbol: int, relocation_type: int) -> int:
        """Return r_info, for a symbol that it has room for."""
        return symbol << self.symbol_shift | relocation_type

    def symbol_of(self, info: int) -> int:
        """Return ELF_R_SYM."""
        return info >> self.symbol_shift & self.last_symbol

    def type_of(self, info: int) -> int:
        """Return ELF_R_TYPE."""
        return info & (0xFFFFFFFF if self.is_64 else 0xFF)

    def words(self, content: bytes) -> "Sequence[int]":
        """View `content` as signed little-endian words, without a copy where that can be."""
        if byteorder == "little":
            return memoryview(content).cast("q" if self.is_64 else "i")
        return unpack(f"<{len(content) // self.word}{'q' if self.is_64 else 'i'}", content)

    def column(self, content: bytes, place: int, size: int) -> list[int]:
        """Return the signed word at byte `place` of each entry, which are of `size` bytes."""
        words = self.words(content)[place // self.word :: size // self.word]
        return words.tolist() if isinstance(words, memoryview) else list(words)


ELF32 = Layout(is_64=False)
ELF64 = Layout(is_64=True)


class Section:
    """One section header by the names of the gABI; `offset` is a file offset, sizes are bytes."""

    __slots__ = (
        "index", "name", "type", "flags", "vaddr", "offset", "size", "link", "info", "addralign",
        "entsize",
    )  # fmt: skip

    def __init__(self, index: int, name: str, header: tuple[int, ...]) -> None:
        self.index = index
        self.name = name
        (_, self.type, self.flags, self.vaddr, self.offset, self.size, self.link, self.info,
         self.addralign, self.entsize) = header  # fmt: skip


class Extent:
    """`size` bytes at `offset`, of the section of this index; of the headers `what` if None.

    `offset` is a file offset, unless it is told otherwise.
    """

    __slots__ = ("offset", "size", "section", "what")

    def __init__(self, offset: int, size: int, section: "int | None", what: str = "") -> None:
        self.offset = offset
        self.size = size
        self.section = section
        self.what = what

    def __str__(self) -> str:
        return self.what or f"section {self.section}"


class Budget:
    """What a file may cost, in proportion to its size: what is read of it, and what is told of it.

    A sound file needs far less. A hostile one has sections that overlap, or one long name that is
    told again and again. Whoever repeats what a file says pays here first. The file `path` has
    `size` bytes; members of an archive share the archive's budget.
    """

    __slots__ = ("_path", "_reading", "_telling")

    def __init__(self, path: str, size: int) -> None:
        self._path = path
        self._reading = READINGS * size
        self._telling = TELLINGS * size + LEAST

    def reads(self, size: int) -> bool:
        """Count bytes that are to be read; False if those are too many."""
        self._reading -= size
        return self._reading >= 0

    def tell(self, *texts: str, more: int = 0) -> None:
        """Count what is to be told: texts, and `more` characters. Raises FormatError."""
        whole = "".join(texts)  # nearly always plain, and then one look is enough
        is_plain = whole.isascii() and whole.isprintable()
        self._telling -= more + (len(whole) if is_plain else sum(map(_spelled, texts)))
        if self._telling < 0:
            raise FormatError(
                self._path, f"more than {TELLINGS} times its size would be told of it"
            )


class Object:
    """An ELF file for x86: `read(offset, size)` must give exactly those bytes or raise.

    Attributes: `path`, `size` (bytes), `layout`, `type` (e_type), `machine` (e_machine),
    `shoff` (e_shoff), `shstrndx`; `header` and `header_table`, the bytes of the ELF header and of
    the section headers; `headers`, the latter as tuples in the order of `Layout.shdr`.

    Raises UnrecognizedError for what is not x86 ELF, FormatError for what is broken.
    """

    __slots__ = (
        "path", "size", "layout", "type", "machine", "shoff", "shstrndx", "header",
        "header_table", "headers", "_read", "budget", "_names", "_symtab", "_symbols",
        "_strings", "_shndx", "_once",
    )  # fmt: skip

    def __init__(
        self,
        path: str,
        size: int,
        read: "Callable[[int, int], bytes]",
        budget: Budget | None = None,
    ) -> None:
        self.path = path
        self.size = size
        self._read = read
        self.budget = budget or Budget(path, size)
        self._symtab: int | None = None
        self._symbols: bytes | None = None
        self._strings: bytes | None = None
        self._shndx: bytes | None = None
        self._once: dict[Callable[[Object], Any], Any] = {}
        self.header, self.layout = self._read_header()
        fields = self.layout.ehdr.unpack(self.header)
        self.type: int = fields[E_TYPE]
        self.machine: int = fields[E_MACHINE]
        self.shoff: int = fields[E_SHOFF]
        self._check_machine()
        self.header_table, self.shstrndx = self._read_sections(fields)
        self.headers = list(self.layout.shdr.iter_unpack(self.header_table))
        self._names = b"\0"
        if self.shstrndx:
            self._names = self._section_names()

    def once(self, make: "Callable[[Object], Value]") -> "Value":
        """Return `make(self)`, made when it is first asked for and kept with the object."""
        if make not in self._once:
            self._once[make] = make(self)
        kept: Value = self._once[make]
        return kept

    def forget(self) -> None:
        """Let go of all that was made `once`: most of it knows the object again.

        Only Python's collector would find such circles, and programs run without it.
        """
        self._once.clear()

    # --- reading ------------------------------------------------------------------------------

    def read(self, offset: int, size: int, what: str) -> bytes:
        """Read `size` bytes at file offset `offset`; FormatError if they are not all in the file.

        Sections of a sound file do not overlap, so nobody has to read much more than it has.
        """
        if offset + size > self.size:
            raise self._outside(offset, size, what)
        if not self.budget.reads(size):
            raise self._overlap()
        data = self._read(offset, size)
        if len(data) != size:
            raise FormatError(self.path, "the file shrank while it was read")
        return data

    def raw(self, offset: int, size: int) -> bytes:
        """Read up to `size` bytes at file offset `offset` for another reader, without a budget."""
        return self._read(offset, size)

    def _overlap(self) -> FormatError:
        """Say why so much is read: which sections overlap, if any."""
        try:
            self.extents()
        except FormatError as error:
            return error
        return FormatError(self.path, f"more than {READINGS} times its size would be read of it")

    def _outside(self, offset: int, size: int, what: str) -> FormatError:
        what = f"{what} at {offset:#x}, {size:#x} bytes, is outside the file"
        return FormatError(self.path, what)

    def _read_header(self) -> tuple[bytes, Layout]:
        ident = self.read(0, min(self.size, 64), "the ELF header")
        if not ident.startswith(MAGIC):
            raise unrecognized(self.path, ident, "not an ELF file")
        if ident[5:6] != bytes([ELFDATA2LSB]):
            raise unrecognized(self.path, ident, "not for x86")
        if ident[4] not in (ELFCLASS32, ELFCLASS64):
            raise FormatError(self.path, f"unrecognized ELF class {ident[4]}")
        layout = ELF64 if ident[4] == ELFCLASS64 else ELF32
        if len(ident) < layout.ehdr.size:
            raise FormatError(self.path, "the ELF header is truncated")
        return ident[: layout.ehdr.size], layout

    def _check_machine(self) -> None:
        if self.machine != EM_X86_64 and (self.machine != EM_386 or self.layout.is_64):
            compatible = f"unrecognized e_machine {self.machine} {self.path}"
            raise UnrecognizedError(self.path, "not for x86", compatible)

    def _read_sections(self, fields: tuple[int, ...]) -> tuple[bytes, int]:
        shoff, shentsize = fields[E_SHOFF], fields[E_SHENTSIZE]
        shnum, shstrndx = fields[E_SHNUM], fields[E_SHSTRNDX]
        shdr = self.layout.shdr
        if not shoff:
            return b"", 0
        if shentsize != shdr.size:
            raise FormatError(self.path, f"e_shentsize is {shentsize}, not {shdr.size}")
        if shnum == 0 or shstrndx == SHN_XINDEX:  # gABI "Extended section numbering"
            first = shdr.unpack(self.read(shoff, shdr.size, "the section header table"))
            shnum = shnum or first[SH_SIZE]
            shstrndx = first[SH_LINK] if shstrndx == SHN_XINDEX else shstrndx
        table = self.read(shoff, shnum * shdr.size, "the section header table")
        if shnum and shstrndx >= shnum:
            raise FormatError(self.path, f"e_shstrndx {shstrndx} names no section")
        return table, shstrndx

    # --- sections -----------------------------------------------------------------------------

    def _section_names(self) -> bytes:
        names = self._string_table(self.shstrndx)
        if max(map(itemgetter(SH_NAME), self.headers)) >= len(names):
            raise FormatError(self.path, "a section's name is outside the section name table")
        return names

    def section(self, index: int) -> Section:
        """Return section `index`; FormatError where there is none."""
        if not 0 <= index < len(self.headers):
            raise FormatError(self.path, f"there is no section {index}")
        return Section(index, self.section_name(index), self.headers[index])

    def section_name(self, index: int) -> str:
        """Return the name of a section that there is."""
        return string_at(self._names, self.headers[index][SH_NAME])

    def named(self, name: bytes) -> list[int]:
        """Return the indices of all sections of exactly this name."""
        places = string_places(self._names, name)
        if not places:
            return []
        return [i for i, header in enumerate(self.headers) if header[SH_NAME] in places]

    def of_type(self, *types: int) -> list[int]:
        """Return the indices of all sections of these types, in file order."""
        # The lowest byte of each sh_type tells them from most others.
        lowest = self.header_table[TYPE_AT :: self.layout.shdr.size]
        likely = positions(lowest, {each & 0xFF for each in types})
        return [index for index in likely if self.headers[index][SH_TYPE] in types]

    def content(self, index: int) -> bytes:
        """Return the bytes of section `index` (none for SHT_NOBITS)."""
        section = self.section(index)
        if section.type == SHT_NOBITS:
            return b""
        self.require_plain(index)
        return self.read(section.offset, section.size, f"section {index}")

    def require_plain(self, index: int) -> None:
        """Raise FormatError if what stands in section `index` is not its contents but a packing.

        (gABI, SHF_COMPRESSED. Tools compress debug information, which nobody here looks at.)
        """
        if self.headers[index][SH_FLAGS] & SHF_COMPRESSED:
            name = self.section(index).name or f"section {index}"
            raise FormatError(self.path, "compressed: decompress it first", name)

    def _string_table(self, index: int) -> bytes:
        offset, size = self._string_table_extent(index)
        table = self.read(offset, size, f"string table {index}")
        self._require_end(index, table)
        return table

    def _require_end(self, index: int, last: bytes) -> None:
        """Raise FormatError if these last bytes of string table `index` leave a string open."""
        if last[-1:] > b"\0":
            raise FormatError(self.path, f"string table {index} does not end in NUL")

    def _string_table_extent(self, index: int) -> tuple[int, int]:
        """Return (file offset, size in bytes) of a string table, of which nothing is read."""
        if self.section_type(index) != SHT_STRTAB:
            raise FormatError(self.path, f"section {index} is no string table")
        self.require_plain(index)
        header = self.headers[index]
        offset, size = header[SH_OFFSET], header[SH_SIZE]
        if offset + size > self.size:
            raise self._outside(offset, size, f"string table {index}")
        return offset, size

    def section_type(self, index: int) -> int:
        """Return sh_type of section `index`, or 0 (SHT_NULL) where there is no such section."""
        return self.headers[index][SH_TYPE] if 0 <= index < len(self.headers) else 0

    @property
    def section_names(self) -> bytes:
        """The section name string table."""
        return self._names

    def refuse_without_code(self) -> None:
        """Raise FormatError for a file whose code is elsewhere: silence would lose its sites.

        For one of `objcopy --only-keep-debug`, which leaves sections without their contents. And
        for an object of gcc -flto without -ffat-lto-objects, which has no code yet:
        `.gnu.lto_.lto.*` holds versions (2 + 2 bytes) and the slim flag (gcc/lto-streamer.h,
        struct lto_section, since gcc 10).
        """
        is_without = False
        for header in self.headers:
            if header[SH_FLAGS] & SHF_EXECINSTR:
                is_without = header[SH_TYPE] == SHT_NOBITS
                if not is_without:  # nearly always the first
                    break
        if is_without:
            what = "a file of debug information alone: the code is in the file it was taken from"
            raise FormatError(self.path, what)
        prefix = b".gnu.lto_.lto."
        if prefix not in self._names:
            return
        for index, header in enumerate(self.headers):
            named_so = self._names.startswith(prefix, header[SH_NAME])
            if named_so and self.content(index)[4:5] == b"\1":
                raise FormatError(
                    self.path, f"a slim LTO object without code: {JOIN_LTO}, and record the result"
                )

    @property
    def has_lto(self) -> bool:
        """Whether there are sections of intermediate code, as gcc or clang leave them."""
        return b".gnu.lto_" in self._names or b".llvm.lto" in self._names

    @property
    def is_signed(self) -> bool:
        """Whether the file ends with the mark behind a kernel module's signature."""
        size = len(SIGNATURE)
        return self.size > size and self.read(self.size - size, size, "the end") == SIGNATURE

    def extents(self) -> list[Extent]:
        """List which bytes are whose: those of the headers and of each section, by file offset.

        Whoever edits a file in place asks here first. Where two sections overlap, an edit of one is
        an edit of both; where one lies over a header, of what all others are found by. Raises
        FormatError then. Empty ones are left out, and the section that is the program headers
        (record.image_plan).
        """
        fields = self.layout.ehdr.unpack(self.header)
        segments = fields[E_PHNUM] * fields[E_PHENTSIZE]
        extents = [
            Extent(0, len(self.header), None, "the ELF header"),
            Extent(fields[E_PHOFF], segments, None, "the program headers"),
            Extent(self.shoff, len(self.header_table), None, "the section headers"),
        ]
        for index, header in enumerate(self.headers):
            place = header[SH_OFFSET], header[SH_SIZE]
            if header[SH_TYPE] in (SHT_NULL, SHT_NOBITS) or place == (fields[E_PHOFF], segments):
                continue
            extents.append(Extent(*place, index))
        return self._apart(extents, "file offset")

    def loaded_extents(self) -> list[Extent]:
        """List which link-time virtual addresses are whose, as `extents` does; not those of TLS."""
        return self._apart(
            [
                Extent(header[SH_ADDR], header[SH_SIZE], index)
                for index, header in enumerate(self.headers)
                if header[SH_FLAGS] & SHF_ALLOC
                and not (header[SH_FLAGS] & SHF_TLS and header[SH_TYPE] == SHT_NOBITS)
            ],
            "address",
        )

    def _apart(self, extents: list[Extent], where: str) -> list[Extent]:
        """Sort those that are not empty; FormatError where two overlap."""
        found = [extent for extent in extents if extent.size]
        found.sort(key=lambda extent: extent.offset)
        for before, extent in pairwise(found):
            if extent.offset < before.offset + before.size:
                what = f"{before} and {extent} overlap at {where} {extent.offset:#x}"
                raise FormatError(self.path, what)
        return found

    # --- symbols ------------------------------------------------------------------------------

    @property
    def symtab(self) -> int | None:
        """The index of the SHT_SYMTAB section; None in a stripped file."""
        if self._symtab is None:
            tables = self.of_type(SHT_SYMTAB)
            if not tables:
                return None
            if len(tables) > 1:
                raise FormatError(self.path, "more than one symbol table")
            size, header = self.layout.sym.size, self.headers[tables[0]]
            if header[SH_ENTSIZE] != size:
                raise FormatError(self.path, "symbol table with an unknown entry size")
            if header[SH_SIZE] % size:
                raise FormatError(self.path, "the symbol table ends inside a symbol")
            self.require_plain(tables[0])
            self._symtab = tables[0]
        return self._symtab

    @property
    def symbol_bytes(self) -> bytes:
        """The symbol table's bytes; empty where there is none."""
        if self._symbols is None:
            symtab = self.symtab
            header = self.headers[symtab or 0]
            self._symbols = (
                b""
                if symtab is None
                else self.read(header[SH_OFFSET], header[SH_SIZE], f"section {symtab}")
            )
        return self._symbols

    @property
    def symbol_names(self) -> bytes:
        """The string table of the symbol table."""
        if self._strings is None:
            symtab = self.symtab
            self._strings = (
                b"" if symtab is None else self._string_table(self.headers[symtab][SH_LINK])
            )
        return self._strings

    @property
    def symbol_count(self) -> int:
        """How many symbols the table has, the null symbol counted."""
        if self.symtab is None:
            return 0
        size: int = self.headers[self.symtab][SH_SIZE]
        return size // self.layout.sym.size

    def require_nameable(self, symbol: int) -> None:
        """Raise FormatError if no relocation can name this symbol."""
        if symbol > self.layout.last_symbol:  # ELF64 has room for all there could be
            raise FormatError(
                self.path,
                f"symbol {symbol} would have to be named, and relocations of ELF32 name none "
                f"beyond {self.layout.last_symbol}",
            )

    def _symbol_pieces(self) -> "Iterator[tuple[int, bytes]]":
        """Yield (index of the first, bytes) of CHUNK symbols at a time: most need but the first."""
        size, total = self.layout.sym.size, self.symbol_count
        if total <= CHUNK and total:
            yield 0, self.symbol_bytes
            return
        for first in range(0, total, CHUNK):
            count = min(CHUNK, total - first)
            start = self.headers[self.symtab or 0][SH_OFFSET] + first * size
            yield first, self.read(start, count * size, f"section {self.symtab}")

    def symbols_named(self, names: "Iterable[bytes]") -> frozenset[int]:
        """Return the indices of all symbols that have one of these names, in any version of it."""
        return frozenset(self.symbols_with_names(names))

    def symbols_with_names(self, names: "Iterable[bytes]") -> dict[int, bytes]:
        """Map the indices of all symbols that have one of these names, in any version, to it."""
        places = self._name_places(names)
        if not places:
            return {}
        size = self.layout.sym.size
        patterns = {place.to_bytes(4, "little"): name for place, name in places.items()}  # st_name
        low_bytes = {pattern[0] for pattern in patterns}
        return {
            first + i: patterns[piece[i * size : i * size + 4]]
            for first, piece in self._symbol_pieces()
            for i in positions(piece[::size], low_bytes)
            if piece[i * size : i * size + 4] in patterns
        }

    def _name_places(self, names: "Iterable[bytes]") -> dict[int, bytes]:
        """Find where in the symbols' string table these names can be named."""
        places: dict[int, bytes] = {}
        if self.symtab is None:
            return places
        index = self.headers[self.symtab][SH_LINK]
        offset, size = self._string_table_extent(index)
        ordered = sorted(names, key=len)
        overlap = len(ordered[-1])
        piece = b""
        for start in range(0, size, STRINGS):
            length = min(STRINGS + overlap, size - start)
            piece = self.read(offset + start, length, "a string table")
            found = name_places(piece, ordered)
            places.update({start + at: name for at, name in found.items()} if start else found)
        self._require_end(index, piece)
        return places

    def raw_symbols(self) -> "Iterator[RawSymbol]":
        """Return every symbol in order as (name, value, size, info, other, shndx), shndx resolved.

        `name` is an offset into `symbol_names`; `value` of an ET_REL file is a section offset.
        """
        for first, piece in self._symbol_pieces():
            symbols = map(self.layout.sym_fields, self.layout.sym.iter_unpack(piece))
            for i, symbol in enumerate(symbols, first):
                if symbol[ST_SHNDX] >= SHN_LORESERVE:
                    yield (*symbol[:ST_SHNDX], self.section_of(i, symbol[ST_SHNDX]))
                else:
                    yield symbol

    def places(self, *types: int) -> "Iterator[tuple[int, int]]":
        """Yield (section, st_value) of the symbols of these types, whole columns at a time."""
        layout = self.layout
        size = layout.sym.size
        infos = {binding << 4 | each for binding in range(16) for each in types}
        for first, piece in self._symbol_pieces():
            numbers = positions(piece[layout.sym_info :: size], infos)
            values = pick(layout.column(piece, layout.sym_value, size), numbers)
            low = pick(piece[layout.sym_shndx :: size], numbers)
            high = pick(piece[layout.sym_shndx + 1 :: size], numbers)
            sections = [
                low_byte | high_byte << 8 for low_byte, high_byte in zip(low, high, strict=True)
            ]
            if max(sections, default=0) >= SHN_LORESERVE:
                sections = [
                    shndx if shndx < SHN_LORESERVE else self.section_of(first + number, shndx)
                    for number, shndx in zip(numbers, sections, strict=True)
                ]
            yield from zip(sections, map(layout.highest.__and__, values), strict=True)

    def raw_symbol(self, index: int) -> "RawSymbol":
        """Give one symbol as `raw_symbols` does; FormatError where there is none of this index."""
        if index >= self.symbol_count:
            raise FormatError(self.path, f"there is no symbol {index}")
        sym = self.layout.sym
        if self._symbols is None and self.symtab is not None:
            start = self.headers[self.symtab][SH_OFFSET] + index * sym.size
            return self._raw_symbol(index, sym.unpack(self.read(start, sym.size, "a symbol")))
        return self._raw_symbol(index, sym.unpack_from(self.symbol_bytes, index * sym.size))

    def _raw_symbol(self, index: int, fields: "tuple[int, ...]") -> "RawSymbol":
        name, value, size, info, other, shndx = self.layout.sym_fields(fields)
        if shndx >= SHN_LORESERVE:
            shndx = self.section_of(index, shndx)
        return name, value, size, info, other, shndx

    def section_of(self, symbol: int, shndx: int) -> int:
        """Resolve a reserved st_shndx of a symbol in the symbol table to a section index.

        All but SHN_XINDEX (SHN_ABS, SHN_COMMON, ...) say that no section holds it: SHN_UNDEF.
        """
        return self._extended_shndx(symbol) if shndx == SHN_XINDEX else SHN_UNDEF

    def _extended_shndx(self, symbol: int) -> int:
        if self._shndx is None:
            tables = self.of_type(SHT_SYMTAB_SHNDX)
            ours = [index for index in tables if self.headers[index][SH_LINK] == self.symtab]
            if not ours:
                raise FormatError(self.path, f"the section of symbol {symbol} is nowhere named")
            self._shndx = self.extended_shndx(ours[0])
        return int.from_bytes(self._shndx[4 * symbol : 4 * symbol + 4], "little")

    def extended_shndx(self, index: int) -> bytes:
        """Return the contents of SHT_SYMTAB_SHNDX section `index`, 4 bytes for each symbol."""
        content = self.content(index)
        if len(content) != 4 * self.symbol_count:
            raise FormatError(self.path, f"section {index} is not one word for each symbol")
        return content

    # --- relocations --------------------------------------------------------------------------

    def relocation_pieces(self, index: int) -> range:
        """Number the pieces, CHUNK entries each, of relocation section `index`.

        Piece by piece the work stays in the processor's cache, and can be shared.
        """
        entry, _, size = self._relocation_section(index)
        return range(-(-size // (CHUNK * entry.size)))

    def relocations_naming(
        self, index: int, symbols: frozenset[int], pieces: range | None = None
    ) -> "Iterator[Relocations]":
        """Yield the relocations in `pieces` of section `index` that name one of `symbols`.

        Without `pieces`, those in all of it.
        """
        layout = self.layout
        low_bytes = {symbol & 0xFF for symbol in symbols}
        entry, offset, size = self._relocation_section(index)
        width = entry.size // layout.word
        step = CHUNK * entry.size
        for start in range(0, size, step) if pieces is None else [step * each for each in pieces]:
            piece = self.read(offset + start, min(step, size - start), "a relocation section")
            # The column of the symbols' lowest bytes gives the candidates.
            numbers = positions(piece[layout.info_symbol :: entry.size], low_bytes)
            if not numbers:
                continue
            words = layout.words(piece)
            columns = picked([words[at::width] for at in range(width)], numbers)
            addends = columns[2] if width == 3 else None
            first = start // entry.size
            found = Relocations(shifted(numbers, -first), columns[0], columns[1], addends)
            found = found.having(
                {info for info in found.distinct if layout.symbol_of(info) in symbols}
            )
            if found.numbers:
                yield found

    def symbols_of_relocations(self, index: int) -> set[int]:
        """Return the symbol indices that relocations of section `index` name."""
        return set(map(self.layout.symbol_of, set(self._infos(index))))

    def relocation_symbols(self, index: int) -> list[int]:
        """Return the symbol index of each relocation of section `index`, in order."""
        return list(map(self.layout.symbol_of, self._infos(index)))

    def highest_symbol(self, index: int) -> int:
        """Return the highest symbol index that relocations of section `index` name; 0 of none."""
        infos = self._infos(index)
        # The symbol is the high part of r_info, here of a signed word.
        extremes = (max(infos), min(infos)) if infos else ()
        return max(map(self.layout.symbol_of, extremes), default=0)

    def _infos(self, index: int) -> list[int]:
        entry, offset, size = self._relocation_section(index)
        content = self.read(offset, size, f"relocation section {index}")
        return self.layout.column(content, self.layout.word, entry.size)

    def relocated(self, index: int, numbers: range) -> tuple[list[int], bytes]:
        """Read (section offsets, lowest bytes of the types) of some relocations of a section."""
        entry, offset, size = self._relocation_section(index)
        numbers = range(size // entry.size)[numbers.start : numbers.stop]
        content = self.read(
            offset + numbers.start * entry.size, len(numbers) * entry.size, "relocations"
        )
        offsets = self.layout.column(content, 0, entry.size)
        return offsets, content[self.layout.word :: entry.size]

    def relocations(self, index: int) -> "Iterator[Relocation]":
        """Return all relocations of section `index`, in file order."""
        entry, at, size = self._relocation_section(index)
        layout = self.layout
        content = self.read(at, size, f"relocation section {index}")
        for offset, info, *addend in entry.iter_unpack(content):
            yield (
                offset,
                layout.type_of(info),
                layout.symbol_of(info),
                addend[0] if addend else None,
            )

    def _relocation_section(self, index: int) -> tuple[Struct, int, int]:
        """Return (format of an entry, file offset, size in bytes) of a relocation section."""
        header = self.headers[index]
        offset, size = header[SH_OFFSET], header[SH_SIZE]
        entry = self.layout.rela if header[SH_TYPE] == SHT_RELA else self.layout.rel
        if header[SH_ENTSIZE] != entry.size or size % entry.size:
            raise FormatError(self.path, f"relocation section {index} has an unknown entry size")
        if header[SH_FLAGS] & SHF_COMPRESSED:
            self.require_plain(index)
        return entry, offset, size


def unrecognized(path: str, ident: bytes, what: str, advice: str = "") -> UnrecognizedError:
    """Make the error for a file that begins so. The kernel's tool looks at the encoding first."""
    encoding = ident[5] if len(ident) > 5 else 0
    if encoding == ELFDATA2LSB:
        return UnrecognizedError(path, what, f"unrecognized ET_REL file {path}", advice)
    compatible = f"unrecognized ELF data encoding {encoding}: {path}"
    return UnrecognizedError(path, what, compatible, advice)


def _spelled(text: str) -> int:
    """Tell how long a text is at most when it is spelled."""
    return len(text) if text.isascii() and text.isprintable() else LONGEST_SPELLING * len(text)


def in_place(content: bytes, field: int) -> int:
    """Return the addend of a REL relocation, which stands in the 4-byte field itself."""
    return int.from_bytes(content[field : field + 4], "little", signed=True)


def string_at(table: bytes, offset: int) -> str:
    """Return the string at `offset` of a string table; empty where the offset is outside of it."""
    end = table.find(b"\0", offset)
    return table[offset:end].decode("utf-8", "backslashreplace") if end >= 0 else ""


def string_places(table: bytes, name: bytes) -> set[int]:
    """Find at which offsets of a string table `name` stands, as a tail of longer names too."""
    return set(_places(table, name, b"\0"))


def name_places(table: bytes, names: "Iterable[bytes]") -> dict[int, bytes]:
    """Find at which offsets of a symbols' string table these names stand, the shortest first.

    A name ends before an `@`: assemblers and linkers append the version.
    """
    found: dict[int, bytes] = {}
    absent: tuple[bytes, ...] = ()
    for name in names:
        if not name.endswith(absent):  # where its tail is not, the name is not
            places = _places(table, name, b"\0@")
            if places:
                found.update(dict.fromkeys(places, name))
            else:
                absent += (name,)
    return found


def _places(table: bytes, string: bytes, ends: bytes) -> list[int]:
    """Find where `string` stands before one of the bytes `ends`."""
    places = []
    size = len(string)
    at = table.find(string, 0, -1)
    while at >= 0:
        if table[at + size] in ends:
            places.append(at)
        at = table.find(string, at + 1, -1)
    return places
