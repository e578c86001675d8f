"""Calls that were turned off in an object: what their relocations keep, and the way back.

A relocation that names nothing links everywhere; one that still names mcount does not (bfd, PIC).
So r_info becomes 0 as a whole, and which symbol it named is kept elsewhere: RELA keeps a hash of
the symbol's name in r_addend, for its own addend is known by the form of call; REL (i386) has no
room, so there the NOP has the number of the name. Names stay as they are when tools renumber the
symbols of an object, or join it with others. (Older versions, and the kernel's tool, changed the
type only. Such relocations still name their symbol.)
"""

from __future__ import annotations

from _struct import pack

from recordmcount import mcount_loc, x86
from recordmcount.console import printable
from recordmcount.elf import object as elf
from recordmcount.x86_object_nops import known_names, name_hash, object_nop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from recordmcount.elf.object import Object
    from recordmcount.x86 import CallForm

    # What tells the symbol of a call that is off: r_addend (0 in REL), and the NOP's number of a
    # name (0 in RELA).
    Kept = tuple[int, int]

DOUBLE = "two symbols are named {}: which of them it calls would not be known any more"
NO_ROOM = "a NOP has no room for the name of {}, which is none of the known ones"
PREFIXED = "a NOP has no room for the prefix of the call"
ODD = "its relocation is not of the usual kind, and has no room for a name"
UNKNOWN = (
    "a NOP in the place of a call of a function that is not known: say its name with --symbol, "
    "as when it was made"
)
GONE = "a NOP in the place of a call of {}, which is no symbol here any more (strip drops it)"


class Relocation:
    """The relocation of a site: a `form` of call and its relocation's type, now or before.

    `section` is the index of its section, `number` its place therein, `symbol` the index of the
    symbol that it names or named. `names_it` tells that it still does though the call is off, and
    that the addend is still there.
    """

    __slots__ = ("section", "number", "form", "type", "symbol", "names_it")

    def __init__(
        self,
        section: int,
        number: int,
        form: CallForm,
        relocation_type: int,
        symbol: int,
        *,
        names_it: bool = False,
    ) -> None:
        self.section = section
        self.number = number
        self.form = form
        self.type = relocation_type
        self.symbol = symbol
        self.names_it = names_it


class Callees:
    """The symbols of mcount in an object, and what is kept of each while its call is off."""

    def __init__(self, obj: Object, symbols: Iterable[int]) -> None:
        self.symbols = sorted(symbols)
        self._obj = obj
        self._in_addend = mcount_loc.uses_rela(obj)
        self._names = {symbol: _name(obj, symbol) for symbol in self.symbols}
        alike: dict[Kept, list[int]] = {}
        for symbol, name in self._names.items():
            kept = self._kept(name)
            if kept:
                alike.setdefault(kept, []).append(symbol)
        self._by_kept = {kept: those[0] for kept, those in alike.items() if len(those) == 1}
        self._by_symbol = {symbol: kept for kept, symbol in self._by_kept.items()}

    def _kept(self, name: bytes) -> Kept | None:
        if self._in_addend:
            return self._signed(name_hash(name)), 0
        known = known_names()
        return (0, 1 + known.index(name)) if name in known else None

    def _signed(self, word: int) -> int:
        """Read 32 bits as r_addend does."""
        is_negative = not self._obj.layout.is_64 and word >> 31
        return word - (1 << 32) if is_negative else word

    def name(self, symbol: int) -> str:
        """Name one of the symbols, in words."""
        return self._names[symbol].decode("utf-8", "surrogateescape")

    def kept(self, symbol: int) -> Kept | None:
        """Tell what is kept of a symbol; None where that could not be told from another's."""
        return self._by_symbol.get(symbol)

    def find(self, kept: Kept) -> int | None:
        """Find the one symbol of which this was kept."""
        return self._by_kept.get(kept)

    def why_not_found(self, kept: Kept) -> str:
        """Tell why there is no symbol of which this was kept."""
        gone = [name for name in known_names() if self._kept(name) == kept]
        return GONE.format(gone[0].decode()) if gone else UNKNOWN

    def why_not(self, known: Relocation) -> str:
        """Tell why a call with this relocation cannot be turned off and on; empty if it can."""
        if known.names_it:
            return ""
        if known.form.idle:
            return PREFIXED
        if self._in_addend and self._obj.section_type(known.section) == elf.SHT_REL:
            return ODD
        if known.symbol in self._by_symbol:
            return ""
        name = self._names[known.symbol]
        why = DOUBLE if self._kept(name) else NO_ROOM
        return why.format(printable(name.decode("utf-8", "backslashreplace")))

    def nop(self, known: Relocation) -> bytes | None:
        """Spell the NOP in the place of a call with this relocation; None if there can be none."""
        if self.why_not(known):
            return None
        _, name = (0, 0) if known.names_it else self._by_symbol[known.symbol]
        return object_nop(known.form, known.type, name)

    def relocation(self, known: Relocation) -> tuple[bytes, bytes]:
        """Spell what follows r_offset: (of a call, of the NOP in its place); it must have one."""
        layout = self._obj.layout
        on = [layout.info(known.symbol, known.type), known.form.addend]
        off = [layout.info(known.symbol, x86.RELOCATION_NONE), known.form.addend]
        if not known.names_it:
            addend, _ = self._by_symbol[known.symbol]
            off = [0, addend]
        code = "<Qq" if layout.is_64 else "<Ii"
        count = 1 if self._obj.section_type(known.section) == elf.SHT_REL else 2
        return pack(code[: 1 + count], *on[:count]), pack(code[: 1 + count], *off[:count])


def _name(obj: Object, symbol: int) -> bytes:
    """Read the name of a symbol, without the version that assemblers append."""
    start = obj.raw_symbol(symbol)[elf.ST_NAME]
    return obj.symbol_names[start : obj.symbol_names.find(b"\0", start)].partition(b"@")[0]
