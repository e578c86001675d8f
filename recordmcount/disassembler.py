"""capstone, for who needs to know where instructions begin or what they say."""

from __future__ import annotations

from functools import cache

from recordmcount.x86 import EM_386

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capstone import Cs


@cache
def disassembler(machine: int) -> Cs | None:
    """Return the disassembler for an e_machine; None where capstone is not to be had."""
    try:
        find_packages()
        from capstone import CS_ARCH_X86, CS_MODE_32, CS_MODE_64, Cs
    except ImportError:
        return None
    return Cs(CS_ARCH_X86, CS_MODE_32 if machine == EM_386 else CS_MODE_64)


def find_packages() -> None:
    """Look where packages are installed, which Python has not done if it was started with -S."""
    import site
    import sys

    if sys.flags.no_site:
        site.main()
