"""Turn the sites of a file off and on: which ones, what must change for it, and the change."""

from __future__ import annotations

from patcher.errors import CompareError, NoSiteError
from patcher.modify import verify
from recordmcount import mcount_loc
from recordmcount.elf import object as elf
from recordmcount.sites import image
from recordmcount.sites.entries import MODULE
from recordmcount.sites.state import STATES, State
from recordmcount.sites.words import no_table, sites_in_words

BY_OTHERS = "a NOP by another tool, which stays: nobody knows its call"
LOOSE = "a linker may let them name other code; compile and record the object again"
NOT_TO_LOAD = (
    "do not load this module before `patcher call`: the kernel's ftrace expects every call, and "
    "for one that is not there it stops all tracing"
)

NOT_TO_BOOT = NOT_TO_LOAD.replace("load this module", "boot this kernel")
PER_CPU = b".data..percpu"  # a section that the linker scripts of kernels make

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from patcher.memory.elffile import ElfFile
    from patcher.modify import Batch

    from .switchable import Switchable


class Plan:
    """What must change so that all `selected` sites are in `state`: `numbers`, by one `batch`.

    All but those that are `left` as they are.
    """

    __slots__ = ("table", "state", "selected", "numbers", "left", "batch")

    def __init__(
        self,
        table: Switchable,
        state: State,
        selected: Sequence[int],
        numbers: Sequence[int],
        left: Sequence[int],
        batch: Batch,
    ) -> None:
        self.table = table
        self.state = state
        self.selected = selected
        self.numbers = numbers
        self.left = left
        self.batch = batch

    @property
    def already(self) -> int:
        """How many of the selected sites need no change."""
        return len(self.selected) - len(self.numbers) - len(self.left)

    def __str__(self) -> str:
        return f"{sites_in_words(len(self.numbers))} turned to {self.state}, {self.already} already"


def read(file: ElfFile, names: Sequence[str]) -> Switchable:
    """Read the file's sites. NoSiteError without a table, FormatError for an unsound one."""
    sites = image.recorded(file.object, names)
    if sites is None or not sites.has_table:
        in_object = file.object.type == elf.ET_REL
        raise NoSiteError(file.path, no_table(in_object=in_object, has_calls=bool(sites)))
    if sites.in_object is True:
        from .objects import ObjectSwitch

        return ObjectSwitch(file.object, sites)
    from .linked import LinkedSwitch

    return LinkedSwitch(sites)


def begin(file: ElfFile, out: str | None) -> None:
    """Start to copy a file that has a table, for most of such will be written."""
    if file.object.named(mcount_loc.NAME) or file.object.named(mcount_loc.RETURNS):
        file.begin(out)


def select(
    path: str,
    table: Switchable,
    globs: Sequence[str] = (),
    notrace: Sequence[str] = (),
    *,
    parts: bool = False,
) -> Sequence[int]:
    """Number the sites that sites.select chooses, by its arguments.

    Raises NoSiteError where a glob is like no function with a site.
    """
    if not globs and not notrace:
        return range(len(table.sites))
    from recordmcount.sites import select as by_name

    selected, idle = by_name.select(table.sites, globs, notrace, parts=parts)
    if idle:
        advice = "" if parts else by_name.advice(table.sites, idle)
        raise NoSiteError(path, f"no site in a function like {' or '.join(idle)}{advice}")
    return selected


def count(
    table: Switchable, selected: Sequence[int], states: Sequence[State] = STATES
) -> dict[State, int]:
    """Tell how many of the selected sites are in each of these states."""
    return {state: len(table.sites.where(selected, state)) for state in states}


def plan(path: str, table: Switchable, selected: Sequence[int], state: State) -> Plan:
    """Tell what must change so that all `selected` sites are in `state`.

    NOPs by other tools are left as they are: whatever else is there, what was turned off comes
    back. Raises CompareError if a site is foreign, or could not be brought into the state and back,
    and if there are none but such NOPs.
    """
    if foreign := table.sites.where(selected, State.FOREIGN):
        raise _foreign(path, table, foreign)
    numbers = table.sites.where(selected, State.CALL if state is State.NOP else State.NOP)
    left = table.without_call(numbers) if state is State.CALL else []
    if len(left) < len(selected):
        numbers = _without(numbers, left)
    if unswitchable := table.unswitchable(numbers, state):
        site = table.site(unswitchable[0])
        raise CompareError.of(
            path, site, f"{site.reason}{_more(unswitchable)}; nothing was written"
        )
    return Plan(table, state, selected, numbers, left, table.batch(numbers, state))


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
    from .rewrite import rewrite  # not needed for processes

    rewrite(file, wanted.batch, out)
    return file.path if out is None else out


def warnings(file: ElfFile, wanted: Plan) -> list[str]:
    """Tell what has to be known of the result."""
    makes_nops = wanted.state is State.NOP and len(wanted.numbers)
    is_module = file.object.type == elf.ET_REL and file.object.named(MODULE)
    found = [NOT_TO_LOAD] if makes_nops and is_module else []
    if makes_nops and file.object.type == elf.ET_EXEC and file.object.named(PER_CPU):
        found.append(NOT_TO_BOOT)
    if makes_nops and file.object.is_signed:
        found.append("its signature is not valid before `patcher call`, or signing it again")
    if wanted.left:
        label, others = wanted.table.site(wanted.left[0]).label, _more(wanted.left)
        found.append(f"{label}: {BY_OTHERS}{others}")
    if wanted.table.sites.loose:
        name = min(wanted.table.sites.loose.values())
        found.append(f"entries count from {name!r}, a global symbol: {LOOSE}")
    return found


def _without(numbers: Sequence[int], left: Sequence[int]) -> Sequence[int]:
    return sorted({*numbers}.difference(left)) if left else numbers


def _foreign(path: str, table: Switchable, foreign: Sequence[int]) -> CompareError:
    from patcher.disassembly import describe  # slow to import, rarely needed

    site = table.site(foreign[0])
    return CompareError.of(
        path, site, f"foreign: {describe(site)}{_more(foreign)}; nothing was written"
    )


def _more(numbers: Sequence[int]) -> str:
    others = len(numbers) - 1
    return f"; {sites_in_words(others)} more" if others else ""
