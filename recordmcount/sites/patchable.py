"""The entries of `__patchable_function_entries`: where -fpatchable-function-entry left NOPs.

An entry is the link-time virtual address of the first NOP. How many there are it does not tell: the
NOPs end where another instruction begins, or the next function. Compilers pad with NOPs as well, so
all areas of a file are taken to be as long as its shortest.
"""

from __future__ import annotations

from recordmcount import x86_nops
from recordmcount.elf import object as elf
from recordmcount.errors import FormatError
from recordmcount.sites import linked_entries

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from recordmcount.elf.object import Object, Section
    from recordmcount.elf.segments import LoadView

    from .loaded_words import Values

NAME = b"__patchable_function_entries"
LONGEST = 64  # bytes of NOPs that are looked at
KIND = "patchable"
NO_NOP = f"no NOP at an entry of {NAME.decode()}"


def tables(obj: Object) -> list[Section]:
    """Return the tables of a linked file; FormatError where one cannot be a table of addresses."""
    found = [obj.section(index) for index in obj.named(NAME)]
    for section in found:
        if section.type == elf.SHT_NOBITS or section.size % obj.layout.word:
            raise FormatError(obj.path, "not a table of addresses", section.name)
    return found


def entries(
    view: LoadView, found: Sequence[Section], relocated: Values
) -> tuple[list[int], int, int]:
    """Return (distinct addresses, ascending, how many are dead, how many repeated) of these tables.

    `relocated` are the words that the loader changes (linked_entries.addresses). FormatError where
    an entry names no code that is loaded from the file.
    """
    obj = view.obj
    claims = [
        entry
        for one in found
        for entry in linked_entries.addresses(
            obj, one.name, range(one.vaddr, one.vaddr + one.size), obj.content(one.index), relocated
        )
    ]
    live = [entry for entry in claims if 0 < entry < obj.layout.highest]
    for entry in live:
        if view.file_offset(entry, 1, executable=True) is None:
            what = f"entry {entry:#x} is not in code that is loaded from the file"
            raise FormatError(obj.path, what, NAME.decode())
    distinct = sorted(set(live))
    return distinct, len(claims) - len(live), len(live) - len(distinct)


def nops(machine: int, code: bytes) -> bytes:
    """Return the NOPs that `code` begins with."""
    bare = code.lstrip(x86_nops.NOPS[1])
    end = len(code) - len(bare)
    if bare:
        from .disassembler import decoder  # slow to import, rarely needed

        for address, size, mnemonic, operands in decoder(machine).disasm_lite(bare, end):
            if (
                f"{mnemonic} {operands}".strip() not in x86_nops.NOP_INSTRUCTIONS
                and mnemonic != "nop"
            ):
                break
            end = address + size
    return code[:end]
