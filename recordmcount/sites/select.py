"""Choose sites by the names of their functions."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from .site import SiteTable


def select(
    table: SiteTable, globs: Sequence[str] = (), notrace: Sequence[str] = ()
) -> tuple[Sequence[int], list[str]]:
    """Number the sites in functions like one of `globs`, or all, but for those like `notrace`.

    A function is like a glob by any of its names, as they stand in the symbol table. Beside the
    numbers, which ascend, the globs are given that are like no function with a site.
    """
    functions = _functions(table)
    idle: list[str] = []
    wanted = _like(functions, globs, idle) if globs else set(range(len(table)))
    wanted -= _like(functions, notrace, idle)
    return sorted(wanted), idle


def _functions(table: SiteTable) -> dict[str, list[int]]:
    """Return the numbers of the sites in each function, by each of its names."""
    functions: dict[str, list[int]] = {}
    for number in range(len(table)):
        for name in table.names(number):
            functions.setdefault(name, []).append(number)
    return functions


def _like(functions: dict[str, list[int]], globs: Sequence[str], idle: list[str]) -> set[int]:
    """Find the sites in functions like one of `globs`; `idle` is given the globs like none."""
    import re
    from fnmatch import translate

    found: set[int] = set()
    for glob in map(_as_names_are, globs):
        is_like = re.compile(translate(glob)).match
        like = [number for name in functions if is_like(name) for number in functions[name]]
        found.update(like)
        if not like:
            idle.append(glob)
    return found


def _as_names_are(glob: str) -> str:
    """Spell the bytes of a glob that are not UTF-8 as they are in names of functions."""
    return glob.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
