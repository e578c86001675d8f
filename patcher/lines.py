"""What patcher did to a file, or would do, or found in it, in lines for people."""

from recordmcount.mcount_loc import odd_entries
from recordmcount.sites.state import STATES, State

from .files.switch import count, describe, sites_in_words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from recordmcount.errors import Error
    from recordmcount.sites.site import Site

    from .files.switch import Plan
    from .files.switchable import Switchable


def status_lines(
    table: "Switchable", selected: "Sequence[int]", *, listed: bool
) -> "Iterator[str]":
    """How many sites are in each state; then, if they shall be `listed`, all sites by state."""
    numbers = [f"{number} {state}" for state, number in count(table, selected).items()]
    counted = f"{sites_in_words(len(selected))}: {', '.join(numbers)}"
    yield "; ".join([counted, *odd_entries(table.sites.dead, table.sites.repeated)])
    for state in STATES if listed else ():
        for site in map(table.site, table.sites.where(selected, state)):
            what = f": {describe(site)}" if state is State.FOREIGN else ""
            yield f"{site.label}: {state}{what}"


def plan_lines(plan: "Plan") -> "Iterator[str]":
    """Each site that would change: bytes, and in an object the type of its relocation."""
    for site in map(plan.table.site, plan.numbers):
        new = site.turned(plan.state) or b""
        types = " -> ".join(relocation_types(site, plan.state))
        yield f"{site.label}: {site.code.hex(' ')} -> {new.hex(' ')}" + (types and f"; {types}")


def relocation_types(site: "Site", state: State) -> list[str]:
    """The names of the relocation's types before and after a switch to `state`; none if linked."""
    if not site.relocation:
        return []
    from recordmcount import x86

    types = [site.relocation, x86.RELOCATION_NAMES[site.machine][x86.RELOCATION_NONE]]
    return types if state is State.NOP else types[::-1]


def in_words(path: str, error: "Error | OSError") -> str:
    """The one line that a person reads."""
    return f"{path}: {error.strerror or error}" if isinstance(error, OSError) else str(error)
