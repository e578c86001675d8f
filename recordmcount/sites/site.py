"""A call site, and the table of a file's sites: one model for who reports and for who switches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from .state import State
from .words import label_of, place_of


class Site(NamedTuple):
    """A call of mcount, a NOP in its place, or what is neither: foreign.

    Foreign is what else an entry of a table names, and what may be a call but can have no entry.

    `position` is a section offset in objects, else a link-time virtual address, and `file_offset`
    the file offset of the same byte: the site's first, or of such a call the relocated field's.
    `function` is the function there (elf.symbols), None if there is none, `function_offset` the
    distance in bytes to its start and `aliases` all names that start has. `code` are the bytes that
    stand there: of the form's length; if foreign, as many as could be one. `form` is the name of
    the call's form (of a NOP: of the call it replaced), `target` that of the function
    it calls, `relocation` in objects that of its relocation's type; each is empty if unknown.
    `recorded` tells whether a table has an entry for the site. `machine` is e_machine.

    `call` and `nop` are the bytes of either state, as far as they are known: both are None of a
    foreign site, and `nop` is of a call that a NOP could not tell for certain. `reason` says why,
    or what else is wrong, and `expected` are the calls that could stand at a foreign site.
    `evidence` tells how a site without a table is known (sites.evidence).
    """

    section: str
    position: int
    file_offset: int
    in_object: bool
    machine: int
    function: str | None
    function_offset: int
    aliases: tuple[str, ...]
    code: bytes
    state: State
    form: str
    recorded: bool
    call: bytes | None = None
    nop: bytes | None = None
    reason: str = ""
    target: str = ""
    expected: tuple[bytes, ...] = ()
    relocation: str = ""
    evidence: str = ""

    @property
    def place(self) -> str:
        """`function` or `function+0xoffset`; section and position where there is no function."""
        return place_of(
            self.function, self.function_offset, self.section, self.position,
            in_object=self.in_object,
        )  # fmt: skip

    @property
    def label(self) -> str:
        """The place and, in brackets, the position."""
        return label_of(
            self.function, self.function_offset, self.section, self.position,
            in_object=self.in_object,
        )  # fmt: skip

    def turned(self, state: State) -> bytes | None:
        """Return the site's bytes in `state`, None where it cannot be brought there and back."""
        if state is self.state:
            return self.code
        return self.call if state is State.CALL else self.nop


class SiteTable(Protocol):
    """The sites of one file, numbered from 0 in the order of their positions, each place once.

    A file may have hundreds of thousands. So they are asked for by number, in bulk where it can
    be, and a Site is made only of those that somebody looks at. `numbers` ascend everywhere.
    """

    @property
    def in_object(self) -> bool:
        """Whether positions are section offsets: the file is a relocatable object."""

    @property
    def has_table(self) -> bool:
        """Whether the file has a `__mcount_loc`."""

    @property
    def no_evidence(self) -> str:
        """Why the calls of a file without a table could not be found; empty if they could."""

    @property
    def dead(self) -> int:
        """How many entries of it name no place."""

    @property
    def repeated(self) -> int:
        """How many entries there are beyond the first for one place."""

    @property
    def loose(self) -> Mapping[int, str]:
        """Sections whose entries a linker may let name other code (mcount_loc.Entries)."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> Site: ...

    def __iter__(self) -> Iterator[Site]: ...

    def names(self, number: int) -> tuple[str, ...]:
        """Give all names of the function that a site is in, the best first."""

    def where(self, numbers: Sequence[int], state: State) -> Sequence[int]:
        """Choose those of `numbers` whose sites are in `state`."""
