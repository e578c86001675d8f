"""What is watched, drawn on a terminal by `rich`; names are spelled first, and are never markup."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from patcher.closing import Closing
from recordmcount.console import draw, spelled
from recordmcount.errors import UnreachableError
from recordmcount.packages import load
from recordmcount.sites.state import STATES, State
from recordmcount.sites.words import counted

from .text import when

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .shapes import GoneModule, Loaded, WatchedModule, WatchedProcess

MISSING = "--watch draws by `rich`, which is not installed: pip install rich; or pipe it: | cat"
WIDE = 110  # columns from which on there is room for all that a file is known by
BUILD_ID = 12  # digits of it that are shown
CUT = "..."


def is_drawn_on(fd: int) -> bool:
    """Tell whether a descriptor is a terminal that can be drawn on."""
    return os.isatty(fd) and os.environ.get("TERM", "dumb") not in {"", "dumb", "unknown"}


class Shown(NamedTuple):
    """What is drawn: the process by its `name` at `time`, and what is wrong with it."""

    time: str
    name: str
    process: WatchedProcess
    trouble: str


class Screen(Closing):
    """The terminal that stdout is, drawn on during its `with`; what was there comes back then.

    `footer` stands in the last line. Raises UnreachableError where there is no `rich`.
    """

    def __init__(self, footer: str) -> None:
        try:
            self._rich = _Rich()
        except ImportError:
            raise UnreachableError("standard output", MISSING) from None
        self._footer = footer
        self._console = self._rich.console(
            file=_Terminal(), force_terminal=True, legacy_windows=False, highlight=False,
            markup=False, emoji=False,
        )  # fmt: skip
        self._live: Any = None
        self._shown: Shown | None = None

    def show(self, shown: Shown) -> None:
        """Draw what there is. Raises OSError where the terminal is gone."""
        self._shown = shown
        self._console.size = _size()
        if self._live is None:
            self._live = self._rich.live(
                console=self._console, screen=True, auto_refresh=False, redirect_stdout=False,
                redirect_stderr=False,
            )  # fmt: skip
            self._live.start()
        self._live.update(self._picture(shown, self._console.height), refresh=True)

    def leave(self) -> None:
        """Give the terminal back until something is shown again."""
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    def suspend(self) -> None:
        """Stop as Ctrl-Z asks for, with the terminal given back meanwhile."""
        self.leave()
        handler = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, handler)

    def close(self) -> None:
        """Give the terminal back, and leave there what was drawn last."""
        with suppress(OSError):
            self.leave()
            if self._shown:
                self._console.size = _size()
                self._console.print(self._picture(self._shown, None))

    # --- what is drawn ------------------------------------------------------------------------

    def _picture(self, shown: Shown, height: int | None) -> Any:
        """Draw so many lines at most; all that there is, and no footer, if it is None."""
        rows, more = _fitting(shown, height)
        total = [(str(state), sum(each["states"][state] for each in shown.process["modules"]))
                 for state in STATES]  # fmt: skip
        lines = [(f"{shown.name}: {counted(total, 0, 0)}", "bold")]
        if shown.trouble:
            lines.append((shown.trouble, "red"))
        below = [(f"{more} more: --module chooses", "dim")] if more else []
        if height is not None:
            below.append((f"{when(shown.time)}; {self._footer}", "dim"))
        table = [self._table(rows, shown.time)] if rows else []
        return self._rich.group(*map(self._line, lines), *table, *map(self._line, below))

    def _line(self, line: tuple[str, str]) -> Any:
        text, style = line
        return self._rich.text(spelled(text), style=style, no_wrap=True, overflow="crop")

    def _table(self, rows: Sequence[WatchedModule | GoneModule], time: str) -> Any:
        table = self._rich.table(box=None, pad_edge=False, padding=(0, 2, 0, 0), expand=True)
        table.add_column("load address", no_wrap=True)
        for state in STATES:
            table.add_column(str(state), justify="right", no_wrap=True)
        table.add_column("file", no_wrap=True)
        table.add_column("module", ratio=1, no_wrap=True)
        is_wide = self._console.width >= WIDE
        today = when(time).partition(" ")[0]
        for row in rows:
            path = _End(self._rich, spelled(row["path"]))
            where = f"{row['load_address']:#x}"
            if gone := row.get("gone"):
                ended = when(str(gone)).removeprefix(today).strip()
                table.add_row(where, *[""] * len(STATES), f"gone {ended}", path, style="dim")
                continue
            states = [self._state(state, row["states"][state]) for state in STATES]
            table.add_row(where, *states, "  ".join(_identity(row, wide=is_wide)), path)
        return table

    def _state(self, state: State, number: int) -> Any:
        style = "bold red" if number and state is State.FOREIGN else ""
        return self._rich.text(str(number), style=style)


def _fitting(shown: Shown, height: int | None) -> tuple[list[WatchedModule | GoneModule], int]:
    """Choose modules for so many lines, and tell how many more there are.

    Those that are to be looked at come first. A third is for what is gone, if there is as much.
    """
    loaded = sorted(shown.process["modules"], key=lambda each: not each["states"]["foreign"])
    gone, forgotten = shown.process["gone"], shown.process["forgotten"]
    if height is None:
        return [*loaded, *gone], forgotten
    room = height - 3 - bool(shown.trouble)  # heading, names of columns, footer
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


def _size() -> os.terminal_size:
    """Tell how large the terminal is now; one that does not know has 80 columns and 24 lines."""
    try:
        columns, lines = os.get_terminal_size(1)
    except OSError:
        columns = lines = 0
    return os.terminal_size((columns or 80, lines or 24))


class _Rich:
    """The parts of `rich` that are used. Raises ImportError."""

    def __init__(self) -> None:
        self.console = load("rich.console").Console
        self.group = load("rich.console").Group
        self.live = load("rich.live").Live
        self.table = load("rich.table").Table
        self.text = load("rich.text").Text
        self.cells = load("rich.cells").cell_len
        self.measurement = load("rich.measure").Measurement


class _Terminal:
    """A file as `rich` writes to one, over the console."""

    encoding = "utf-8"

    def __init__(self) -> None:
        self._text = ""

    def write(self, text: str) -> int:
        self._text += text
        return len(text)

    def flush(self) -> None:
        text, self._text = self._text, ""
        if text:
            draw(text)


class _End:
    """A path that loses its beginning where there is no room, for its end tells most."""

    def __init__(self, rich: _Rich, path: str) -> None:
        self._rich = rich
        self._path = path

    def __rich_console__(self, _: Any, options: Any) -> Iterator[Any]:
        path, room = self._path, options.max_width
        if len(path) > room or self._rich.cells(path) > room:
            path = path[-max(room, 1) :]
            while path and self._rich.cells(path) + len(CUT) > room:
                path = path[1:]
            path = CUT + path
        yield self._rich.text(path, no_wrap=True, overflow="crop")

    def __rich_measure__(self, _: Any, options: Any) -> Any:
        width = min(self._rich.cells(self._path), options.max_width)
        return self._rich.measurement(width, width)
