"""What tells that a site is one: a word for each kind of evidence, as reports have it.

In order of trust. What stands in a table was recorded before the link, when relocations told it. A
relocation that the linker kept, or left to the loader, names mcount itself. Without these, a call
is resolved: its operand must lead to mcount, and a function's instructions, decoded from its start,
must lead to the call. Where it is not known which function that is, the call is likely, no more.
"""

from __future__ import annotations

TABLE = "table"  # __mcount_loc has an entry
RELOCATION = "relocation"  # of an object
EMITTED_RELOCATION = "emitted relocation"  # kept by --emit-relocs
TEXT_RELOCATION = "text relocation"  # the loader's, in the code
MARK = "mark"  # a NOP that patcher made of a call, as those that a table names
PATCHABLE_ENTRY = "patchable entry"  # of __patchable_function_entries
PLT = "PLT"  # the call goes to a stub that jumps through a slot of mcount's
GOT = "GOT"  # the call goes through such a slot
DIRECT = "direct"  # the call goes to a definition of mcount

_LIKELY = "likely "


def likely(resolved: str) -> str:
    """Weaken what a call was resolved by: no function is known to lead to it."""
    return _LIKELY + resolved


def is_likely(evidence: str) -> bool:
    """Tell whether it is no proof."""
    return evidence.startswith(_LIKELY)


ALL = (
    TABLE, RELOCATION, EMITTED_RELOCATION, TEXT_RELOCATION, MARK, PATCHABLE_ENTRY, PLT, GOT, DIRECT,
    *map(likely, (PLT, GOT, DIRECT)),
)  # fmt: skip
