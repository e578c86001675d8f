"""What changed, as lines for people and as plain values."""

from __future__ import annotations

from collections import Counter

from recordmcount.console import printable

from .compare import CHANGED, GAINED, LOST, MOVED, Change, Sort

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from .pairs import Pair

_MARKS = {GAINED: "+", LOST: "-", MOVED: ">", CHANGED: "~"}


def lines(pair: Pair, changes: Sequence[Change]) -> Iterator[str]:
    """Tell of one file: a heading with counts, and a row for each change."""
    whose = "" if pair.old and pair.new else " (new)" if pair.new else " (gone)"
    yield f"{printable(pair.name)}{whose}: {counted(changes) or 'no sites'}"
    width = min(max((len(change.function) for change in changes), default=0), 40)
    for change in changes:
        name = printable(change.function)
        times = f" ({change.number} sites)" if change.number > 1 else ""
        yield f"  {_MARKS[change.what]} {name:{width}}  {_difference(change)}{times}"


def counted(changes: Sequence[Change]) -> str:
    """Say `2 sites gained, 1 lost`."""
    numbers: Counter[str] = Counter()
    for change in changes:
        numbers[change.what] += change.number
    parts = [f"{numbers[what]} {what}" for what in _MARKS if numbers[what]]
    if parts:
        first = numbers[next(what for what in _MARKS if numbers[what])]
        parts[0] = parts[0].replace(" ", " site " if first == 1 else " sites ", 1)
    return ", ".join(parts)


def _difference(change: Change) -> str:
    old, new = change.old, change.new
    if old is None or new is None:
        return ", ".join(_words(new or old))
    pairs = zip(_words(old), _words(new), strict=True)
    return ", ".join(
        before if before == after else f"{before} -> {after}" for before, after in pairs
    )


def _words(sort: Sort | None) -> list[str]:
    if sort is None:
        return []
    section, kind, state, recorded = sort
    return [printable(section), kind, state, "recorded" if recorded else "not recorded"]


def document(pair: Pair, changes: Sequence[Change]) -> dict[str, Any]:
    """Tell of one file as plain values."""
    only = None if pair.old and pair.new else "new" if pair.new else "old"
    return {"path": pair.name, "only_in": only, "changes": [_change(change) for change in changes]}


def _change(change: Change) -> dict[str, Any]:
    return {
        "what": change.what,
        "function": change.function,
        "count": change.number,
        "old": change.old and change.old._asdict(),
        "new": change.new and change.new._asdict(),
    }
