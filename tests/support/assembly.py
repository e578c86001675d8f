"""Code by keystone and capstone: other people's assembler and disassembler."""

import capstone
import keystone

from recordmcount import x86

MACHINES = [x86.EM_X86_64, x86.EM_386]


def only_instruction(machine: int, code: bytes) -> capstone.CsInsn:
    """Decode `code`, which must be exactly one instruction."""
    (instruction,) = instructions(machine, code)
    return instruction


def instructions(machine: int, code: bytes, address: int = 0) -> list[capstone.CsInsn]:
    mode = {x86.EM_X86_64: capstone.CS_MODE_64, x86.EM_386: capstone.CS_MODE_32}[machine]
    decoder = capstone.Cs(capstone.CS_ARCH_X86, mode)
    decoder.detail = True
    found = list(decoder.disasm(code, address))
    assert sum(instruction.size for instruction in found) == len(code)
    return found


def assembled(machine: int, text: str, address: int = 0) -> bytes:
    mode = {x86.EM_X86_64: keystone.KS_MODE_64, x86.EM_386: keystone.KS_MODE_32}[machine]
    assembler = keystone.Ks(keystone.KS_ARCH_X86, mode)
    assembler.syntax = keystone.KS_OPT_SYNTAX_ATT
    return bytes(assembler.asm(text, address)[0])
