"""Capstone, for who is in doubt: whoever imports this does so late, for it takes its time."""

from __future__ import annotations

from functools import cache

from capstone import CS_ARCH_X86, CS_MODE_32, CS_MODE_64, Cs

from recordmcount import x86

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def decoder(machine: int) -> Cs:
    """Make a decoder for the code of e_machine `machine`."""
    return Cs(CS_ARCH_X86, CS_MODE_32 if machine == x86.EM_386 else CS_MODE_64)


_kept = cache(decoder)


def lengths(machine: int, code: bytes) -> Iterator[int]:
    """Measure each instruction in bytes, up to one that is none."""
    return (size for _, size, _, _ in _kept(machine).disasm_lite(code, 0))
