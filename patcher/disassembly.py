"""Machine code as text, for messages; nothing is ever decided by it."""

from capstone import CS_ARCH_X86, CS_MODE_32, CS_MODE_64, Cs

from recordmcount.x86 import EM_386, EM_X86_64


def disassemble(code: bytes, address: int, machine: int = EM_X86_64) -> str:
    """The instructions of `code` at `address`, in Intel's syntax, joined by `; `.

    `machine` is the e_machine of what they are for. Bytes that are no whole instruction are `??`.
    """
    mode = CS_MODE_32 if machine == EM_386 else CS_MODE_64
    parts = []
    end = 0
    for instruction in Cs(CS_ARCH_X86, mode).disasm(code, address):
        parts.append(f"{instruction.mnemonic} {instruction.op_str}".strip())
        end += instruction.size
    if end < len(code):
        parts.append("??")
    return "; ".join(parts)
