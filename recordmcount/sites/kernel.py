"""The sites of a kernel that has no symbol table: named by the symbols it carries for itself."""

from __future__ import annotations

from recordmcount import x86
from recordmcount.elf import kallsyms
from recordmcount.elf import object as elf
from recordmcount.elf.segments import LoadView

from . import kernel_table
from .definitions import Definitions
from .linked import Image, LinkedSites
from .linked_code import LinkedCode
from .loaded_words import Words
from .targets import Targets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from recordmcount.elf.object import Object

    from .kernel_table import KernelTable


def read(obj: Object, extra_names: Sequence[str] = ()) -> LinkedSites | None:
    """Find the sites that a kernel's table names; None of what is no such kernel, or has none.

    `extra_names` are further names of mcount. Raises FormatError where the table is not sound.
    """
    found = find(obj, extra_names)
    return found and found[0].sites(sorted(found[1].entries))


def find(obj: Object, extra_names: Sequence[str] = ()) -> tuple[Image, KernelTable] | None:
    """Find a kernel's table, and what tells what stands at its entries; else as `read`."""
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
    return Image(obj, code, Targets(code, words, [], definitions), words), table
