"""How functions begin and end: before calls of mcount, and behind those of `__return__`."""

from .x86 import EM_386, EM_X86_64, ENDBR

PUSH_CHAIN = b"\x41\x52"  # push %r10: where gcc keeps the static chain of a nested function
SET_FRAME = bytes((0x55, 0x48, 0x89, 0xE5))  # push %rbp; mov %rsp,%rbp
LONGEST_BEFORE_FENTRY = len(ENDBR[0]) + len(PUSH_CHAIN)


def before_fentry(code: bytes) -> int:
    """Measure what of the bytes before a call of __fentry__ may belong to its function."""
    bare = code.removesuffix(PUSH_CHAIN)
    return len(code) - len(bare) + (4 if bare.endswith(ENDBR) else 0)


# What compilers put before the call of mcount, nearly always: how each instruction begins, and its
# length in bytes.
_PUSHES = tuple([bytes((opcode,)) for opcode in range(0x50, 0x58)])
_USUAL = {
    EM_X86_64: {
        b"\xf3\x0f\x1e\xfa": 4,  # endbr64
        **dict.fromkeys(_PUSHES, 1),  # push %reg
        **dict.fromkeys([b"\x41" + push for push in _PUSHES], 2),  # of %r8 and those behind
        b"\x48\x89\xe5": 3,  # mov %rsp,%rbp
        b"\x48\x83\xec": 4,  # sub $imm8,%rsp
        b"\x48\x81\xec": 7,  # sub $imm32,%rsp
        b"\x4c\x8d\x54\x24\x08": 5,  # the stack is realigned: lea 8(%rsp),%r10
        b"\x48\x83\xe4": 4,  # and $imm8,%rsp
        b"\x41\xff\x72\xf8": 4,  # push -8(%r10)
    },
    EM_386: {
        b"\xf3\x0f\x1e\xfb": 4,  # endbr32
        **dict.fromkeys(_PUSHES, 1),
        **dict.fromkeys([bytes((opcode,)) for opcode in range(0x58, 0x60)], 1),  # pop %reg
        b"\x89\xe5": 2,  # mov %esp,%ebp
        b"\x83\xec": 3,  # sub $imm8,%esp
        b"\x81\xec": 6,  # sub $imm32,%esp
        b"\x8d\x4c\x24\x04": 4,  # the stack is realigned: lea 4(%esp),%ecx
        b"\x83\xe4": 3,  # and $imm8,%esp
        b"\xff\x71\xfc": 3,  # push -4(%ecx)
        b"\xe8": 5,  # call of a thunk, for the GOT
        **dict.fromkeys([bytes((0x81, modrm)) for modrm in range(0xC0, 0xC8)], 6),  # add $imm,%reg
        b"\x05": 5,  # add $imm32,%eax
    },
}


def _by_first_byte(lengths: dict[bytes, int]) -> dict[int, list[tuple[bytes, int]]]:
    return {
        first: [(start, length) for start, length in lengths.items() if start[0] == first]
        for first in {start[0] for start in lengths}
    }


_PROLOGUES = {machine: _by_first_byte(lengths) for machine, lengths in _USUAL.items()}


def is_prologue(machine: int, code: bytes) -> bool:
    """Tell whether `code` is whole instructions, all of them such as stand before most sites."""
    usual, at = _PROLOGUES[machine], 0
    while at < len(code):
        for start, length in usual.get(code[at], ()):
            if code.startswith(start, at):
                at += length
                break
        else:
            return False
    return at == len(code)


# What may stand behind a call of `__return__`: ret, jmp, `jmp *`, as gcc spells them.
_RETURNS = (b"\xc3", b"\xc2", b"\xf3\xc3")  # ret; ret $imm16; rep ret
_TAIL_CALLS = (b"\xe9", b"\xeb", b"\xff\x25")  # jmp near; short; *disp32
_TAIL_CALLS_BY_REGISTER = tuple(bytes((0xFF, modrm)) for modrm in range(0xE0, 0xE8))
_PREFIXES_OF_ENDS = b"\xf2\x3e\x41"  # bnd; notrack; REX.B


def ends_function(code: bytes) -> bool:
    """Tell whether `code` begins with what a function is left by: a return, or a tail call."""
    bare = code.lstrip(_PREFIXES_OF_ENDS)
    return bare.startswith((*_RETURNS, *_TAIL_CALLS, *_TAIL_CALLS_BY_REGISTER))
