"""Turn the sites of a file off and on: which ones, what must change for it, and the change."""

from patcher.errors import CompareError, NoSiteError
from patcher.modify import verify
from recordmcount.console import printable
from recordmcount.elf import filetype
from recordmcount.elf import object as elf
from recordmcount.mcount_loc import NAME as TABLE
from recordmcount.sites.state import STATES, State

from .rewrite import rewrite

# The section that the kernel's build puts into every module, and its loader looks for.
MODULE = b".gnu.linkonce.this_module"
NOT_TO_LOAD = (
    "do not load this module before `patcher call`: the kernel's ftrace expects every call, and "
    "for one that is not there it stops all tracing"
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from patcher.memory.elffile import ElfFile
    from patcher.modify import Batch

    from .sites import Site, SiteTable


class Plan:
    """What must change so that all `selected` sites are in `state`: `numbers`, by one `batch`."""

    __slots__ = ("table", "state", "selected", "numbers", "batch")

    def __init__(
        self,
        table: "SiteTable",
        state: State,
        selected: "Sequence[int]",
        numbers: "Sequence[int]",
        batch: "Batch",
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


def read(file: "ElfFile", names: "Sequence[str]") -> "SiteTable":
    """The file's sites. Raises NoSiteError without a table, FormatError for an unsound one."""
    obj = file.object
    if obj.type == elf.ET_REL:
        filetype.refuse_slim_lto(obj)
    if obj.headers and not obj.named(TABLE):
        raise NoSiteError(file.path, f"no {TABLE.decode()} table")
    if obj.type == elf.ET_REL:
        from .objects import ObjectSites

        return ObjectSites(obj, names)
    from .linked import LinkedSites

    return LinkedSites(obj, names)


def select(
    path: str, table: "SiteTable", globs: "Sequence[str]" = (), notrace: "Sequence[str]" = ()
) -> "Sequence[int]":
    """The sites in functions like one of `globs`, or all, but for those like one of `notrace`.

    A function is like a glob by any of its names, as they stand in the symbol table. Raises
    NoSiteError where a glob is like no function with a site.
    """
    everything = range(len(table))
    if not globs and not notrace:
        return everything
    functions = _functions(table)
    wanted = _like(path, functions, globs) if globs else set(everything)
    wanted -= _like(path, functions, notrace)
    return sorted(wanted)


def _functions(table: "SiteTable") -> dict[str, list[int]]:
    """The numbers of the sites in each function, by each of its names."""
    functions: dict[str, list[int]] = {}
    for number in range(len(table)):
        for name in table.names(number):
            functions.setdefault(name, []).append(number)
    return functions


def _like(path: str, functions: dict[str, list[int]], globs: "Sequence[str]") -> set[int]:
    """The sites in functions like one of `globs`; NoSiteError if none is like one of them."""
    import re
    from fnmatch import translate

    found: set[int] = set()
    idle = []
    for glob in map(_as_names_are, globs):
        is_like = re.compile(translate(glob)).match
        like = [number for name in functions if is_like(name) for number in functions[name]]
        found.update(like)
        if not like:
            idle.append(glob)
    if idle:
        raise NoSiteError(path, f"no site in a function like {' or '.join(map(printable, idle))}")
    return found


def _as_names_are(glob: str) -> str:
    """A glob of the command line, its bytes that are not UTF-8 spelled as in names of functions."""
    return glob.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def count(table: "SiteTable", selected: "Sequence[int]") -> dict[State, int]:
    """How many of the selected sites are in each state."""
    return {state: len(table.where(selected, state)) for state in STATES}


def plan(path: str, table: "SiteTable", selected: "Sequence[int]", state: State) -> "Plan":
    """What must change so that all `selected` sites are in `state`.

    Raises CompareError if a site is foreign, or could not be brought into the state and back.
    """
    if foreign := table.where(selected, State.FOREIGN):
        raise _foreign(path, table, foreign)
    numbers = table.where(selected, State.CALL if state is State.NOP else State.NOP)
    if stuck := table.stuck(numbers, state):
        site = table.site(stuck[0])
        raise _error(path, site, f"{site.reason}{_more(stuck)}; nothing was written")
    return Plan(table, state, selected, numbers, table.batch(numbers, state))


def switch(file: "ElfFile", wanted: "Plan", out: str | None, *, dry_run: bool) -> str | None:
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


def warning(file: "ElfFile", wanted: Plan) -> str:
    """What has to be known of the result; empty if nothing."""
    makes_nops = wanted.state is State.NOP and len(wanted.numbers)
    is_module = file.object.type == elf.ET_REL and file.object.named(MODULE)
    return NOT_TO_LOAD if makes_nops and is_module else ""


def sites_in_words(number: int) -> str:
    """`1 site`, `2 sites`."""
    return f"{number} site{'s' * (number != 1)}"


def describe(site: "Site") -> str:
    """What stands at a foreign site, and what should: bytes, decoded."""
    from patcher.disassembly import disassemble  # slow to import, rarely needed

    def both(code: bytes) -> str:
        return f"{code.hex(' ')} ({disassemble(code, site.position, site.machine)})"

    expected = " or ".join(both(call) for call in site.expected)
    wanted = f"; expected {expected}" if expected else ""
    actual = f": {both(site.code)}" if site.code else ""
    return f"{site.reason}{actual}{wanted}"


def _foreign(path: str, table: "SiteTable", foreign: "Sequence[int]") -> CompareError:
    site = table.site(foreign[0])
    return _error(path, site, f"foreign: {describe(site)}{_more(foreign)}; nothing was written")


def _more(numbers: "Sequence[int]") -> str:
    others = len(numbers) - 1
    return f"; {sites_in_words(others)} more" if others else ""


def _error(path: str, site: "Site", what: str) -> CompareError:
    if site.in_object:
        return CompareError(path, what, symbol=site.label, actual=site.code, expected=site.expected)
    return CompareError(
        path, what,
        address=site.position, symbol=site.place, actual=site.code, expected=site.expected,
    )  # fmt: skip
