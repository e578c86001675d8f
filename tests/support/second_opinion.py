"""Whether a recorded object still holds the old one whole, and exactly the entries it should.

Made for objects that are broken in places, so nothing is looked at that a recorder does not rely
on. ELF is read here with `struct`, code with capstone; nothing is shared with the product.
"""

import re
from collections.abc import Iterator
from functools import cached_property
from struct import Struct
from typing import NamedTuple

import capstone

MCOUNT_NAMES = (b"mcount", b"_mcount", b"__fentry__")
RECORDED = (
    b".init.text", b".ref.text", b".sched.text", b".spinlock.text", b".irqentry.text",
    b".softirqentry.text", b".kprobes.text", b".cpuidle.text",
)  # fmt: skip
OF_A_KERNEL = re.compile(
    rb"\.(init|exit|ref|meminit|sched|spinlock|irqentry|softirqentry|kprobes|cpuidle|noinstr)\."
    rb"|\.(modinfo|fixup|discard|altinstr|initcall|data\.\.)|__(ex_table|bug_table|ksymtab|param)"
)
SHT_PROGBITS, SHT_SYMTAB, SHT_RELA, SHT_NOBITS, SHT_REL = 1, 2, 4, 8, 9
SHT_GROUP, SHT_SYMTAB_SHNDX, SHT_LLVM_ADDRSIG = 17, 18, 0x6FFF4C03
SHF_ALLOC, SHF_EXECINSTR = 2, 4
SHN_LORESERVE, SHN_XINDEX = 0xFF00, 0xFFFF
EM_386 = 3

DECODER_32 = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_32)
DECODER_64 = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)

# (instruction pattern, distance from its first byte to the relocated field, relocation types,
# addend) of each call: psABI numbers of PC32 and PLT32, GOT32(X) or GOTPCREL(X), R_X86_64_64.
CALLS_64 = (
    (r"call \d\w*", 1, (2, 4), -4),
    (r"call qword ptr \[rip.*", 2, (9, 41), -4),
    (r"movabs (\w+), .*; call \1", 2, (1,), 0),
)
CALLS_32 = (
    (r"call \d\w*", 1, (2, 4), -4),
    (r"call dword ptr \[.*", 2, (3, 43), 0),
)
NOP = r"nop\b.*|lea (\w+), .*\[\1\b.*"


class Header(NamedTuple):
    """A section header; `offset` is a file offset in bytes."""

    name: int
    type: int
    flags: int
    vaddr: int
    offset: int
    size: int
    link: int
    info: int
    align: int
    entsize: int


class Relocation(NamedTuple):
    """`offset` is a section offset in bytes; `addend` stands in the entry or in the field."""

    offset: int
    type: int
    symbol: int
    addend: int


class Symbol(NamedTuple):
    """`section` is the index of the section that holds it, SHN_XINDEX resolved; 0 for none."""

    name: bytes
    info: int
    section: int
    value: int


class Call(NamedTuple):
    """A call to mcount: section index, section offset of its first byte, length in bytes."""

    section: int
    offset: int
    length: int


class View:
    """An ELF object as far as `data` can be understood."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.is_64 = data[4] == 2
        self.ehdr = Struct("<16sHHIQQQIHHHHHH" if self.is_64 else "<16sHHIIIIIHHHHHH")
        self.shdr = Struct("<IIQQQQIIQQ" if self.is_64 else "<10I")
        self.sym = Struct("<IBBHQQ" if self.is_64 else "<IIIBBH")
        fields = self.ehdr.unpack_from(data)
        self.machine, self.shoff, count, self.shstrndx = fields[2], fields[6], *fields[12:]
        self.sections: list[Header] = []
        if self.shoff:
            first = Header(*self.shdr.unpack_from(data, self.shoff))
            self.shstrndx = first.link if self.shstrndx == SHN_XINDEX else self.shstrndx
            table = data[self.shoff : self.shoff + (count or first.size) * self.shdr.size]
            self.sections = [Header(*row) for row in self.shdr.iter_unpack(table)]

    def content(self, index: int) -> bytes:
        section = self.sections[index]
        size = 0 if section.type == SHT_NOBITS else section.size
        return self.data[section.offset : section.offset + size]

    def name(self, index: int) -> bytes:
        return string(self.content(self.shstrndx), self.sections[index].name)

    def of_type(self, *types: int) -> list[int]:
        return [index for index, section in enumerate(self.sections) if section.type in types]

    @cached_property
    def symtab(self) -> int:
        return next(iter(self.of_type(SHT_SYMTAB)), 0)

    @cached_property
    def symbols(self) -> list[Symbol]:
        if not self.symtab:
            return []
        strings = self.content(self.sections[self.symtab].link)
        shndx = [i for i in self.of_type(SHT_SYMTAB_SHNDX) if self.sections[i].link == self.symtab]
        extended = self.content(shndx[0]) if shndx else b""
        found = []
        for number, row in enumerate(self.sym.iter_unpack(self.content(self.symtab))):
            if self.is_64:
                name, info, _, section, value, _ = row
            else:
                name, value, _, info, _, section = row
            if section == SHN_XINDEX:
                section = int.from_bytes(extended[4 * number : 4 * number + 4], "little")
            elif section >= SHN_LORESERVE:
                section = 0
            found.append(Symbol(string(strings, name), info, section, value))
        return found

    def relocations(self, index: int) -> list[Relocation]:
        """The relocations of section `index`; of a REL entry, with the addend in its field."""
        rela = self.sections[index].type == SHT_RELA
        row = Struct(("<QII" if self.is_64 else "<II") + ("q" if self.is_64 else "i") * rela)
        code = self.content(self.sections[index].info)
        found = []
        for offset, *info, addend in (
            values if rela else (*values, 0) for values in row.iter_unpack(self.content(index))
        ):
            kind, symbol = info if self.is_64 else (info[0] & 0xFF, info[0] >> 8)
            if not rela:
                addend = int.from_bytes(code[offset : offset + 4], "little", signed=True)
            found.append(Relocation(offset, kind, symbol, addend))
        return found

    def relocation_sections(self) -> Iterator[tuple[int, int]]:
        """(relocation section, section it is for)."""
        for index in self.of_type(SHT_REL, SHT_RELA):
            if self.sections[index].info < len(self.sections):
                yield index, self.sections[index].info

    def calls(self) -> dict[Call, tuple[int, int]]:
        """Every call to mcount -> (index of the relocation section, number of the entry)."""
        found: dict[Call, tuple[int, int]] = {}
        if not any(symbol.name in MCOUNT_NAMES for symbol in self.symbols):
            return found
        for index, text in self.relocation_sections():
            section = self.sections[text]
            if section.type == SHT_PROGBITS and section.flags & SHF_EXECINSTR:
                for number, relocation in enumerate(self.relocations(index)):
                    if self._names_mcount(relocation) and (call := self._call(text, relocation)):
                        found[call] = (index, number)
        return found

    def _names_mcount(self, relocation: Relocation) -> bool:
        symbol = relocation.symbol
        return symbol < len(self.symbols) and self.symbols[symbol].name in MCOUNT_NAMES

    def _call(self, text: int, relocation: Relocation) -> Call | None:
        for pattern, distance, types, addend in CALLS_32 if self.machine == EM_386 else CALLS_64:
            start = relocation.offset - distance
            if relocation.type in types and relocation.addend == addend and start >= 0:
                count = 1 + pattern.count(";")
                length, words = self.disassemble(text, start, count)
                if re.fullmatch(pattern, words):
                    return Call(text, start, length)
        return None

    def disassemble(self, text: int, start: int, count: int) -> tuple[int, str]:
        """(length in bytes, text) of `count` instructions from section offset `start` on."""
        decoder = DECODER_32 if self.machine == EM_386 else DECODER_64
        code = self.content(text)[start : start + 16]
        rows = list(decoder.disasm_lite(code, start, count))
        words = "; ".join(f"{mnemonic} {operands}" for *_, mnemonic, operands in rows)
        return sum(row[1] for row in rows), words

    def is_recorded(self, text: int) -> bool:
        name = self.name(text)
        loaded = bool(self.sections[text].flags & SHF_ALLOC)
        if name.startswith((b".text", b".ltext")) or name in RECORDED:
            return loaded
        of_a_kernel = any(map(OF_A_KERNEL.match, map(self.name, range(len(self.sections)))))
        return loaded and not of_a_kernel and not re.match(rb"\..+\.text", name)


def string(table: bytes, offset: int) -> bytes:
    return table[offset:].partition(b"\0")[0]


def check_recorded(old: bytes, new: bytes) -> None:
    """AssertionError unless `new` is `old` with its calls recorded or off, and nothing lost."""
    Comparison(View(old), View(new)).check()


class Comparison:
    """`after` is `before`, recorded. What may have changed is taken back bit by bit; see check."""

    def __init__(self, before: View, after: View) -> None:
        self.before = before
        self.after = after
        self.calls = before.calls()
        self.taken_back = bytearray(after.data[: len(before.data)])
        self.count, new = (len(view.symbols) for view in (before, after))
        self.first_global = before.sections[before.symtab].info
        self.inserted = new - self.count
        # So many symbols make room for those that are inserted, and become the last.
        self.displaced = min(self.inserted, self.count - self.first_global)
        self.off = {
            place for call, place in self.calls.items() if not before.is_recorded(call.section)
        }

    def check(self) -> None:
        self._take_back_elf_header()
        for index in range(len(self.before.sections)):
            self._check_section(index)
        for call, place in self.calls.items():
            if not self.before.is_recorded(call.section):
                self._take_back_nop(call, place)
        for index in self.before.of_type(SHT_REL, SHT_RELA):
            self._check_relocations(index)
        assert self.taken_back == self.before.data, "old contents changed"
        recorded = {call[:2] for call in self.calls if self.before.is_recorded(call.section)}
        entries = [self._opcode(*entry) for entry in self.entries()]
        assert len(entries) == len(set(entries)), "an entry is doubled"
        assert set(entries) == recorded, "the table is not that of the calls"

    def _opcode(self, section: int, offset: int) -> tuple[int, int]:
        """The opcode of the call that an entry names: it names the first of its prefixes."""
        code = self.before.content(section)[offset : offset + 1]
        length, words = self.before.disassemble(section, offset, 1)
        _, behind = self.before.disassemble(section, offset + 1, 1)
        is_prefix = code in (b"\xf2", b"\x2e", b"\x36", b"\x3e", b"\x26", b"\x64", b"\x65")
        is_one = is_prefix and length > 5 and words.split()[-1] == behind.split()[-1]
        return (section, offset + 1) if is_one else (section, offset)

    def _take_back(self, start: int, end: int) -> None:
        self.taken_back[start:end] = self.before.data[start:end]

    def _take_back_elf_header(self) -> None:
        word = 8 if self.before.is_64 else 4
        self._take_back(24 + 2 * word, 24 + 3 * word)  # e_shoff
        self._take_back(self.before.ehdr.size - 4, self.before.ehdr.size - 2)  # e_shnum

    def _check_section(self, index: int) -> None:
        before, after = self.before, self.after
        old, new = before.sections[index], after.sections[index]
        what = f"section {index}"
        assert before.name(index) == after.name(index), what
        if index == 0:
            assert new._replace(size=old.size) == old, what
            return
        assert new._replace(offset=old.offset, size=old.size, info=old.info) == old, what
        was, became = before.content(index), after.content(index)
        if old.type == SHT_SYMTAB and index == before.symtab:
            assert new.info == old.info + self.inserted, what
            assert self._put_back(became, before.sym.size) == was, what
        elif old.type == SHT_SYMTAB_SHNDX and new.size != old.size:
            assert self._put_back(became, 4) == was, what
        elif old.type == SHT_LLVM_ADDRSIG and self.inserted and old.link == before.symtab:
            assert list(map(self.moved, uleb128(was))) == uleb128(became), what
        elif new.offset != old.offset and old.type in (SHT_REL, SHT_RELA):
            assert self.inserted, what
            assert len(became) == len(was), what
        elif new.offset != old.offset:
            assert old.type == SHT_GROUP or index == before.shstrndx, what
            assert became.startswith(was), what
        if old.type == SHT_GROUP and old.link == before.symtab:
            assert new.info == self.moved(old.info), what
        elif index != before.symtab:
            assert new.info == old.info, what

    def _put_back(self, content: bytes, size: int) -> bytes:
        """The symbols, or the words for them, as they were."""
        start, end = self.first_global * size, (self.first_global + self.inserted) * size
        last = len(content) - self.displaced * size
        return content[:start] + content[last:] + content[end:last]

    def moved(self, symbol: int) -> int:
        distance = symbol - self.first_global
        if not 0 <= distance < self.displaced:
            return symbol
        return max(self.count, self.first_global + self.inserted) + distance

    def _take_back_nop(self, call: Call, place: tuple[int, int]) -> None:
        length, words = self.after.disassemble(call.section, call.offset, 1)
        assert length == call.length, f"{words} has not the length of the call"
        assert re.fullmatch(NOP, words), f"{words} is no NOP"
        start = self.before.sections[call.section].offset + call.offset
        self._take_back(start, start + length)
        section, number = place
        became = self.after.relocations(section)[number]
        assert became.type == 0, "the relocation of a NOP is still there"
        assert became.symbol == 0, "and names a symbol, which some linkers refuse"
        word = 8 if self.before.is_64 else 4
        entry = (
            self.before.sections[section].offset + number * self.before.sections[section].entsize
        )
        if self.after.sections[section].offset == self.before.sections[section].offset:
            self._take_back(entry + word, entry + 2 * word)  # r_info

    def _check_relocations(self, index: int) -> None:
        """Of a section that was written again: what it was, but for numbers and calls turned off.

        One that names a symbol that has moved must have been.
        """
        old, new = self.before.sections[index], self.after.sections[index]
        if not self.inserted or old.link != self.before.symtab:
            return
        pairs = list(
            zip(self.before.relocations(index), self.after.relocations(index), strict=True)
        )
        if new.offset == old.offset:
            assert all(self.moved(was.symbol) == was.symbol for was, _ in pairs)
            return
        for number, (was, became) in enumerate(pairs):
            expected = was._replace(symbol=self.moved(was.symbol))
            if (index, number) in self.off:
                expected = expected._replace(type=0, symbol=0)
            if old.type == SHT_REL:  # its addend is in the code
                expected = expected._replace(addend=became.addend)
            assert became == expected, f"relocation {number} of section {index}"

    def entries(self) -> list[tuple[int, int]]:
        """What the new tables name, as (section index, section offset), in order."""
        after, found = self.after, []
        for index, table in after.relocation_sections():
            if after.name(table) == b"__mcount_loc":
                rows = after.relocations(index)
                word = 8 if after.is_64 else 4
                assert [row.offset for row in rows] == list(
                    range(0, after.sections[table].size, word)
                )
                for row in rows:
                    assert row.type in ((1,) if after.is_64 or after.machine == EM_386 else (10,))
                    symbol = after.symbols[row.symbol]
                    found.append((symbol.section, symbol.value + row.addend))
        return found


def uleb128(content: bytes) -> list[int]:
    numbers, value, shift = [], 0, 0
    for byte in content:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            numbers.append(value)
            value = shift = 0
    return numbers


class Member(NamedTuple):
    """A member of an `ar` archive: file offset of its header, the header without size, contents."""

    offset: int
    header: bytes
    content: bytes


def check_recorded_archive(old: bytes, new: bytes) -> None:
    """AssertionError unless `new` is `old` with objects recorded, and nothing else lost."""
    before, after = members(old), members(new)
    assert [member.header for member in before] == [member.header for member in after]
    moved = {was.offset: became.offset for was, became in zip(before, after, strict=True)}
    for was, became in zip(before, after, strict=True):
        if was.header[:16].rstrip() == b"/":
            count = int.from_bytes(was.content[:4], "big")
            words = Struct(f">{count}I")
            places = words.unpack_from(was.content, 4)
            assert words.unpack_from(became.content, 4) == tuple(map(moved.get, places))
            assert became.content[4 + words.size :] == was.content[4 + words.size :]
        elif was.content != became.content:
            check_recorded(was.content, became.content)


def members(archive: bytes) -> list[Member]:
    found = []
    at = 8
    while at < len(archive):
        header = archive[at : at + 60]
        size = int(header[48:58])
        found.append(Member(at, header[:48] + header[58:], archive[at + 60 : at + 60 + size]))
        at += 60 + size + size % 2
    return found
