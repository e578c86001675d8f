"""Machine code as text, for messages; nothing is ever decided by it."""

from capstone import CS_ARCH_X86, CS_MODE_64, Cs


def disassemble(code: bytes, address: int) -> str:
    """The instructions of 64-bit `code` at `address`, in Intel's syntax, joined by `; `.

    Bytes that are no whole instruction are `??`.
    """
    parts = []
    end = 0
    for instruction in Cs(CS_ARCH_X86, CS_MODE_64).disasm(code, address):
        parts.append(f"{instruction.mnemonic} {instruction.op_str}".strip())
        end += instruction.size
    if end < len(code):
        parts.append("??")
    return "; ".join(parts)
