"""Turn the sites of a file off and on: which ones, what must change for it, and the change."""

from __future__ import annotations

from patcher.errors import CompareError, NoSiteError
from patcher.modify import verify
from recordmcount.console import printable
from recordmcount.elf import object as elf
from recordmcount.mcount_loc import MODULE
from recordmcount.mcount_loc import NAME as TABLE
from recordmcount.sites import image
from recordmcount.sites.state import STATES, State
from recordmcount.sites.words import sites_in_words

from .rewrite import rewrite

LOOSE = "a linker may let them name other code; compile and record the object again"
NOT_TO_LOAD = (
    "do not load this module before `patcher call`: the kernel's ftrace expects every call, and "
    "for one that is not there it stops all tracing"
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from patcher.memory.elffile import ElfFile
    from patcher.modify import Batch

    from .switchable import Switchable


class Plan:
    """What must change so that all `selected` sites are in `state`: `numbers`, by one `batch`."""

    __slots__ = ("table", "state", "selected", "numbers", "batch")

    def __init__(
        self,
        table: Switchable,
        state: State,
        selected: Sequence[int],
        numbers: Sequence[int],
        batch: Batch,
    ) -> None:
        self.table = table
        self.state = state
        self.selected = selected
        self.numbers = numbers
        self.batch = batch

    @property
    def already(self) -> int:
        """How many of the selected sites need no change."""
        return len(self.selected) - len(self.numbers)

    def __str__(self) -> str:
        return f"{sites_in_words(len(self.numbers))} turned to {self.state}, {self.already} already"


def read(file: ElfFile, names: Sequence[str]) -> Switchable:
    """Read the file's sites. NoSiteError without a table, FormatError for an unsound one."""
    sites = image.recorded(file.object, names)
    if sites is None or not sites.has_table:
        raise NoSiteError(file.path, f"no {TABLE.decode()} table")
    if sites.in_object is True:
        from .objects import ObjectSwitch

        return ObjectSwitch(file.object, sites)
    from .linked import LinkedSwitch

    return LinkedSwitch(sites)


def select(
    path: str, table: Switchable, globs: Sequence[str] = (), notrace: Sequence[str] = ()
) -> Sequence[int]:
    """Number the sites in functions like one of `globs`, or all, but for those like `notrace`.

    Raises NoSiteError where a glob is like no function with a site.
    """
    if not globs and not notrace:
        return range(len(table.sites))
    from recordmcount.sites import select as by_name

    selected, idle = by_name.select(table.sites, globs, notrace)
    if idle:
        raise NoSiteError(path, f"no site in a function like {' or '.join(map(printable, idle))}")
    return selected


def count(table: Switchable, selected: Sequence[int]) -> dict[State, int]:
    """Tell how many of the selected sites are in each state."""
    return {state: len(table.sites.where(selected, state)) for state in STATES}


def plan(path: str, table: Switchable, selected: Sequence[int], state: State) -> Plan:
    """Tell what must change so that all `selected` sites are in `state`.

    Raises CompareError if a site is foreign, or could not be brought into the state and back.
    """
    if foreign := table.sites.where(selected, State.FOREIGN):
        raise _foreign(path, table, foreign)
    numbers = table.sites.where(selected, State.CALL if state is State.NOP else State.NOP)
    if unswitchable := table.unswitchable(numbers, state):
        site = table.site(unswitchable[0])
        raise CompareError.of(
            path, site, f"{site.reason}{_more(unswitchable)}; nothing was written"
        )
    return Plan(table, state, selected, numbers, table.batch(numbers, state))


def switch(file: ElfFile, wanted: Plan, out: str | None, *, dry_run: bool) -> str | None:
    """Verify the whole plan, and unless `dry_run` carry it out and commit to the file or to `out`.

    Without a change nothing is written but `out`. Returns the path that was written, if one was.
    Raises PatchError; then no file has changed.
    """
    if dry_run:
        verify(file, wanted.batch)
        return None
    if not wanted.numbers and out is None:
        return None
    rewrite(file, wanted.batch, out)
    return file.path if out is None else out


def warnings(file: ElfFile, wanted: Plan) -> list[str]:
    """Tell what has to be known of the result."""
    makes_nops = wanted.state is State.NOP and len(wanted.numbers)
    is_module = file.object.type == elf.ET_REL and file.object.named(MODULE)
    found = [NOT_TO_LOAD] if makes_nops and is_module else []
    if makes_nops and file.object.is_signed:
        found.append("its signature is not valid before `patcher call`, or signing it again")
    if wanted.table.sites.loose:
        name = min(wanted.table.sites.loose.values())
        found.append(f"entries count from {name!r}, a global symbol: {LOOSE}")
    return found


def _foreign(path: str, table: Switchable, foreign: Sequence[int]) -> CompareError:
    from patcher.disassembly import describe  # slow to import, rarely needed

    site = table.site(foreign[0])
    return CompareError.of(
        path, site, f"foreign: {describe(site)}{_more(foreign)}; nothing was written"
    )


def _more(numbers: Sequence[int]) -> str:
    others = len(numbers) - 1
    return f"; {sites_in_words(others)} more" if others else ""
