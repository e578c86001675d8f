"""The sites of a kernel that has no symbol table: named by the symbols it carries for itself."""

from __future__ import annotations

from recordmcount import x86
from recordmcount.elf import kallsyms
from recordmcount.elf import object as elf
from recordmcount.elf.segments import LoadView

from . import kernel_table
from .decoder import Decoder
from .linked import Entries, LinkedSites
from .linked_code import LinkedCode
from .targets import Definitions, Targets, Words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from recordmcount.elf.object import Object


def read(obj: Object, extra_names: Sequence[str] = ()) -> LinkedSites | None:
    """Find the sites that a kernel's table names; None of what is no such kernel, or has none.

    `extra_names` are further names of mcount. Raises FormatError where the table is not sound.
    """
    if obj.of_type(elf.SHT_SYMTAB) or obj.type != elf.ET_EXEC:
        return None
    view = obj.once(LoadView)
    symbols = kallsyms.decode(view)
    if symbols is None:
        return None
    names = x86.mcount_names(extra_names)
    table = kernel_table.find(view, symbols, names)
    if table is None:
        return None
    definitions = Definitions(view, names, table.targets)
    words = Words(view, [], definitions)
    code = LinkedCode(view, kallsyms.KernelFunctions(symbols))
    targets = Targets(code, words, [], definitions)
    entries = Entries(sorted(table.entries), obj.layout.highest)
    return LinkedSites(entries, code, Decoder(obj, targets, code, words.in_code), targets)
