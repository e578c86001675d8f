"""Choose sites by the names of their functions."""

from __future__ import annotations

from recordmcount.nearest import question

from .mangling import spellings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from .site import SiteTable


def select(
    table: SiteTable,
    globs: Sequence[str] = (),
    notrace: Sequence[str] = (),
    *,
    parts: bool = False,
) -> tuple[Sequence[int], list[str]]:
    """Number the sites in functions like one of `globs`, or all, but for those like `notrace`.

    A function is like a glob by any of its names, and each has the spellings of mangling.spellings,
    with `parts` or without. Beside the numbers, which ascend, the globs are given that are like no
    function with a site.
    """
    functions = _functions(table, parts)
    idle: list[str] = []
    wanted = _like(functions, globs, idle) if globs else set(range(len(table)))
    wanted -= _like(functions, notrace, idle)
    return sorted(wanted), idle


def advice(table: SiteTable, idle: Sequence[str]) -> str:
    """Say what may be meant by globs that are like no function; "" if that is not to be seen."""
    still_idle: list[str] = []
    _like(_functions(table, parts=True), idle, still_idle)
    if len(still_idle) < len(idle):
        return "; with --parts there is"
    return question(idle[0], _functions(table, parts=False))


# By each spelling of each name: the functions that have it, each as the numbers of its sites.
_Functions = dict[str, list[list[int]]]


def _functions(table: SiteTable, parts: bool) -> _Functions:
    """Group the sites by function: many may have many names, and neither is gone through twice."""
    by_function: dict[int, tuple[tuple[str, ...], list[int]]] = {}
    for number in range(len(table)):
        names = table.names(number)  # of one function always the same object
        by_function.setdefault(id(names), (names, []))[1].append(number)
    functions: _Functions = {}
    for names, numbers in by_function.values():
        for spelling in {each for name in names for each in spellings(name, parts=parts)}:
            functions.setdefault(spelling, []).append(numbers)
    return functions


def _like(functions: _Functions, globs: Sequence[str], idle: list[str]) -> set[int]:
    """Find the sites in functions like one of `globs`; `idle` is given the globs like none."""
    import re
    from fnmatch import translate

    found: set[int] = set()
    for glob in map(_as_names_are, globs):
        is_like = re.compile(translate(glob)).match
        # A name in full is like itself, whatever characters of a glob it has: `operator[]`.
        like = {
            id(numbers): numbers
            for name, each in functions.items()
            if name == glob or is_like(name)
            for numbers in each
        }
        found.update(*like.values())
        if not like:
            idle.append(glob)
    return found


def _as_names_are(glob: str) -> str:
    """Spell the bytes of a glob that are not UTF-8 as they are in names of functions."""
    return glob.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
