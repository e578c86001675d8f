"""The most called functions of a process, drawn on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from .counts import columns

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence

    from .counts import Called, Column
    from .screen import Rich


class MostCalled(NamedTuple):
    """The Picture of a process by its `name`: functions, the most called first.

    `trouble` is what is to be known, and `footer` stands in the last line.
    """

    name: str
    rows: Sequence[Called]
    trouble: str
    footer: str

    def parts(self, rich: Rich, size: os.terminal_size, *, is_last: bool) -> Iterator[Any]:
        """Give its parts, as many functions as there is room for."""
        rate, calls = sum(row.rate for row in self.rows), sum(row.calls for row in self.rows)
        yield rich.line(f"{self.name}: {rate:,.0f} calls a second, {calls:,} in all", "bold")
        if self.trouble:
            yield rich.line(self.trouble, "red")
        # Less the heading, names of columns, and footer, for which there is a prompt at the end.
        room = size.lines - 3 - bool(self.trouble)
        if room < len(self.rows):
            room -= 1  # to tell how many more
        shown = self.rows[: max(1, room)]
        if shown:
            yield _table(rich, columns(shown, separator=",", rates=rate or 1.0))
        if more := len(self.rows) - len(shown):
            yield rich.line(f"{more} more: --functions chooses", "dim")
        if not is_last:
            yield rich.line(self.footer, "dim")


def _table(rich: Rich, made: Sequence[Column]) -> Any:
    table = rich.table(box=None, pad_edge=False, padding=(0, 2, 0, 0), expand=True)
    for each in made:
        if each.is_number:
            table.add_column(each.heading, justify="right", no_wrap=True)
        else:
            table.add_column(each.heading, ratio=1, no_wrap=True)
    for row in zip(*(each.cells for each in made), strict=True):
        table.add_row(*(_cell(rich, text, column) for text, column in zip(row, made, strict=True)))
    return table


def _cell(rich: Rich, text: str, column: Column) -> Any:
    return rich.path(text) if column.heading == "module" else rich.line(text)
