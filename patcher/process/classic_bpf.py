"""Programs of classic BPF as seccomp takes them: what one returns for a system call.

Such a program reads a `struct seccomp_data`, has an accumulator, an index register and 16 words of
memory, all of 32 bits, and only jumps forward. The kernel has checked it when it was installed;
here that is checked again, so that no program whatever does anything but to return.
(Documentation/networking/filter.rst; Documentation/userspace-api/seccomp_filter.rst; opcodes:
linux/bpf_common.h. The accumulator, the index and the memory are 0 at first, and a division by an
index of 0 ends the program with 0.)
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from struct import Struct, unpack_from
from typing import NamedTuple

DATA = Struct("<iIQ6Q")  # struct seccomp_data: number, architecture, instruction pointer, arguments
AUDIT_ARCH_X86_64 = 0xC000003E
INSTRUCTION = Struct("<HBBI")  # struct sock_filter
WORDS = 16  # of memory
_ALL = 0xFFFF_FFFF

# The low three bits of an opcode are its class.
LD, LDX, ST, STX, ALU, JMP, RET, MISC = range(8)
ABS, MEM, LEN = 0x20, 0x60, 0x80  # a load of data, of memory, of the size of the data; else of k
X = 0x08  # the operand of ALU and JMP is the index; else it is k
DIV, LSH, RSH, NEG, JA = 0x30, 0x60, 0x70, 0x80, 0x00
RET_A = 0x10  # what is returned is the accumulator; else it is k
TXA = 0x80  # index to accumulator; else the other way

_CALCULATE: dict[int, Callable[[int, int], int]] = {
    0x00: operator.add,
    0x10: operator.sub,
    0x20: operator.mul,
    DIV: operator.floordiv,
    0x40: operator.or_,
    0x50: operator.and_,
    LSH: lambda value, by: value << (by & 31),  # as the processor shifts
    RSH: lambda value, by: value >> (by & 31),
    NEG: lambda value, _: -value,
    0xA0: operator.xor,
}
_COMPARE: dict[int, Callable[[int, int], int]] = {
    0x10: operator.eq, 0x20: operator.gt, 0x30: operator.ge, 0x40: operator.and_,
}  # fmt: skip
# All that seccomp takes.
OPCODES = frozenset(
    (
        *(kind | mode for kind in (LD, LDX) for mode in (0, MEM, LEN)),
        LD | ABS, ST, STX, RET, RET | RET_A, MISC, MISC | TXA, ALU | NEG, JMP | JA,
        *(ALU | how | source for how in _CALCULATE if how != NEG for source in (0, X)),
        *(JMP | how | source for how in _COMPARE for source in (0, X)),
    )
)  # fmt: skip


class Instruction(NamedTuple):
    """One instruction: `jump_if` and `jump_else` count the instructions that are skipped."""

    code: int
    jump_if: int
    jump_else: int
    k: int


def decode(content: bytes) -> list[Instruction]:
    """Return the instructions of a program. Raises ValueError for one that seccomp never took."""
    if not content or len(content) % INSTRUCTION.size:
        raise ValueError(f"no program has {len(content)} bytes")
    program = [Instruction(*fields) for fields in INSTRUCTION.iter_unpack(content)]
    for number, each in enumerate(program):
        if why := _why_invalid(each, len(program) - number - 1):
            raise ValueError(f"instruction {number} ({each.code:#x}, {each.k:#x}) {why}")
    if program[-1].code & 7 != RET:
        raise ValueError("the last instruction does not return")
    return program


def _why_invalid(each: Instruction, left: int) -> str:
    """Say why an instruction with `left` more behind it is none; empty if it is one."""
    if each.code not in OPCODES:
        return "is unknown"
    if each.code & 7 == JMP:
        is_always = each.code & 0xF0 == JA
        furthest = each.k if is_always else max(each.jump_if, each.jump_else)
        return "" if furthest < left else "jumps behind the end"
    is_of_memory = each.code in (ST, STX, LD | MEM, LDX | MEM)
    reasons = {
        "loads what is no word of the data": each.code == LD | ABS
        and each.k not in range(0, DATA.size, 4),
        "is for a word that is not there": is_of_memory and each.k >= WORDS,
        "divides by 0": each.code == ALU | DIV and not each.k,
        "shifts by more than there is": each.code in (ALU | LSH, ALU | RSH) and each.k > 31,
    }
    return next((reason for reason, applies in reasons.items() if applies), "")


def run(program: Sequence[Instruction], data: bytes) -> int:  # noqa: PLR0912 - a case a class
    """Return what a program that was decoded returns for a `struct seccomp_data`."""
    accumulator = index = at = 0
    memory = [0] * WORDS
    while True:
        code, jump_if, jump_else, k = program[at]
        at += 1
        kind, operation = code & 7, code & 0xF0
        operand = index if code & X else k
        if kind == LD:
            accumulator = _loaded(code, k, memory, data)
        elif kind == LDX:
            index = _loaded(code, k, memory, data)
        elif kind == ST:
            memory[k] = accumulator
        elif kind == STX:
            memory[k] = index
        elif kind == ALU:
            if operation == DIV and not operand:
                return 0
            accumulator = _CALCULATE[operation](accumulator, operand) & _ALL
        elif kind == JMP:
            if operation == JA:
                at += k
            else:
                at += jump_if if _COMPARE[operation](accumulator, operand) else jump_else
        elif kind == RET:
            return accumulator if code & RET_A else k
        elif code & TXA:
            accumulator = index
        else:
            index = accumulator


def _loaded(code: int, k: int, memory: Sequence[int], data: bytes) -> int:
    mode = code & 0xE0
    if mode == ABS:
        return int(unpack_from("<I", data, k)[0])
    return memory[k] if mode == MEM else DATA.size if mode == LEN else k
