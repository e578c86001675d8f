"""Which relocations of an object are calls, found by disassembly: judge of `sites.calls`.

Shares no code, table or method with the product. That looks at the bytes around a relocation;
this decodes each function from its symbol on with capstone, up to the instruction that holds the
relocated field, and asks what the instruction does with it. pyelftools reads the object.
"""

import bisect
import functools
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import capstone
from capstone import x86_const as x86
from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import Relocation, RelocationSection
from elftools.elf.sections import Section, Symbol, SymbolTableIndexSection, SymbolTableSection

MCOUNT_NAMES = ("mcount", "_mcount", "__fentry__")

CALL, CALL_GOT, CALL_ABS = "call", "call-got", "call-abs"  # forms a table entry can name
UNSUPPORTED = "unsupported"  # a call, but made of parts that no single entry can name
REFERENCE = "reference"  # no call at all

# Relocation types by e_machine (psABI numbers; pyelftools does not know the X forms).
_DIRECT = {"EM_X86_64": {2, 4}, "EM_386": {2, 4}}  # PC32, PLT32
_GOT = {"EM_X86_64": {9, 41}, "EM_386": {3, 43}}  # GOTPCREL(X); GOT32(X)
_ABS64 = {"EM_X86_64": {1}, "EM_386": set[int]()}  # R_X86_64_64
_LARGE_PIC = {"EM_X86_64": {27, 30, 31}, "EM_386": set[int]()}  # GOT64, GOTPLT64, PLTOFF64
_SHF_EXECINSTR = 4


class Site(NamedTuple):
    """A place in an object; `offset` is a section offset in bytes."""

    section: str
    section_index: int
    offset: int


class Use(NamedTuple):
    """A relocation that names mcount: what it is, and where.

    `site` is the first byte of the instruction for a call of a form a table entry can name, and
    the relocated field itself for everything else.
    """

    kind: str
    site: Site


class File(ELFFile):
    """An ELF file that reads each section header once, however often it is asked for."""

    def __init__(self, stream: BinaryIO) -> None:
        self._sections: dict[int, Section] = {}
        super().__init__(stream)

    def get_section(self, n: int, type: Container[str] | None = None) -> Section:  # noqa: A002
        if n not in self._sections:
            self._sections[n] = super().get_section(n, type)
        return self._sections[n]


def expected_sites(path: Path, names: Iterable[str] = MCOUNT_NAMES) -> set[Site]:
    """Return the first byte of every call of one of `names` that a table has to name."""
    return set(call_forms(path, names))


def call_forms(path: Path, names: Iterable[str] = MCOUNT_NAMES) -> dict[Site, str]:
    """Return the same sites as `expected_sites`, each with CALL, CALL_GOT or CALL_ABS."""
    forms = (CALL, CALL_GOT, CALL_ABS)
    return {use.site: use.kind for use in uses(path, names) if use.kind in forms}


def unsupported_calls(path: Path, names: Iterable[str] = MCOUNT_NAMES) -> set[Site]:
    """Return the relocated fields of calls that need a warning instead of an entry."""
    return {use.site for use in uses(path, names) if use.kind == UNSUPPORTED}


def references(path: Path, names: Iterable[str] = MCOUNT_NAMES) -> set[Site]:
    """Return the relocated fields that name one of `names` and belong to no call."""
    return {use.site for use in uses(path, names) if use.kind == REFERENCE}


def functions(path: Path, sites: Iterable[Site]) -> list[tuple[str, int]]:
    """Return the function each site lies in, with the site's offset in it; sorted."""
    with path.open("rb") as stream:
        symbols = _symbols_by_section(File(stream))
    found = []
    for site in sites:
        values, names = zip(*symbols[site.section_index], strict=True)
        last = bisect.bisect_right(values, site.offset) - 1
        found.append((names[last], site.offset - values[last]))
    return sorted(found)


def uses(path: Path, names: Iterable[str] = MCOUNT_NAMES) -> list[Use]:
    """Return every use of one of `names` in the sections of an ET_REL file."""
    wanted = set(names)
    with path.open("rb") as stream:
        file = File(stream)
        starts = _symbols_by_section(file)
        found = []
        for relocations in file.iter_sections():
            if isinstance(relocations, RelocationSection):
                index = int(relocations["sh_info"])
                code = _Code(file, index, relocations, [value for value, _ in starts[index]])
                found += [
                    code.judge(relocation)
                    for relocation in relocations.iter_relocations()
                    if code.symbol_name(relocation) in wanted
                ]
        return found


def section_indices(file: ELFFile) -> Callable[[int, Symbol], int | None]:
    """Return a function: the number of a symbol and the symbol -> the index of its section.

    None stands for the symbols that have none, undefined ones for instance.
    """
    extended = [s for s in file.iter_sections() if isinstance(s, SymbolTableIndexSection)]

    def section_index(number: int, symbol: Symbol) -> int | None:
        index = symbol["st_shndx"]
        if index in (0xFFFF, "SHN_XINDEX"):  # pyelftools knows the name from 0.32 on
            index = extended[0].get_section_index(number)
        return index if isinstance(index, int) else None

    return section_index


def _symbols_by_section(file: ELFFile) -> dict[int, list[tuple[int, str]]]:
    """Return section index -> (section offset, name) of its symbols, in order of offset."""
    table = file.get_section_by_name(".symtab")
    assert isinstance(table, SymbolTableSection)
    section_index = section_indices(file)
    symbols: dict[int, list[tuple[int, str]]] = defaultdict(list)
    for number, symbol in enumerate(table.iter_symbols()):
        index = section_index(number, symbol)
        if index is not None and symbol["st_info"]["type"] != "STT_SECTION":
            symbols[index].append((symbol["st_value"], symbol.name))
    for rows in symbols.values():
        rows.sort()
    return symbols


@functools.cache
def _decoder(machine: str) -> capstone.Cs:
    mode = capstone.CS_MODE_64 if machine == "EM_X86_64" else capstone.CS_MODE_32  # x32 is 64
    decoder = capstone.Cs(capstone.CS_ARCH_X86, mode)
    decoder.detail = True
    decoder.skipdata = True
    return decoder


class _Code:
    """One section with its relocations, and where in it decoding may start."""

    def __init__(
        self, file: ELFFile, index: int, relocations: RelocationSection, starts: list[int]
    ) -> None:
        self.file = file
        self.index = index
        self.section: Section = file.get_section(index)
        self.relocations = relocations
        self.starts = starts
        symbols = file.get_section(relocations["sh_link"])
        assert isinstance(symbols, SymbolTableSection)
        self.symbols = symbols
        self.machine = str(file["e_machine"])
        self.decoder = _decoder(self.machine)

    def symbol_name(self, relocation: Relocation) -> str:
        return str(self.symbols.get_symbol(relocation["r_info_sym"]).name)

    def judge(self, relocation: Relocation) -> Use:
        field = int(relocation["r_offset"])
        kind, offset = REFERENCE, field
        if self.section["sh_flags"] & _SHF_EXECINSTR:
            kind, start = self._kind(relocation, field)
            if kind not in (REFERENCE, UNSUPPORTED):
                offset = start
        return Use(kind, Site(self.section.name, self.index, offset))

    def _kind(self, relocation: Relocation, field: int) -> tuple[str, int]:
        """Return what the instruction around `field` is, and its first byte's section offset."""
        instructions = self._decode_up_to(field)
        instruction = next(instructions)
        start = int(instruction.address)
        kind = relocation["r_info_type"]
        if kind in _LARGE_PIC[self.machine]:
            return UNSUPPORTED, start
        if kind in _ABS64[self.machine]:
            return self._call_abs(instruction, next(instructions, None), field), start
        if instruction.id != x86.X86_INS_CALL:
            return REFERENCE, start
        operand = instruction.operands[0]
        if kind in _DIRECT[self.machine] and operand.type == x86.X86_OP_IMM:
            form, base = CALL, start + instruction.size
        elif kind in _GOT[self.machine] and operand.type == x86.X86_OP_MEM:
            relative = operand.mem.base == x86.X86_REG_RIP
            form, base = CALL_GOT, start + instruction.size if relative else field
        else:
            return REFERENCE, start
        return (form if self._addend(relocation) == field - base else REFERENCE), start

    def _call_abs(
        self, load: capstone.CsInsn, following: capstone.CsInsn | None, field: int
    ) -> str:
        """Judge `movabs $mcount, %register` by what comes next."""
        is_load = load.id == x86.X86_INS_MOVABS and load.address + load.imm_offset == field
        if not is_load or following is None or following.id != x86.X86_INS_CALL:
            return REFERENCE
        target = following.operands[0]
        register = load.operands[0].reg
        if target.type == x86.X86_OP_REG and target.reg == register:
            return CALL_ABS
        thunk = self._symbol_at(following.address + following.imm_offset)
        return UNSUPPORTED if thunk.endswith("_" + load.reg_name(register)) else REFERENCE

    def _symbol_at(self, field: int) -> str:
        """Return the symbol a relocation at `field` names, or nothing."""
        rows = self.relocations.iter_relocations()
        return next((self.symbol_name(row) for row in rows if row["r_offset"] == field), "")

    def _addend(self, relocation: Relocation) -> int:
        if relocation.is_RELA():
            return int(relocation["r_addend"])
        field = relocation["r_offset"]
        in_place = self.section.data()[field : field + 4]
        return int.from_bytes(in_place, "little", signed=True)

    def _decode_up_to(self, field: int) -> Iterator[capstone.CsInsn]:
        """Yield the instruction that holds the byte at `field`, then those that follow."""
        nearest = bisect.bisect_right(self.starts, field)
        start = self.starts[nearest - 1] if nearest else 0
        for instruction in self.decoder.disasm(self.section.data()[start:], start):
            if instruction.address + instruction.size > field:
                yield instruction
