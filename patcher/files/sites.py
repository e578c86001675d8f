"""The recorded sites of a file, whatever its kind: what `switch` needs to know of them.

A table may hold hundreds of thousands. So they are asked for by number, in bulk where it can be;
a `Site` is made only of those that a person will read about.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from patcher.modify import Batch
from recordmcount.console import printable
from recordmcount.sites.state import State


@dataclass(frozen=True, slots=True)
class Site:
    """One site, for people. `position` is a section offset in objects, else a link-time address.

    `function_offset` is the distance in bytes to the first byte of `function`, 0 where no symbol
    covers the site. `code` are the bytes that stand there. `form` is the name of the call's form
    (of a NOP: of the call it replaced), empty if unknown. `call` and `nop` are the bytes of either
    state, or None where there is no way there and back; `reason` then says why, and `expected` are
    the calls that could stand at a foreign site. `machine` is e_machine. `relocation` is, in
    objects, the name of the type that the relocation of the call has, empty if unknown.
    """

    position: int
    section: str
    function: str | None
    function_offset: int
    code: bytes
    state: State
    form: str
    call: bytes | None
    nop: bytes | None
    reason: str
    machine: int
    in_object: bool
    expected: tuple[bytes, ...] = ()
    relocation: str = ""

    @property
    def place(self) -> str:
        """`function` or `function+0xoffset`; the section and position where no symbol covers it."""
        if self.function is None:
            separator = "+" if self.in_object else ":"
            return f"{printable(self.section)}{separator}{self.position:#x}"
        distance = f"+{self.function_offset:#x}" if self.function_offset else ""
        return printable(self.function) + distance

    @property
    def label(self) -> str:
        """The place and, in brackets, the position."""
        if self.function is None:
            return self.place
        section = f"{printable(self.section)}+" if self.in_object else ""
        return f"{self.place} ({section}{self.position:#x})"

    def turned(self, state: State) -> bytes | None:
        """The site's bytes in `state`, None where it cannot be brought there and back."""
        if state is self.state:
            return self.code
        return self.call if state is State.CALL else self.nop


class SiteTable(Protocol):
    """The sites that a file's `__mcount_loc` names, numbered from 0 in order of position.

    `dead` counts entries that name no place, `repeated` those beyond the first for one place.
    `numbers` are ascending numbers of sites everywhere.
    """

    @property
    def dead(self) -> int:
        """How many entries name no place."""

    @property
    def repeated(self) -> int:
        """How many entries there are beyond the first for one place."""

    def __len__(self) -> int: ...

    def names(self, number: int) -> tuple[str, ...]:
        """All names of the function that a site is in, as the symbol table has them."""

    def where(self, numbers: Sequence[int], state: State) -> Sequence[int]:
        """Those of `numbers` whose sites are in `state`."""

    def site(self, number: int) -> Site:
        """What there is to know of one site."""

    def stuck(self, numbers: Sequence[int], state: State) -> Sequence[int]:
        """Those of `numbers` that cannot be brought to `state` and back."""

    def batch(self, numbers: Sequence[int], state: State) -> Batch:
        """What must change so that these sites, of which none is stuck, are in `state`."""
