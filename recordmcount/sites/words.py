"""Sites and entries in words, for people."""

from __future__ import annotations

from recordmcount.console import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# Of a site in a file that has symbols, but none for it.
UNNAMED = "no symbol names this function; a weak one that is overridden?"


def in_function(name: str, distance: int) -> str:
    """Say `function`, or `function+0xdistance`."""
    return f"{name}+{distance:#x}" if distance else name


def place_of(
    function: str | None, function_offset: int, section: str, position: int, *, in_object: bool
) -> str:
    """Name a place by its function; by its section and position where there is none."""
    if function is None:
        return f"{printable(section)}{'+' if in_object else ':'}{position:#x}"
    return in_function(printable(function), function_offset)


def label_of(
    function: str | None, function_offset: int, section: str, position: int, *, in_object: bool
) -> str:
    """Name a place by its function and, in brackets, its position."""
    place = place_of(function, function_offset, section, position, in_object=in_object)
    if function is None:
        return place
    return f"{place} ({f'{printable(section)}+' if in_object else ''}{position:#x})"


def sites_in_words(number: int) -> str:
    """Say `1 site`, `2 sites`."""
    return f"{number} site{'s' * (number != 1)}"


def odd_entries(dead: int, repeated: int) -> list[str]:
    """Say `1 dead entry`, `2 repeated entries`, if there are any."""
    return [
        f"{number} {what} {'entry' if number == 1 else 'entries'}"
        for number, what in ((dead, "dead"), (repeated, "repeated"))
        if number
    ]


def counted(states: Iterable[tuple[str, int]], dead: int, repeated: int) -> str:
    """Tell how many sites are in each state, and what is odd about the entries."""
    rows = list(states)
    each = ", ".join(f"{number} {state}" for state, number in rows)
    total = sites_in_words(sum(number for _, number in rows))
    return "; ".join([f"{total}: {each}", *odd_entries(dead, repeated)])
