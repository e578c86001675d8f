"""Machine code as text, for messages; nothing is ever decided by it."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from recordmcount.sites.site import Site
from recordmcount.x86 import EM_X86_64

if TYPE_CHECKING:
    from capstone import Cs


def disassemble(code: bytes, address: int, machine: int = EM_X86_64) -> str:
    """The instructions of `code` at `address`, in Intel's syntax, joined by `; `.

    `machine` is the e_machine of what they are for. Bytes that are no whole instruction are `??`;
    so is everything where capstone is not to be had, as a message without it is still of use.
    """
    disassembler = _disassembler(machine)
    if disassembler is None:
        return "??"
    parts = []
    end = 0
    for _, size, mnemonic, operands in disassembler.disasm_lite(code, address):
        parts.append(f"{mnemonic} {operands}".strip())
        end += size
    if end < len(code):
        parts.append("??")
    return "; ".join(parts)


def describe(site: Site) -> str:
    """Tell what stands at a foreign site, and what should: bytes, decoded."""

    def both(code: bytes) -> str:
        return f"{code.hex(' ')} ({disassemble(code, site.position, site.machine)})"

    expected = " or ".join(both(call) for call in site.expected)
    wanted = f"; expected {expected}" if expected else ""
    actual = f": {both(site.code)}" if site.code else ""
    return f"{site.reason}{actual}{wanted}"


@cache  # thousands of sites may be foreign
def _disassembler(machine: int) -> Cs | None:
    try:
        from recordmcount.sites.disassembler import decoder
    except ImportError:
        return None
    return decoder(machine)
