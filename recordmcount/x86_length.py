"""How long instructions are: enough of decoding to find where the next one begins.

It is asked when bytes alone cannot tell an opcode from the middle of an instruction: of objects so
rarely that few runs import it. (Intel SDM vol. 2, chapter 2 and opcode maps in appendix A; VEX,
EVEX there; XOP: AMD64 APM vol. 6.)
"""

from .x86 import PREFIXES, REX

# By opcode: what follows it. `.` nothing, `M` ModRM with what that brings, `b` 1 byte, `w` 2, `e`
# 3, `z` 4 (2 with operands of 16 bits), `v` as `z` but 8 with REX.W, `o` an address, `f` a far
# pointer, `j` what a branch adds, `m` ModRM and 1 byte, `Z` ModRM and `z`, `g` and `G` the same for
# two of its eight instructions, `?` unknown, or told otherwise. (A mov of a control or debug
# register has a ModRM byte and nothing else, so `b`.)
_ONE_BYTE = (
    "MMMMbz..MMMMbz.?MMMMbz..MMMMbz..MMMMbz..MMMMbz..MMMMbz..MMMMbz.."
    "...................................M????zZbm....bbbbbbbbbbbbbbbb"
    "mZmmMMMMMMMMMMMM..........f.....oooo....bz......bbbbbbbbvvvvvvvv"
    "mmw.??mZe.w..b..MMMMbb..MMMMMMMMbbbbbbbbjjfb....?.??..gG......MM"
)  # fmt: skip
_TWO_BYTES = (  # behind 0f
    "MMMM?.....?.?M.mMMMMMMMMMMMMMMMMbbbb????MMMMMMMM........????????"
    "MMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMmmmmMMM.?M??MMMM"
    "jjjjjjjjjjjjjjjjMMMMMMMMMMMMMMMM...MmM??...MmMMMMMMMMMMMMMmMMMMM"
    "MMmMmmmM........MMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMM"
)  # fmt: skip
_ONLY_32 = frozenset(  # no instructions in 64-bit code
    (0x06, 0x07, 0x0E, 0x16, 0x17, 0x1E, 0x1F, 0x27, 0x2F, 0x37, 0x3F, 0x60, 0x61, 0x82, 0x9A,
     0xCE, 0xD4, 0xD5, 0xD6, 0xEA)
)  # fmt: skip
_IN_MAP = {2: "M", 3: "m", 5: "M", 6: "M", 8: "m", 9: "M", 10: "Z"}  # of VEX, EVEX and XOP
LONGEST = 15


def covering(code: bytes, start: int, place: int, bits: int) -> tuple[int, int]:
    """Find the instruction that covers index `place`: (its first byte, its opcode).

    Both are -1 if what is before it cannot be decoded. `code` is decoded from the instruction at
    `start` on, as code of 64, 32 or 16 `bits`.
    """
    while True:
        opcode = opcode_at(code, start, bits)
        if opcode >= place:
            return start, opcode
        size = length(code, start, bits)
        if not size:
            return -1, -1
        if start + size > place:
            return start, opcode
        start += size


def length(code: bytes, start: int, bits: int) -> int:
    """Measure the instruction at index `start` in bytes; 0 if it is unknown, or not all there."""
    at = opcode_at(code, start, bits)
    try:
        end = _end(code, at, _Prefixes(code[start:at], bits))
    except IndexError:
        return 0
    size = end - start
    return size if at <= end <= len(code) and size <= LONGEST else 0


class _Prefixes:
    """What prefixes say of an instruction: sizes in bytes of its operands and addresses."""

    __slots__ = ("bits", "operand", "address", "wide")

    def __init__(self, prefixes: bytes, bits: int) -> None:
        self.bits = bits
        self.wide = bits == 64 and prefixes[-1:] != b"" and prefixes[-1] & 0xF8 == 0x48
        small = (0x66 in prefixes) != (bits == 16)
        self.operand = 2 if small and not self.wide else 4
        if bits == 64:
            self.address = 4 if 0x67 in prefixes else 8
        else:
            self.address = 2 if (0x67 in prefixes) != (bits == 16) else 4


def opcode_at(code: bytes, start: int, bits: int) -> int:
    """Find the first byte that is no prefix."""
    while start < len(code) and (code[start] in PREFIXES or (bits == 64 and code[start] in REX)):
        start += 1
    return start


def _end(code: bytes, at: int, prefixes: _Prefixes) -> int:
    """Find the end of the instruction whose opcode is at `at`; -1 if it is unknown."""
    opcode = code[at]
    # In 32-bit code these begin VEX and EVEX only where ModRM could not be a memory operand's.
    extends = prefixes.bits == 64 or code[at + 1] >= 0xC0 if opcode in (0x62, 0xC4, 0xC5) else False
    if opcode == 0xC5 and extends:
        return _in_map(code, at + 2, 1, prefixes)
    if (opcode == 0xC4 and extends) or (opcode == 0x8F and code[at + 1] & 0x38):
        return _in_map(code, at + 3, code[at + 1] & 0x1F, prefixes)
    if opcode == 0x62 and extends:
        return _in_map(code, at + 4, code[at + 1] & 0x07, prefixes)
    if opcode in (0x62, 0xC4, 0xC5):  # bound, les, lds
        return _tail(code, at + 1, "M", prefixes)
    if opcode == 0x0F:
        return _behind_0f(code, at + 1, prefixes)
    unknown = prefixes.bits == 64 and opcode in _ONLY_32
    return _tail(code, at + 1, "?" if unknown else _ONE_BYTE[opcode], prefixes)


def _behind_0f(code: bytes, at: int, prefixes: _Prefixes) -> int:
    second = code[at]
    if second in (0x38, 0x3A):
        return _tail(code, at + 2, "m" if second == 0x3A else "M", prefixes)
    return _tail(code, at + 1, _TWO_BYTES[second], prefixes)


def _in_map(code: bytes, at: int, number: int, prefixes: _Prefixes) -> int:
    kind = _TWO_BYTES[code[at]] if number == 1 else _IN_MAP.get(number, "?")
    return _tail(code, at + 1, kind, prefixes)


def _tail(code: bytes, at: int, kind: str, prefixes: _Prefixes) -> int:
    """Find the end of an instruction from behind its opcode."""
    if kind in "MmZgG":
        register = code[at] >> 3 & 7
        if kind in "gG":
            kind = "M" if register > 1 else "m" if kind == "g" else "Z"
        at = _behind_modrm(code, at, prefixes)
        kind = {"M": ".", "m": "b", "Z": "z"}[kind]
    if kind == "j":  # processors differ about a branch behind data16 in 64-bit code
        kind = "?" if prefixes.bits == 64 and prefixes.operand == 2 else "z"
    if kind == "?":
        return -1
    if kind == "v" and prefixes.wide:
        return at + 8
    sizes = {
        ".": 0, "b": 1, "w": 2, "e": 3, "z": prefixes.operand, "v": prefixes.operand,
        "o": prefixes.address, "f": prefixes.operand + 2,
    }  # fmt: skip
    return at + sizes[kind]


def _behind_modrm(code: bytes, at: int, prefixes: _Prefixes) -> int:
    modrm = code[at]
    mod, base = modrm >> 6, modrm & 7
    at += 1
    if mod == 3:
        return at
    if prefixes.address == 2:
        return at + (2 if mod == 0 and base == 6 else mod)
    if base == 4:
        base = code[at] & 7
        at += 1
    if mod == 0:
        return at + (4 if base == 5 else 0)
    return at + (1 if mod == 1 else 4)
