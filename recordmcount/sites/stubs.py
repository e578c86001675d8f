"""Where linker-made code leads, told by what it does: for stubs whose shape is not a known one.

A stub is executed in the head: what registers and the stack hold is followed as far as it is known,
until the stub leaves by a jump, or by the `ret` of a retpoline. Nearly all stubs have a shape that
x86 knows, and are not looked at here.
"""

from __future__ import annotations

from recordmcount import x86
from recordmcount.packages import load

from .disassembler import decoder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

x86_const = load("capstone.x86_const")

MOST_STEPS = 32  # instructions; the longest stub known, lld's retpoline on i386, has ten
_STACK = "rsp"
_IDLE = (x86_const.X86_INS_ENDBR64, x86_const.X86_INS_ENDBR32, x86_const.X86_INS_NOP)


class Slot:
    """What a word at a link-time virtual address, which is not on the stack, will hold."""

    __slots__ = ("address",)

    def __init__(self, address: int) -> None:
        self.address = address


class _UnknownError(Exception):
    """An instruction that is not followed."""


# A link-time virtual address, what a slot holds, or None: unknown.
if TYPE_CHECKING:
    Value = int | Slot | None


class Follower:
    """Follows stubs. `read` gives (up to) so many bytes of code at a link-time virtual address.

    `got_base` is what i386 code has in %ebx, if that is known.
    """

    def __init__(
        self, machine: int, read: Callable[[int, int], bytes], got_base: int | None
    ) -> None:
        is_386 = machine == x86.EM_386
        self._decoder = decoder(machine)
        self._decoder.detail = True
        self._word = 4 if is_386 else 8
        self._read = read
        self._ebx: Value = got_base

    def slot(self, start: int) -> int | None:
        """Return the address of the slot through which the stub at `start` jumps, or None.

        None is of code that does not, and of code that is not understood.
        """
        run = _Run(self._word, self._ebx)
        at: Value = start
        try:
            for _ in range(MOST_STEPS):
                if not isinstance(at, int):
                    break
                code = self._read(at, x86.LONGEST_INSTRUCTION)
                instruction = next(self._decoder.disasm(code, at, 1), None)
                if instruction is None:
                    return None
                at = run.step(instruction)
        except _UnknownError:
            return None
        return at.address if isinstance(at, Slot) and run.is_balanced else None


class _Run:
    """Registers and stack of one run; the stack begins with an unknown address of return."""

    def __init__(self, word: int, ebx: Value) -> None:
        self._word = word
        self._registers: dict[str, Value] = {"rbx": ebx}
        self._stack: list[Value] = [None]

    @property
    def is_balanced(self) -> bool:
        """Whether the stack is as it was: the callee finds what a call would have left."""
        return len(self._stack) == 1

    def step(self, instruction: Any) -> Value:
        """Execute one; where it goes on, which may be what a slot holds."""
        kind, end = instruction.id, int(instruction.address + instruction.size)
        operands = [_Operand(instruction, each) for each in instruction.operands]
        if kind == x86_const.X86_INS_CALL:
            goal = self._value(operands[0])
            self._stack.append(end)
            return goal
        if kind == x86_const.X86_INS_JMP:
            return self._value(operands[0])
        if kind == x86_const.X86_INS_RET and not operands and self._stack:
            return self._stack.pop()
        if kind == x86_const.X86_INS_PUSH:
            self._stack.append(self._value(operands[0]))
        elif kind == x86_const.X86_INS_POP and self._stack:
            self._assign(operands[0], self._stack.pop())
        elif kind in (x86_const.X86_INS_MOV, x86_const.X86_INS_MOVABS):
            self._assign(operands[0], self._value(operands[1]))
        elif kind == x86_const.X86_INS_LEA:
            self._assign(operands[0], self._address(operands[1]))
        elif kind not in _IDLE:
            raise _UnknownError
        return end

    def _value(self, operand: _Operand) -> Value:
        if operand.is_immediate:
            return int(operand.displacement)
        if operand.register:
            return self._registers.get(str(operand.register))
        if operand.base == _STACK:
            at = self._stack_place(operand)
            return self._stack[at] if at >= 0 else None
        address = self._address(operand)
        return Slot(address) if address is not None else None

    def _assign(self, operand: _Operand, value: Value) -> None:
        if operand.register and operand.register != _STACK:
            self._registers[operand.register] = value
        elif operand.base == _STACK and self._stack_place(operand) >= 0:
            self._stack[self._stack_place(operand)] = value
        else:
            raise _UnknownError

    def _stack_place(self, operand: _Operand) -> int:
        if operand.has_index or operand.displacement % self._word:
            raise _UnknownError
        return len(self._stack) - 1 - operand.displacement // self._word

    def _address(self, operand: _Operand) -> int | None:
        base = self._registers.get(operand.base) if operand.base else 0
        if operand.has_index or not isinstance(base, int):
            return None
        return base + operand.displacement & (1 << 8 * self._word) - 1


class _Operand:
    """An operand: an immediate, a register, or memory at a base and a displacement.

    Registers are named as those of 64 bits; one of fewer than 32 is not followed. Memory that is
    relative to %rip has no base.
    """

    __slots__ = ("is_immediate", "register", "base", "displacement", "has_index")

    def __init__(self, instruction: Any, operand: Any) -> None:
        self.is_immediate = operand.type == x86_const.X86_OP_IMM
        self.register = self.base = ""
        self.displacement = operand.imm if self.is_immediate else 0
        self.has_index = False
        if operand.type == x86_const.X86_OP_REG:
            self.register = _wide(instruction.reg_name(operand.reg))
        elif operand.type == x86_const.X86_OP_MEM:
            if operand.mem.segment:
                raise _UnknownError
            self.has_index = bool(operand.mem.index)
            self.displacement = operand.mem.disp
            if operand.mem.base == x86_const.X86_REG_RIP:
                self.displacement += instruction.address + instruction.size
            elif operand.mem.base:
                self.base = _wide(instruction.reg_name(operand.mem.base))


def _wide(name: str) -> str:
    """Name the register of 64 bits that has this one in it."""
    if name.startswith("e"):
        return "r" + name[1:]
    if name.startswith("r"):
        return name.removesuffix("d")
    raise _UnknownError
