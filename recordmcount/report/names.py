"""What functions are called in a document, and in the lines that are made of it."""

from __future__ import annotations

from recordmcount.sites.mangling import demangled

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from .shapes import Place, UntraceableFunction


def demangle(places: Iterable[Place | UntraceableFunction]) -> None:
    """Add to what is told of places how their functions are declared."""
    for place in places:
        function = place["function"]
        place["demangled"] = None if function is None else demangled(function)


def shown(place: Place | UntraceableFunction) -> str | None:
    """Return the name by which people are told of a place's function; None where there is none."""
    return place.get("demangled") or place["function"]
