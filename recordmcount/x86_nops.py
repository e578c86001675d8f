"""NOPs of every length: how they are written, and how long those are that stand in code."""

from .x86 import CALL, NOP5, NOP6, NOP12, NOP13

# NOPs by length in bytes: one instruction each, in 32- and 64-bit code, up to the longest there is.
# Intel SDM vol. 2B "NOP", table 4-12; beyond 9 bytes the prefixes that GNU as puts there.
NOP8 = bytes((0x0F, 0x1F, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00))  # nopl 0x0(%rax,%rax,1)
NOPS = {
    1: bytes((0x90,)),  # nop
    2: bytes((0x66, 0x90)),  # xchg %ax,%ax
    3: bytes((0x0F, 0x1F, 0x00)),  # nopl (%rax)
    4: bytes((0x0F, 0x1F, 0x40, 0x00)),  # nopl 0x0(%rax)
    5: NOP5,  # nopl 0x0(%rax,%rax,1)
    6: NOP6,  # nopw 0x0(%rax,%rax,1)
    7: bytes((0x0F, 0x1F, 0x80, 0x00, 0x00, 0x00, 0x00)),  # nopl 0x0(%rax)
    8: NOP8,  # nopl 0x0(%rax,%rax,1)
    9: bytes((0x66,)) + NOP8,  # nopw 0x0(%rax,%rax,1)
    10: bytes((0x66, 0x2E)) + NOP8,  # cs nopw 0x0(%rax,%rax,1)
    11: bytes((0x66, 0x66, 0x2E)) + NOP8,  # data16 cs nopw 0x0(%rax,%rax,1)
    12: NOP12,  # data16 data16 cs nopw 0x0(%rax,%rax,1)
    13: NOP13,  # data16 data16 data16 cs nopw 0x0(%rax,%rax,1)
    14: bytes((0x66,)) + NOP13,  # data16 data16 data16 data16 cs nopw 0x0(%rax,%rax,1)
    15: bytes((0x66, 0x66)) + NOP13,  # data16 data16 data16 data16 data16 cs nopw 0x0(%rax,%rax,1)
}
# For the K8: prefixes before the one-byte nop, which is xchg %ax,%ax behind the first of them.
K8_NOPS = {length: b"\x66" * (length - 1) + b"\x90" for length in range(1, 16)}
SHORT_JUMP = b"\xeb"  # jmp target, of which only NOPs are made
# A short jump to the end, jmp .+length: no processor is without it. What it skips is never
# executed, yet consists of one-byte nops: a decoder that ignores the jump is in step behind them.
JUMP_NOPS = {
    length: SHORT_JUMP + bytes((length - 2,)) + NOPS[1] * (length - 2) for length in range(2, 16)
}
JUMP_NOPS[1] = NOPS[1]  # shorter than any jump
NOP_FAMILIES = {"p6": NOPS, "k8": K8_NOPS, "jump": JUMP_NOPS}
NOP_INSTRUCTIONS = ("nop", "xchg ax, ax")  # as capstone spells those of `NOPS`
_NOPL_LENGTHS = {NOPS[length][2:3]: length for length in (3, 4, 5, 7, 8)}  # by their ModRM byte


def nop_length(code: bytes) -> int:
    """Measure the NOP that `code` begins with, in bytes; 0 if it is none of this module's."""
    bare = code.lstrip(b"\x66\x2e\x36\x3e\xf2")
    prefixes = len(code) - len(bare)
    if bare.startswith(NOPS[1]):
        return prefixes + 1
    if bare.startswith(NOPS[3][:2]) and (length := _NOPL_LENGTHS.get(bare[2:3])):
        return prefixes + length
    return 0


def nop_ends(code: bytes) -> "list[int]":
    """List where the NOPs that `code` begins with end, each as bytes from its start."""
    ends = [0]
    while (length := nop_length(code[ends[-1] :])) and ends[-1] + length <= len(code):
        ends.append(ends[-1] + length)
    return ends[1:]


def parted_nops(length: int) -> bytes:
    """Spell `length` bytes of NOPs that are parted as by a call in their place: behind 5 bytes."""
    return NOP5 + NOPS.get(length - CALL.length, b"")
