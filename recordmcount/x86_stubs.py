"""Stubs of the PLT, and the slots of the GOT that they jump through."""

from _operator import add
from _struct import unpack_from
from itertools import compress, repeat

from .x86 import EM_386, EM_X86_64, ENDBR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Sequence


_STUB_BEGINS = {
    EM_X86_64: (ENDBR[0], b"\x41\xbb"),  # endbr64; mov $index,%r11d (mold)
    EM_386: (ENDBR[1], b"\xb9"),  # endbr32; mov $index,%ecx (mold)
}
_BND = b"\xf2"  # prefix, in 64-bit code
_JUMP_SLOT = b"\xff\x25"  # jmp *disp32, in 64-bit code jmp *disp32(%rip)
_JUMP_SLOT_OF_GOT = b"\xff\xa3"  # jmp *disp32(%ebx)


def plt_slot(machine: int, code: bytes, vaddr: int, got_base: "int | None") -> "int | None":
    """Tell through which slot the PLT stub `code` jumps, which is at `vaddr`; None if it is none.

    Of one in .plt, .plt.sec or .plt.got: [endbr] [mov] [bnd] jmp *disp32. All are link-time
    virtual addresses; `got_base` is what %ebx holds.
    """
    endbr, mov = _STUB_BEGINS[machine]
    at = len(endbr) if code.startswith(endbr) else 0
    if code.startswith(mov, at):
        at += len(mov) + 4
    if machine == EM_X86_64 and code.startswith(_BND, at):
        at += 1
    end = at + 6
    displacement = int.from_bytes(code[at + 2 : end], "little", signed=True)
    if len(code) < end:
        return None
    if code.startswith(_JUMP_SLOT, at):
        return vaddr + end + displacement if machine == EM_X86_64 else displacement & 0xFFFFFFFF
    if got_base is not None and code.startswith(_JUMP_SLOT_OF_GOT, at) and machine == EM_386:
        return got_base + displacement & 0xFFFFFFFF
    return None


def stub_begins(machine: int) -> "Sequence[tuple[int, bytes]]":
    """List (size in bytes, opcode) of what may stand before the jump of a stub, the nearest first.

    [endbr] [mov $index,%reg (mold)] [bnd] jmp
    """
    endbr, mov = _STUB_BEGINS[machine]
    bnd = ((len(_BND), _BND),) if machine == EM_X86_64 else ()
    return (*bnd, (len(mov) + 4, mov), (len(endbr), endbr))


LONGEST_STUB_BEGIN = 11


def slot_fields(
    machine: int, code: bytes, vaddr: int, slots: "Container[int]", got_base: "int | None"
) -> "list[int]":
    """Find the 4-byte fields by which `code`, which is at `vaddr`, may name a slot: their indices.

    They are relative to their end in 64-bit code, else addresses or relative to the GOT.
    """
    found: list[int] = []
    for first in range(min(4, len(code))):
        count = (len(code) - first) // 4
        places = range(first, first + 4 * count, 4)
        if machine == EM_X86_64:
            fields = unpack_from(f"<{count}i", code, first)
            origins: list[Iterable[int]] = [range(vaddr + first + 4, vaddr + len(code) + 4, 4)]
        else:
            fields = unpack_from(f"<{count}I", code, first)
            bases = [0, *([got_base, got_base - (1 << 32)] if got_base else [])]
            origins = list(map(repeat, bases))
        for origin in origins:
            found += compress(places, map(slots.__contains__, map(add, fields, origin)))
    return sorted(found)


def got_bases(code: bytes, vaddr: int) -> "Iterator[int]":
    """Find what 32-bit code, which is at `vaddr`, adds to its own address: that of the GOT, mostly.

    call thunk; add $imm32,%reg (gcc), or call .+5; pop %reg; add $imm32,%reg (clang): what is added
    counts from the end of the call.
    """
    import re

    computed = rb"\xe8.{4}[\x58-\x5f]?(?:\x81[\xc0-\xc3\xc5-\xc7]|\x05)(.{4})"
    for match in re.finditer(computed, code, re.DOTALL):
        end = vaddr + match.start() + 5
        yield end + int.from_bytes(match[1], "little") & 0xFFFFFFFF
