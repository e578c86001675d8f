"""How often functions were called: as a table for people, and as a document.

`trace.schema.json` beside this file describes the document.
"""

from __future__ import annotations

from typing import NamedTuple

from recordmcount.console import spelled

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

VERSION = 1
SCHEMA = __file__.rpartition("/")[0] + "/trace.schema.json"


class Called(NamedTuple):
    """A function of a module, by the module's path: its calls in all, and now in a second."""

    name: str
    module: str
    calls: int
    rate: float = 0.0


class Column(NamedTuple):
    """A column of a table: its heading, and the cells below; numbers end at its right end."""

    heading: str
    cells: list[str]
    is_number: bool = False


def columns(rows: Sequence[Called], *, separator: str = "", rates: float = 0.0) -> list[Column]:
    """Make the columns of a table; that of modules only if there are several.

    Between groups of digits is the `separator`. `rates` is the sum of rates, which are told if it
    is not 0.
    """
    made = [Column("calls", [f"{row.calls:{separator}}" for row in rows], is_number=True)]
    if rates:
        each = [f"{row.rate:{separator}.0f}" for row in rows]
        shares = [f"{row.rate / rates:.1%}" for row in rows]
        made = [
            Column("calls/s", each, is_number=True), *made,
            Column("share", shares, is_number=True),
        ]  # fmt: skip
    made.append(Column("function", [spelled(row.name) for row in rows]))
    if len({row.module for row in rows}) > 1:
        made.append(Column("module", [spelled(row.module) for row in rows]))
    return made


def lines(made: Sequence[Column]) -> Iterator[str]:
    """Set a table in lines."""
    widths = [max(map(len, (each.heading, *each.cells))) for each in made]
    rows = zip(*((each.heading, *each.cells) for each in made), strict=True)
    for row in rows:
        cells = [
            f"{cell:>{width}}" if column.is_number else f"{cell:<{width}}"
            for cell, width, column in zip(row, widths, made, strict=True)
        ]
        yield "  ".join(cells).rstrip()


def document(pid: int, name: str, seconds: float, rows: Sequence[Called]) -> dict[str, Any]:
    """Make the document of a trace of a process by its PID and name, that took so long."""
    return {
        "version": VERSION,
        "pid": pid,
        "name": name,
        "seconds": round(seconds, 3),
        "calls": sum(row.calls for row in rows),
        "functions": [
            {"function": row.name, "module": row.module, "calls": row.calls} for row in rows
        ],
    }
