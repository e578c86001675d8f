r"""Write small relocatable ELF objects from a description, for tests.

    elf = build(
        X86_64,
        [Section(".text", data=b"\xe8\0\0\0\0\xc3", flags=SHF_ALLOC | SHF_EXECINSTR,
                 relocations=[Relocation(1, R_X86_64_PLT32, "mcount", -4)])],
        [Symbol("f", ".text"), Symbol("mcount")],
    )
    elf.data                                        # the file, sound in every field
    elf.patch("sections[.text].sh_offset", 1 << 40) # the same file, one field corrupted

Nothing here is shared with `recordmcount.elf`: this is the other side of the comparison. Layout
follows the assemblers: group sections first, each section before its relocations, then the symbol
table and the string tables, section headers last. Names and numbers: System V gABI, chapter 4;
extended numbering: "Section Header" there (`e_shnum`, `SHN_XINDEX`, `SHT_SYMTAB_SHNDX`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

ELFCLASS32, ELFCLASS64 = 1, 2
ELFDATA2LSB = 1
EV_CURRENT = 1
ET_REL = 1
EM_386, EM_X86_64 = 3, 62

SHN_UNDEF, SHN_LORESERVE, SHN_ABS, SHN_COMMON, SHN_XINDEX = 0, 0xFF00, 0xFFF1, 0xFFF2, 0xFFFF
SHT_NULL, SHT_PROGBITS, SHT_SYMTAB, SHT_STRTAB, SHT_RELA = 0, 1, 2, 3, 4
SHT_NOTE, SHT_NOBITS, SHT_REL, SHT_GROUP, SHT_SYMTAB_SHNDX = 7, 8, 9, 17, 18
SHF_WRITE, SHF_ALLOC, SHF_EXECINSTR, SHF_INFO_LINK = 0x1, 0x2, 0x4, 0x40
SHF_LINK_ORDER, SHF_GROUP = 0x80, 0x200
STB_LOCAL, STB_GLOBAL, STB_WEAK = 0, 1, 2
STT_NOTYPE, STT_OBJECT, STT_FUNC, STT_SECTION, STT_FILE = 0, 1, 2, 3, 4
GRP_COMDAT = 1


class Target(NamedTuple):
    """What the ELF header says an object is for, and whether its addends stand in the table."""

    elf_class: int
    machine: int
    rela: bool


X86_64 = Target(ELFCLASS64, EM_X86_64, rela=True)
I386 = Target(ELFCLASS32, EM_386, rela=False)
X32 = Target(ELFCLASS32, EM_X86_64, rela=True)


@dataclass(frozen=True, slots=True)
class Relocation:
    """A relocation at `offset`, a section offset in bytes.

    `symbol` is a name (of a section: its section symbol) or an index into the symbol table.
    Where the target is REL, an addend other than 0 is written into the four bytes at `offset`.
    """

    offset: int
    type: int
    symbol: str | int
    addend: int = 0


@dataclass(frozen=True, slots=True)
class Section:
    """A section with its contents and its relocations.

    `link` and `info` are raw numbers or, as a name, the index of the section of that name.
    `size` is for SHT_NOBITS; everything else is as long as its data.
    """

    name: str
    type: int = SHT_PROGBITS
    flags: int = 0
    data: bytes = b""
    relocations: Sequence[Relocation] = ()
    link: int | str = 0
    info: int | str = 0
    align: int = 1
    entsize: int = 0
    size: int = 0


@dataclass(frozen=True, slots=True)
class Symbol:
    """`section` is the name of the defining section or a raw st_shndx (undefined when left out)."""

    name: str
    section: str | int = SHN_UNDEF
    value: int = 0
    size: int = 0
    bind: int = STB_GLOBAL
    type: int = STT_NOTYPE
    other: int = 0


def section_symbol(section: str) -> Symbol:
    """Return the local STT_SECTION symbol; relocations name it with the section's own name."""
    return Symbol("", section, bind=STB_LOCAL, type=STT_SECTION)


@dataclass(frozen=True, slots=True)
class Group:
    """A section group: the name of its signature symbol and the names of its members.

    The relocation sections of members are members too, and every member gets SHF_GROUP.
    """

    signature: str
    members: Sequence[str]
    flags: int = GRP_COMDAT


# A record is its fields in file order with their sizes in bytes; all are little-endian.
Record = Mapping[str, int]

WORD: Record = {"word": 4}  # an entry of SHT_GROUP and of SHT_SYMTAB_SHNDX


def _ehdr(word: int) -> Record:
    return {
        "EI_MAG": 4, "EI_CLASS": 1, "EI_DATA": 1, "EI_VERSION": 1, "EI_OSABI": 1, "EI_PAD": 8,
        "e_type": 2, "e_machine": 2, "e_version": 4,
        "e_entry": word, "e_phoff": word, "e_shoff": word, "e_flags": 4, "e_ehsize": 2,
        "e_phentsize": 2, "e_phnum": 2, "e_shentsize": 2, "e_shnum": 2, "e_shstrndx": 2,
    }  # fmt: skip


def _shdr(word: int) -> Record:
    return {
        "sh_name": 4, "sh_type": 4, "sh_flags": word, "sh_addr": word, "sh_offset": word,
        "sh_size": word, "sh_link": 4, "sh_info": 4, "sh_addralign": word, "sh_entsize": word,
    }  # fmt: skip


def _sym(word: int) -> Record:
    if word == 8:
        return {"st_name": 4, "st_info": 1, "st_other": 1, "st_shndx": 2,
                "st_value": 8, "st_size": 8}  # fmt: skip
    return {"st_name": 4, "st_value": 4, "st_size": 4, "st_info": 1, "st_other": 1, "st_shndx": 2}


def _rel(word: int, rela: bool) -> Record:
    # r_info, taken apart: ELF64 is sym << 32 | type, ELF32 is sym << 8 | type.
    info = {"r_type": 4, "r_sym": 4} if word == 8 else {"r_type": 1, "r_sym": 3}
    return {"r_offset": word} | info | ({"r_addend": word} if rela else {})


def _pack(record: Record, values: Mapping[str, int]) -> bytes:
    return b"".join(_field_bytes(values[name], size) for name, size in record.items())


def _field_bytes(value: int, size: int) -> bytes:
    return value.to_bytes(size, "little", signed=value < 0)


class Field(NamedTuple):
    """Where a field lies: its file offset and its size in bytes."""

    offset: int
    size: int


class _Table(NamedTuple):
    """Equal records in a row: file offset of the first, their number, what one looks like."""

    offset: int
    length: int
    record: Record

    def locate(self, index: int, name: str) -> Field:
        sizes = list(self.record.items())
        start = self.offset + index * sum(self.record.values())
        before = list(self.record).index(name)
        return Field(start + sum(size for _, size in sizes[:before]), self.record[name])


@dataclass(frozen=True)
class Elf:
    """A built file and the place of each of its header fields.

    Field names: `e_shoff`, `EI_CLASS`; `sections[3].sh_size` or `sections[.text].sh_size`;
    `symbols[1].st_shndx` or `symbols[f].st_shndx`; `relocations[.text][0].r_offset`;
    `group[f][1].word` (the group with signature f: flags, then members);
    `symtab_shndx[1].word`. Where a name stands twice, it means the first.
    """

    data: bytes
    section_names: tuple[str, ...]
    symbol_names: tuple[str, ...]
    tables: Mapping[str, _Table]

    def fields(self) -> Iterator[str]:
        """Yield the name of every field there is, with indices rather than names."""
        for table, (_, length, record) in self.tables.items():
            for index in range(length):
                for name in record:
                    yield name if table == "header" else f"{table}[{index}].{name}"

    def locate(self, field_name: str) -> Field:
        """Find the file offset and size of a field; KeyError or ValueError if there is none."""
        where, _, name = field_name.rpartition(".")
        table_name, _, key = where.rpartition("[") if where else ("header", "", "0]")
        names = {"sections": self.section_names, "symbols": self.symbol_names}.get(table_name, ())
        key = key.removesuffix("]")
        index = int(key) if key.isdecimal() else names.index(key)
        table = self.tables[table_name]
        if index >= table.length:
            raise KeyError(field_name)
        return table.locate(index, name)

    def value(self, field_name: str) -> int:
        """Read what the field holds, as an unsigned number."""
        offset, size = self.locate(field_name)
        return int.from_bytes(self.data[offset : offset + size], "little")

    def patch(self, field_name: str, value: int) -> bytes:
        """Return the file with one field changed. Negative values are two's complement."""
        return self.patch_all({field_name: value})

    def patch_all(self, values: Mapping[str, int]) -> bytes:
        """Return the file with several fields changed."""
        changed = bytearray(self.data)
        for field_name, value in values.items():
            offset, size = self.locate(field_name)
            changed[offset : offset + size] = _field_bytes(value, size)
        return bytes(changed)

    def section_index(self, name: str) -> int:
        """Return the section header index of the first section called `name`."""
        return self.section_names.index(name)

    def write(self, path: Path) -> Path:
        """Write the file to `path` and return it."""
        path.write_bytes(self.data)
        return path


def build(
    target: Target,
    sections: Sequence[Section],
    symbols: Sequence[Symbol] = (),
    groups: Sequence[Group] = (),
    *,
    extended_numbering: bool = False,
    shared_strtab: bool = False,
) -> Elf:
    """Build an ET_REL object for `target`.

    Local symbols are put before the others, as the gABI wants; otherwise order is kept.
    `extended_numbering` uses `e_shnum` 0, `SHN_XINDEX` and SHT_SYMTAB_SHNDX although there are
    few sections (with 0xff00 or more they are used anyway). `shared_strtab` keeps section names
    in `.strtab`, as clang does, instead of in `.shstrtab`.
    """
    return _Builder(target, sections, symbols, groups, extended_numbering, shared_strtab).build()


class _Strings:
    """A string table being filled; each string once."""

    def __init__(self) -> None:
        self.data = bytearray(1)
        self._offsets = {"": 0}

    def offset(self, string: str) -> int:
        if string not in self._offsets:
            self._offsets[string] = len(self.data)
            self.data += string.encode() + b"\0"
        return self._offsets[string]


@dataclass
class _Header:
    """A section header before it has an offset. `table` names its records in `Elf.tables`."""

    name: str
    type: int
    flags: int = 0
    data: bytes = b""
    size: int | None = None
    link: int = 0
    info: int = 0
    align: int = 1
    entsize: int = 0
    table: tuple[str, Record] | None = None
    file_offset: int = field(default=0, init=False)


class _Builder:
    """One build: number the sections, number the symbols, encode contents, lay out."""

    def __init__(
        self,
        target: Target,
        sections: Sequence[Section],
        symbols: Sequence[Symbol],
        groups: Sequence[Group],
        extended_numbering: bool,
        shared_strtab: bool,
    ) -> None:
        self.target = target
        self.sections = sections
        self.groups = groups
        self.symbols = sorted(symbols, key=lambda symbol: symbol.bind != STB_LOCAL)
        self.word = 8 if target.elf_class == ELFCLASS64 else 4
        self.symbol_names = ["", *map(self._symbol_key, self.symbols)]
        self.names = self._section_names(shared_strtab)
        self.extended = extended_numbering or len(self.names) >= SHN_LORESERVE
        if self.extended:
            self.names.append(".symtab_shndx")
        self.index = {name: number for number, name in reversed(list(enumerate(self.names)))}
        self.symbol_index = {
            name: number for number, name in reversed(list(enumerate(self.symbol_names)))
        }
        self.strtab = _Strings()
        self.shstrtab = self.strtab if shared_strtab else _Strings()
        self.shstrndx = self.index[".strtab" if shared_strtab else ".shstrtab"]

    @staticmethod
    def _symbol_key(symbol: Symbol) -> str:
        """Name the symbol as relocations do: a section symbol goes by its section's name."""
        return str(symbol.section) if symbol.type == STT_SECTION else symbol.name

    def _rel_name(self, section: Section) -> str:
        return (".rela" if self.target.rela else ".rel") + section.name

    def _section_names(self, shared_strtab: bool) -> list[str]:
        names = ["", *(".group" for _ in self.groups)]
        for section in self.sections:
            names += [section.name] + ([self._rel_name(section)] if section.relocations else [])
        return names + [".symtab", ".strtab"] + ([] if shared_strtab else [".shstrtab"])

    def _number(self, section: int | str) -> int:
        return self.index[section] if isinstance(section, str) else section

    def build(self) -> Elf:
        headers = [_Header("", SHT_NULL, align=0), *map(self._group, self.groups)]
        for section in self.sections:
            headers += self._section(section)
        headers += self._symtab()
        headers.append(_Header(".strtab", SHT_STRTAB))
        if self.shstrtab is not self.strtab:
            headers.append(_Header(".shstrtab", SHT_STRTAB))
        if self.extended:
            headers.append(self._symtab_shndx())
            headers[0].size, headers[0].link = len(headers), self.shstrndx
        name_offsets = [self.shstrtab.offset(header.name) for header in headers]
        headers[self.index[".strtab"]].data = bytes(self.strtab.data)
        headers[self.shstrndx].data = bytes(self.shstrtab.data)
        return self._lay_out(headers, name_offsets)

    def _group(self, group: Group) -> _Header:
        members = {section.name: section for section in self.sections}
        words = [group.flags]
        for name in group.members:
            words.append(self.index[name])
            if members[name].relocations:
                words.append(self.index[self._rel_name(members[name])])
        return _Header(
            ".group",
            SHT_GROUP,
            data=b"".join(_field_bytes(word, 4) for word in words),
            link=self.index[".symtab"],
            info=self.symbol_index[group.signature],
            align=4,
            entsize=4,
            table=(f"group[{group.signature}]", WORD),
        )

    def _section(self, section: Section) -> list[_Header]:
        grouped = any(section.name in group.members for group in self.groups)
        group_flag = SHF_GROUP if grouped else 0
        content = _Header(
            section.name,
            section.type,
            section.flags | group_flag,
            self._content(section),
            section.size if section.type == SHT_NOBITS else None,
            self._number(section.link),
            self._number(section.info),
            section.align,
            section.entsize,
        )
        return [content] + ([self._rel(section, group_flag)] if section.relocations else [])

    def _content(self, section: Section) -> bytes:
        data = bytearray(section.data)
        if not self.target.rela:
            for relocation in section.relocations:
                if relocation.addend:
                    start = relocation.offset
                    data[start : start + 4] = _field_bytes(relocation.addend, 4)
        return bytes(data)

    def _rel(self, section: Section, group_flag: int) -> _Header:
        record = _rel(self.word, self.target.rela)
        rows = (
            {
                "r_offset": relocation.offset,
                "r_type": relocation.type,
                "r_sym": self.symbol_index[relocation.symbol]
                if isinstance(relocation.symbol, str)
                else relocation.symbol,
                "r_addend": relocation.addend,
            }
            for relocation in section.relocations
        )
        return _Header(
            self._rel_name(section),
            SHT_RELA if self.target.rela else SHT_REL,
            SHF_INFO_LINK | group_flag,
            b"".join(_pack(record, row) for row in rows),
            link=self.index[".symtab"],
            info=self.index[section.name],
            align=self.word,
            entsize=sum(record.values()),
            table=(f"relocations[{section.name}]", record),
        )

    def _symtab(self) -> list[_Header]:
        record = _sym(self.word)
        rows = [dict.fromkeys(record, 0)]
        for symbol in self.symbols:
            shndx = self._number(symbol.section)
            escaped = isinstance(symbol.section, str) and self._escapes(shndx)
            rows.append(
                {
                    "st_name": self.strtab.offset(symbol.name),
                    "st_info": symbol.bind << 4 | symbol.type,
                    "st_other": symbol.other,
                    "st_shndx": SHN_XINDEX if escaped else shndx,
                    "st_value": symbol.value,
                    "st_size": symbol.size,
                }
            )
        return [
            _Header(
                ".symtab",
                SHT_SYMTAB,
                data=b"".join(_pack(record, row) for row in rows),
                link=self.index[".strtab"],
                info=1 + sum(symbol.bind == STB_LOCAL for symbol in self.symbols),
                align=self.word,
                entsize=sum(record.values()),
                table=("symbols", record),
            )
        ]

    def _escapes(self, shndx: int) -> bool:
        """Tell whether an st_shndx of a real section is kept in SHT_SYMTAB_SHNDX."""
        return self.extended and (len(self.names) < SHN_LORESERVE or shndx >= SHN_LORESERVE)

    def _symtab_shndx(self) -> _Header:
        words = [0]
        for symbol in self.symbols:
            shndx = self._number(symbol.section)
            named = isinstance(symbol.section, str)
            words.append(shndx if named and self._escapes(shndx) else 0)
        return _Header(
            ".symtab_shndx",
            SHT_SYMTAB_SHNDX,
            data=b"".join(_field_bytes(word, 4) for word in words),
            link=self.index[".symtab"],
            align=4,
            entsize=4,
            table=("symtab_shndx", WORD),
        )

    def _lay_out(self, headers: list[_Header], name_offsets: list[int]) -> Elf:
        ehdr, shdr = _ehdr(self.word), _shdr(self.word)
        body = bytearray(sum(ehdr.values()))
        tables = {"header": _Table(0, 1, ehdr)}
        for header in headers[1:]:
            body += bytes(-len(body) % max(header.align, 1))
            header.file_offset = len(body)
            body += header.data
            if header.table:
                name, record = header.table
                count = len(header.data) // sum(record.values())
                tables[name] = _Table(header.file_offset, count, record)
        body += bytes(-len(body) % self.word)
        tables["sections"] = _Table(len(body), len(headers), shdr)
        body[: sum(ehdr.values())] = _pack(ehdr, self._file_header(len(body), len(headers)))
        for header, name_offset in zip(headers, name_offsets, strict=True):
            body += _pack(shdr, self._section_header(header, name_offset))
        return Elf(bytes(body), tuple(self.names), tuple(self.symbol_names), tables)

    def _file_header(self, shoff: int, shnum: int) -> dict[str, int]:
        return dict.fromkeys(_ehdr(self.word), 0) | {
            "EI_MAG": int.from_bytes(b"\x7fELF", "little"),
            "EI_CLASS": self.target.elf_class,
            "EI_DATA": ELFDATA2LSB,
            "EI_VERSION": EV_CURRENT,
            "e_type": ET_REL,
            "e_machine": self.target.machine,
            "e_version": EV_CURRENT,
            "e_shoff": shoff,
            "e_ehsize": sum(_ehdr(self.word).values()),
            "e_shentsize": sum(_shdr(self.word).values()),
            "e_shnum": 0 if self.extended else shnum,
            "e_shstrndx": SHN_XINDEX if self.extended else self.shstrndx,
        }

    @staticmethod
    def _section_header(header: _Header, name_offset: int) -> dict[str, int]:
        return {
            "sh_name": name_offset,
            "sh_type": header.type,
            "sh_flags": header.flags,
            "sh_addr": 0,
            "sh_offset": header.file_offset,
            "sh_size": len(header.data) if header.size is None else header.size,
            "sh_link": header.link,
            "sh_info": header.info,
            "sh_addralign": header.align,
            "sh_entsize": header.entsize,
        }
