"""What the table of a linked image names, and what its code calls: judge of tables after a link.

Shares no code with the product: pyelftools reads the image, capstone disassembles it function by
function. Every address here is a link-time virtual address.
"""

from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import capstone
from capstone import x86_const as x86
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import Relocation, RelocationSection
from elftools.elf.sections import Section, Symbol, SymbolTableSection

MCOUNT_NAMES = ("mcount", "__fentry__")
_SHF_ALLOC, _SHF_EXECINSTR = 2, 4
_DF_TEXTREL = 4
_RELATIVE = 8  # R_X86_64_RELATIVE and R_386_RELATIVE
_NOP = b"\x90"
_LONGEST_INSTRUCTION = 15


class Call(NamedTuple):
    """A call to mcount: the names of the function it is in, and the first byte behind it."""

    functions: frozenset[str]
    end: int


class Image:
    """A linked executable or shared object with its symbol table, read as a whole."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as stream:
            file = ELFFile(stream)
            self.word = file.elfclass // 8
            mode = capstone.CS_MODE_64 if file["e_machine"] == "EM_X86_64" else capstone.CS_MODE_32
            self.decoder = capstone.Cs(capstone.CS_ARCH_X86, mode)
            self.decoder.detail = True
            self.sections = [s for s in file.iter_sections() if s["sh_flags"] & _SHF_ALLOC]
            self.contents = [
                (s["sh_addr"], s.data()) for s in self.sections if s["sh_type"] != "SHT_NOBITS"
            ]
            symbols = file.get_section_by_name(".symtab")
            assert isinstance(symbols, SymbolTableSection)
            self.symbols: list[Symbol] = list(symbols.iter_symbols())
            self.dynamic_relocations = dict(_dynamic_relocations(self.sections))
            self.tags = list(_dynamic_tags(self.sections))

    def read(self, vaddr: int, size: int) -> bytes:
        """Up to `size` bytes, fewer at the end of a section."""
        for start, content in self.contents:
            if start <= vaddr < start + len(content):
                return content[vaddr - start : vaddr - start + size]
        raise AssertionError(f"{vaddr:#x} is in no section")

    @cached_property
    def base(self) -> int:
        """The address of the ELF header."""
        return next(vaddr for vaddr, name in self._names if name == "__ehdr_start")

    # --- the table ----------------------------------------------------------------------------

    @property
    def has_table(self) -> bool:
        return any(section.name == "__mcount_loc" for section in self.sections)

    @property
    def table(self) -> list[int]:
        """The entries of `__mcount_loc` in order, as the dynamic linker leaves them at bias 0."""
        tables = [section for section in self.sections if section.name == "__mcount_loc"]
        assert len(tables) == 1, f"{len(tables)} tables: the program sees only one"
        start, size = tables[0]["sh_addr"], tables[0]["sh_size"]
        return [self._word_at(slot) for slot in range(start, start + size, self.word)]

    def _word_at(self, slot: int) -> int:
        relocation, _ = self.dynamic_relocations.get(slot, (None, ""))
        if relocation is not None:
            assert relocation["r_info_type"] == _RELATIVE, f"slot {slot:#x} is left to a symbol"
            if relocation.is_RELA():
                return int(relocation["r_addend"])
        return int.from_bytes(self.read(slot, self.word), "little")

    @property
    def has_text_relocations(self) -> bool:
        return any(
            tag == "DT_TEXTREL" or (tag == "DT_FLAGS" and value & _DF_TEXTREL)
            for tag, value in self.tags
        )

    # --- the code -----------------------------------------------------------------------------

    def live_calls(self) -> dict[int, Call]:
        """The calls to mcount in all functions that have a symbol, by their first bytes.

        A relaxed `call *mcount@GOTPCREL(%rip)` is one byte longer than `call mcount`. bfd, gold
        and lld put a prefix before that, mold a NOP: then the call begins with the NOP.
        """
        calls = {}
        for (start, size), names in self._functions().items():
            before = None
            for instruction in self.decoder.disasm(self.read(start, size), start):
                if self.calls_mcount(instruction):
                    nop = before is not None and before.bytes == _NOP
                    end = instruction.address + instruction.size
                    calls[instruction.address - nop] = Call(frozenset(names), end)
                before = instruction
        return calls

    def _functions(self) -> dict[tuple[int, int], set[str]]:
        """Return (first address, size in bytes) of each function -> all its names."""
        functions = defaultdict(set)
        for symbol in self.symbols:
            if symbol["st_info"]["type"] == "STT_FUNC" and symbol["st_shndx"] != "SHN_UNDEF":
                functions[symbol["st_value"], symbol["st_size"]].add(symbol.name)
        return functions

    def function_at(self, vaddr: int) -> str | None:
        """A name of the function whose bytes hold `vaddr`, if one's do."""
        for (start, size), names in self._functions().items():
            if start <= vaddr < start + size:
                return min(names)
        return None

    def calls_mcount(self, instruction: capstone.CsInsn) -> bool:
        if instruction.id != x86.X86_INS_CALL:
            return False
        if instruction.operands[0].type == x86.X86_OP_IMM:
            return self._is_mcount(instruction.operands[0].imm)
        slot = self._memory_operand(instruction)
        return slot is not None and self._slot_holds_mcount(slot)

    def is_call_at(self, vaddr: int) -> bool:
        """Whether the instruction at `vaddr`, or behind mold's NOP there, is a call to mcount."""
        code = self.read(vaddr, _LONGEST_INSTRUCTION)
        nop = code.startswith(_NOP)
        instruction = next(self.decoder.disasm(code[nop:], vaddr + nop))
        return self.calls_mcount(instruction)

    @cached_property
    def _mcount(self) -> set[int]:
        return {vaddr for vaddr, name in self._names if name in MCOUNT_NAMES}

    @cached_property
    def _names(self) -> set[tuple[int, str]]:
        defined = (symbol for symbol in self.symbols if symbol["st_shndx"] != "SHN_UNDEF")
        return {(symbol["st_value"], symbol.name) for symbol in defined}

    def _is_mcount(self, target: int) -> bool:
        if target in self._mcount:
            return True
        for instruction in self.decoder.disasm(self.read(target, 32), target):
            if instruction.id == x86.X86_INS_JMP:  # a PLT entry, perhaps behind endbr64
                slot = self._memory_operand(instruction)
                return slot is not None and self._slot_holds_mcount(slot)
            if instruction.id not in (x86.X86_INS_ENDBR64, x86.X86_INS_ENDBR32, x86.X86_INS_MOV):
                return False
        return False

    def _memory_operand(self, instruction: capstone.CsInsn) -> int | None:
        """The address of the operand if it is in memory and known: absolute, %rip or i386's GOT."""
        operand = instruction.operands[0]
        if operand.type != x86.X86_OP_MEM or operand.mem.index:
            return None
        displacement: int = operand.mem.disp
        if operand.mem.base == x86.X86_REG_RIP:
            return int(instruction.address + instruction.size + displacement)
        if operand.mem.base == x86.X86_REG_EBX:
            return self._global_offset_table + displacement
        return displacement if operand.mem.base == 0 else None

    @cached_property
    def _global_offset_table(self) -> int:
        """What i386 code has in %ebx (mold's symbol of that name has another value).

        gcc calls a thunk for its own address, which is that of the next instruction, and adds.
        """
        for start, size in self._functions():
            before = None
            for instruction in self.decoder.disasm(self.read(start, size), start):
                adds = instruction.id == x86.X86_INS_ADD and instruction.op_str.startswith("ebx, ")
                if adds and before is not None and before.id == x86.X86_INS_CALL:
                    return int(instruction.address + instruction.operands[1].imm)
                before = instruction
        raise AssertionError("no function finds the global offset table")

    def _slot_holds_mcount(self, slot: int) -> bool:
        _, name = self.dynamic_relocations.get(slot, (None, ""))
        return name in MCOUNT_NAMES if name else self._word_at(slot) in self._mcount


def _dynamic_relocations(sections: list[Section]) -> Iterator[tuple[int, tuple[Relocation, str]]]:
    """Yield the address each loaded relocation fills, with it and the symbol it names, if any."""
    symbols = [section for section in sections if isinstance(section, SymbolTableSection)]
    for section in sections:
        if isinstance(section, RelocationSection):
            for relocation in section.iter_relocations():
                number = relocation["r_info_sym"]
                name = symbols[0].get_symbol(number).name if number else ""
                yield relocation["r_offset"], (relocation, name)


def _dynamic_tags(sections: list[Section]) -> Iterator[tuple[str, int]]:
    for section in sections:
        if isinstance(section, DynamicSection):
            for tag in section.iter_tags():
                yield tag.entry.d_tag, tag.entry.d_val
