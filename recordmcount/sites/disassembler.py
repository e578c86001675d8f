"""Capstone, for who is in doubt: whoever imports this does so late, for it takes its time.

Importing it raises ImportError where capstone is not to be had.
"""

from __future__ import annotations

from functools import cache

from recordmcount import x86
from recordmcount.packages import load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from capstone import Cs

capstone = load("capstone")


def decoder(machine: int) -> Cs:
    """Make a decoder for the code of e_machine `machine`."""
    mode = capstone.CS_MODE_32 if machine == x86.EM_386 else capstone.CS_MODE_64
    return capstone.Cs(capstone.CS_ARCH_X86, mode)


_kept = cache(decoder)


def lengths(machine: int, code: bytes) -> Iterator[int]:
    """Measure each instruction in bytes, up to one that is none."""
    return (size for _, size, _, _ in _kept(machine).disasm_lite(code, 0))
