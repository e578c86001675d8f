"""What a process has loaded, drawn on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from patcher.process.traces import in_words
from recordmcount.sites.state import LIVE_STATES, STATES, State

from .text import states_line, when

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence

    from patcher.process.traces import Trace

    from .screen import Rich
    from .shapes import GoneModule, Loaded, WatchedModule, WatchedProcess

WIDE = 110  # columns from which on there is room for all that a file is known by
BUILD_ID = 12  # digits of it that are shown


class Watched(NamedTuple):
    """The Picture of a process by its `name` at `time`, its `trace`, and what is wrong with it.

    `footer` stands in the last line.
    """

    time: str
    name: str
    process: WatchedProcess
    trace: Trace | None
    trouble: str
    footer: str

    def parts(self, rich: Rich, size: os.terminal_size, *, is_last: bool) -> Iterator[Any]:
        """Give its parts; the last time all that there is, and no footer."""
        modules = self.process["modules"]
        rows, more = _fitting(self, None if is_last else size.lines)
        total = {str(state): sum(each["states"][state] for each in modules)
                 for state in LIVE_STATES}  # fmt: skip
        yield rich.line(f"{self.name}: {states_line(total)}", "bold")
        if self.trace:
            style = "" if self.trace.is_running else "red"
            yield rich.line(f"{self.name}: {in_words(self.trace)}", style)
        if self.trouble:
            yield rich.line(self.trouble, "red")
        if rows:
            states = LIVE_STATES if total[State.TRACED] else STATES
            yield _table(rich, rows, states, when(self.time), is_wide=size.columns >= WIDE)
        if more:
            yield rich.line(f"{more} more: --module chooses", "dim")
        if not is_last:
            yield rich.line(f"{when(self.time)}; {self.footer}", "dim")


def _table(
    rich: Rich,
    rows: Sequence[WatchedModule | GoneModule],
    shown: Sequence[State],
    time: str,
    *,
    is_wide: bool,
) -> Any:
    table = rich.table(box=None, pad_edge=False, padding=(0, 2, 0, 0), expand=True)
    table.add_column("load address", no_wrap=True)
    for state in shown:
        table.add_column(str(state), justify="right", no_wrap=True)
    table.add_column("file", no_wrap=True)
    table.add_column("module", ratio=1, no_wrap=True)
    today = time.partition(" ")[0]
    for row in rows:
        path = rich.path(row["path"])
        where = f"{row['load_address']:#x}"
        if gone := row.get("gone"):
            ended = when(str(gone)).removeprefix(today).strip()
            table.add_row(where, *[""] * len(shown), f"gone {ended}", path, style="dim")
            continue
        states = [_number(rich, state, row["states"][state]) for state in shown]
        table.add_row(where, *states, "  ".join(_identity(row, wide=is_wide)), path)
    return table


def _number(rich: Rich, state: State, number: int) -> Any:
    style = "bold red" if number and state is State.FOREIGN else ""
    return rich.text(str(number), style=style)


def _fitting(shown: Watched, height: int | None) -> tuple[list[WatchedModule | GoneModule], int]:
    """Choose modules for so many lines, and tell how many more there are.

    Those that are to be looked at come first. A third is for what is gone, if there is as much.
    """
    loaded = sorted(shown.process["modules"], key=lambda each: not each["states"]["foreign"])
    gone, forgotten = shown.process["gone"], shown.process["forgotten"]
    if height is None:
        return [*loaded, *gone], forgotten
    # Less the heading, names of columns, and footer.
    room = height - 3 - bool(shown.trouble) - bool(shown.trace)
    if forgotten or room < len(loaded) + len(gone):
        room -= 1  # to tell how many more
    room = max(1, room)
    shown_gone = gone[: max(room - len(loaded), room // 3)]
    rows = [*loaded[: room - len(shown_gone)], *shown_gone]
    return rows, forgotten + len(loaded) + len(gone) - len(rows)


def _identity(module: Loaded, *, wide: bool) -> Iterator[str]:
    """Tell what a file is known by, as far as there is room for it."""
    build_id = module["build_id"]
    if build_id:
        yield build_id[:BUILD_ID]
    if wide or not build_id:
        yield f"{module['device']} {module['inode']}"
