"""How functions begin and end: before calls of mcount, and behind those of `__return__`."""

from .x86 import EM_386, EM_X86_64, ENDBR

PUSH_CHAIN = b"\x41\x52"  # push %r10: where gcc keeps the static chain of a nested function
SET_FRAME = bytes((0x55, 0x48, 0x89, 0xE5))  # push %rbp; mov %rsp,%rbp
LONGEST_BEFORE_FENTRY = len(ENDBR[0]) + len(PUSH_CHAIN)


def before_fentry(code: bytes) -> int:
    """Measure what of the bytes before a call of __fentry__ may belong to its function."""
    bare = code.removesuffix(PUSH_CHAIN)
    return len(code) - len(bare) + (4 if bare.endswith(ENDBR) else 0)


# What compilers put before the call of mcount, as instructions of known length: most of it is this.
_PROLOGUES = {
    EM_X86_64: (
        rb"\xf3\x0f\x1e\xfa",  # endbr64
        rb"[\x50-\x57]|\x41[\x50-\x57]",  # push
        rb"\x48\x89\xe5",  # mov %rsp,%rbp
        rb"\x48\x83\xec.|\x48\x81\xec.{4}",  # sub $imm,%rsp
        rb"\x4c\x8d\x54\x24\x08|\x48\x83\xe4.|\x41\xff\x72\xf8",  # the stack is realigned
    ),
    EM_386: (
        rb"\xf3\x0f\x1e\xfb",  # endbr32
        rb"[\x50-\x57]|[\x58-\x5f]",  # push, pop
        rb"\x89\xe5",  # mov %esp,%ebp
        rb"\x83\xec.|\x81\xec.{4}",  # sub $imm,%esp
        rb"\x8d\x4c\x24\x04|\x83\xe4.|\xff\x71\xfc",  # the stack is realigned
        rb"\xe8.{4}|\x81[\xc0-\xc7].{4}|\x05.{4}",  # call of a thunk; add $imm,%reg: the GOT
    ),
}


def is_prologue(machine: int, code: bytes) -> bool:
    """Tell whether `code` is whole instructions, all of them such as stand before most sites."""
    import re

    pattern = b"(?:" + b"|".join(_PROLOGUES[machine]) + b")*"
    return re.fullmatch(pattern, code, re.DOTALL) is not None  # `re` keeps what it compiled


# What may stand behind a call of `__return__`: ret, jmp, `jmp *`, as gcc spells them.
_RETURNS = (b"\xc3", b"\xc2", b"\xf3\xc3")  # ret; ret $imm16; rep ret
_TAIL_CALLS = (b"\xe9", b"\xeb", b"\xff\x25")  # jmp near; short; *disp32
_TAIL_CALLS_BY_REGISTER = tuple(bytes((0xFF, modrm)) for modrm in range(0xE0, 0xE8))
_PREFIXES_OF_ENDS = b"\xf2\x3e\x41"  # bnd; notrack; REX.B


def ends_function(code: bytes) -> bool:
    """Tell whether `code` begins with what a function is left by: a return, or a tail call."""
    bare = code.lstrip(_PREFIXES_OF_ENDS)
    return bare.startswith((*_RETURNS, *_TAIL_CALLS, *_TAIL_CALLS_BY_REGISTER))
