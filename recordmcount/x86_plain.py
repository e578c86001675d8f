"""Which bytes are surely an instruction: those that compilers make most of are, and few others.

Lengths are measured of what no processor executes, too: bytes like those of an instruction are no
proof of one. (Intel SDM vol. 2, appendix A.)
"""

from .x86 import ENDBR, REX
from .x86_length import opcode_at

# Opcodes that with some ModRM or prefixes are no instruction, or one of which decoders differ: not
# those of memory operands (lea), or with one of these values in the reg field, a bit each. Behind
# 0f these never are.
_OFTEN_NONE = frozenset((0x62, 0x8F, 0xC2, 0xC4, 0xC5, *range(0xD9, 0xE0)))
_IN_MEMORY = (0x8D, 0xFF)
_GROUPS = {0x8C: 0x3F, 0x8E: 0x3D, 0xC6: 0x01, 0xC7: 0x01, 0xFE: 0x03, 0xFF: 0x7F}
_NEVER_NONE = frozenset(
    (0x0B, 0x10, 0x11, 0x1F, 0x28, 0x29, *range(0x40, 0x50), *range(0x80, 0xA0), 0xA2, 0xA3, 0xA4,
     0xA5, 0xAB, 0xAC, 0xAD, 0xAF, 0xB0, 0xB1, 0xB3, 0xB6, 0xB7, 0xBB, 0xBC, 0xBD, 0xBE, 0xBF, 0xC0,
     0xC1)
)  # fmt: skip
# With operands in memory these may have a lock prefix: of one byte, and behind 0f.
_LOCKED = frozenset((0x01, 0x09, 0x11, 0x19, 0x21, 0x29, 0x31, 0x87))
_LOCKED_BEHIND_0F = frozenset((0xAB, 0xB0, 0xB1, 0xB3, 0xBB, 0xC0, 0xC1))
_LOCKED_BELOW = {0x81: 0x38, 0x83: 0x38, 0xFF: 0x10}  # if the reg field of ModRM is below that
_LOCK = b"\xf0"
_NOP = b"\x0f\x1f"
_REX = bytes(REX)
_PLAIN_PREFIXES = (b"", b"\x2e", b"\x3e", b"\x64", b"\x65", b"\x66", b"\xf2", b"\xf3")


def is_plain(code: bytes, start: int, bits: int) -> bool:
    """Tell whether the bytes at index `start` are surely an instruction, if its length is known.

    For code of 64 or 32 `bits`.
    """
    at = opcode_at(code, start, bits)
    prefixes = code[start:at]
    bare = prefixes.rstrip(_REX) if bits == 64 else prefixes
    if len(code) < at + 3 or len(prefixes) > len(bare) + 1:
        return False
    opcode, following = code[at], code[at + 1]
    if bare == _LOCK:
        return _may_be_locked(code, at)
    if bare not in _PLAIN_PREFIXES:
        return not bare.strip(b"\x66\x2e") and code.startswith(_NOP, at)  # padding
    if opcode == 0x0F:
        is_never_none = following in _NEVER_NONE and bare not in (b"\xf2", b"\xf3")
        return is_never_none or code.startswith(ENDBR, start)
    is_one = _GROUPS.get(opcode, 0xFF) >> (following >> 3 & 7) & 1 and opcode not in _OFTEN_NONE
    return bool(is_one) and (opcode not in _IN_MEMORY or following < 0xC0)


def _may_be_locked(code: bytes, at: int) -> bool:
    """Tell whether an instruction may have a lock prefix: it changes its operand in memory."""
    opcode, modrm = code[at], code[at + 1]
    if opcode == 0x0F:
        return modrm in _LOCKED_BEHIND_0F and code[at + 2] < 0xC0
    is_one = opcode in _LOCKED or (opcode in _LOCKED_BELOW and modrm & 0x38 < _LOCKED_BELOW[opcode])
    return is_one and modrm < 0xC0
