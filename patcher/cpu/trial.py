"""Tells whether the processor at hand executes code as one instruction, without any effect.

The code is tried in a child process, which may die of it: of an invalid opcode, of a fault, of a
timeout in a loop. All general registers but the stack pointer hold values that are no addresses, so
that access to memory through one of them faults. The trap flag stops the processor after one
instruction, which must have reached the end of the code. Then registers and flags are compared, but
not vector registers, nor memory that is not reached through a register.

This file is also the child's program: `python trial.py HANDLER BEFORE AFTER CODE...`, all in hex.
"""

import mmap
import struct
import sys
from collections.abc import Iterable, Sequence

CHILD_SECONDS = 30
PROCESSOR_SECONDS = 1  # of these 30

# void trial(const uint64_t before[16], uint64_t after[16]), around the code: these registers, then
# the flags. BEFORE loads them, the flags last, so that the trap flag counts from the code on.
# (Numbers are written as 0x..., for keystone reads those without a prefix as hexadecimal, too.)
REGISTERS = ["rax", "rcx", "rdx", "rbx", "rbp", "rsi", "rdi", *(f"r{n}" for n in range(8, 16))]
BEFORE = f"""
    push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15
    push %rsi
    push 0x78(%rdi)
    {"; ".join(f"mov {8 * n:#x}(%rdi), %{REGISTERS[n]}" for n in range(15) if n != 6)}
    mov 0x30(%rdi), %rdi
    popfq
"""
# AFTER pushes them, and copies them to the address that BEFORE left on the stack beneath them. A
# changed stack pointer finds another address there: most likely an invalid one, else wrong values.
AFTER = f"""
    pushfq
    {"; ".join(f"push %{name}" for name in reversed(REGISTERS))}
    mov 0x80(%rsp), %rdi
    mov %rsp, %rsi
    mov $0x10, %ecx
    cld
    rep movsq
    add $0x88, %rsp
    pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx
    ret
"""
# void handler(int, siginfo_t *, ucontext_t *) of SIGTRAP: notes why and where the processor has
# stopped, and clears the trap flag. 8 is si_code, 0xa8 and 0xb0 are gregs[REG_RIP] and
# gregs[REG_EFL] of <sys/ucontext.h>.
HANDLER = """
    mov 8(%rsi), %eax
    mov %eax, why(%rip)
    mov 0xa8(%rdx), %rax
    mov %rax, where(%rip)
    andq $-0x101, 0xb0(%rdx)
    ret
    why: .quad 0
    where: .quad 0
"""
NOTES = struct.Struct("QQ")  # why and where, the last bytes of the handler
TRAP_TRACE = 2  # for the trap flag; an int3 in the code has another si_code

LONGEST_INSTRUCTION = 15  # bytes
TRAP_FLAG = 0x100
# Interrupts are on and bit 1 is set in both. The second has carry, parity, adjust, zero, sign,
# direction and overflow as well.
FLAGS = (0x202, 0xED7)
# Each register holds one of these plus its number: no address, for the highest bits differ.
VALUES = (0x5A5A_5A5A_5A5A_5A00, 0xA5A5_A5A5_A5A5_A500)


def executes(codes: Iterable[bytes], seconds: float = CHILD_SECONDS) -> bool:
    """Tell whether each of `codes` is one instruction that this processor executes without effect.

    The answer is False, too, if the child takes longer than `seconds`. Raises OSError if nothing
    can be tried: not on Linux for x86-64, or no page may be writable and executable.
    """
    import os
    import subprocess
    from errno import EIO, ENOTSUP

    if sys.platform != "linux" or os.uname().machine != "x86_64" or sys.maxsize < 1 << 32:
        raise OSError(ENOTSUP, "instructions can be tried on Linux for x86-64 only")
    words = [code.hex() for code in (*_assembled(HANDLER, BEFORE, AFTER), *codes)]
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", __file__, *words], check=False, timeout=seconds,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return False
    if done.returncode < 0:
        return False
    if done.stdout not in ("yes", "no"):
        number = int(done.stdout or EIO)
        raise OSError(number, f"instructions cannot be tried: {os.strerror(number)}")
    return done.stdout == "yes"


def _assembled(*sources: str) -> list[bytes]:
    from keystone import KS_ARCH_X86, KS_MODE_64, KS_OPT_SYNTAX_ATT, Ks

    assembler = Ks(KS_ARCH_X86, KS_MODE_64)
    assembler.syntax = KS_OPT_SYNTAX_ATT
    return [bytes(assembler.asm(source)[0]) for source in sources]


# --- the child ------------------------------------------------------------------------------------


def main(words: Sequence[str]) -> None:
    """Try the codes; print `yes`, `no`, or the errno that prevents the trial."""
    import os

    handler, before, after, *codes = map(bytes.fromhex, words)
    _limit_damage()
    try:
        page = _writable_code()
    except OSError as error:
        answer = str(error.errno)
    else:
        good = all(_is_harmless(page, handler, before, code, after) for code in codes)
        answer = "yes" if good else "no"
    os.write(1, answer.encode())
    os._exit(0)


def _limit_damage() -> None:
    import ctypes
    import resource

    resource.setrlimit(resource.RLIMIT_CPU, (PROCESSOR_SECONDS, PROCESSOR_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pr_set_dumpable = 4
    ctypes.CDLL(None).prctl(pr_set_dumpable, 0, 0, 0, 0)  # no core dump into a pipe either


def _writable_code() -> mmap.mmap:
    return mmap.mmap(
        -1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS,
        mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC,
    )  # fmt: skip


def _is_harmless(page: mmap.mmap, handler: bytes, before: bytes, code: bytes, after: bytes) -> bool:
    """Tell whether one instruction takes the processor behind `code`, and changes nothing else."""
    from ctypes import CFUNCTYPE, addressof, c_char, c_uint64, c_void_p

    if len(code) > LONGEST_INSTRUCTION:
        return False
    page[:] = (handler + before + code + after).ljust(len(page), b"\xcc")
    start = addressof(c_char.from_buffer(page))
    end = start + len(handler + before + code)
    _handle_traps(start)
    trial = CFUNCTYPE(None, c_void_p, c_void_p)(start + len(handler))
    for value, flags in zip(VALUES, FLAGS, strict=True):
        NOTES.pack_into(page, len(handler) - NOTES.size, 0, 0)
        values = [value + number for number in range(len(REGISTERS))]
        first, last = (c_uint64 * 16)(*values, flags | TRAP_FLAG), (c_uint64 * 16)()
        trial(first, last)
        stopped = NOTES.unpack_from(page, len(handler) - NOTES.size)
        if stopped != (TRAP_TRACE, end) or [*last] != [*values, flags]:
            return False
    return True


def _handle_traps(handler: int) -> None:
    import ctypes
    import signal

    sa_siginfo = 4
    action = struct.pack("P128xi4xP", handler, sa_siginfo, 0)  # struct sigaction of x86-64
    ctypes.CDLL(None).sigaction(signal.SIGTRAP, action, None)


if __name__ == "__main__":
    main(sys.argv[1:])
