"""A terminal that is drawn on by `rich`; names are spelled first, and are never markup."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from patcher.closing import Closing
from recordmcount.console import draw, spelled
from recordmcount.errors import UnreachableError
from recordmcount.packages import load

if TYPE_CHECKING:
    from collections.abc import Iterator

MISSING = "draws by `rich`, which is not installed: pip install rich; or pipe it: | cat"
CUT = "..."


def is_drawn_on(fd: int) -> bool:
    """Tell whether a descriptor is a terminal that can be drawn on."""
    return os.isatty(fd) and os.environ.get("TERM", "dumb") not in {"", "dumb", "unknown"}


class Picture(Protocol):
    """What is drawn."""

    def parts(self, rich: Rich, size: os.terminal_size, *, is_last: bool) -> Iterator[Any]:
        """Give its parts, from the first line on, for a terminal of this size.

        The last time they may be longer, and stay on the terminal above what is said next.
        """


class Screen(Closing):
    """The terminal that stdout is, drawn on during its `with`; what was there comes back then.

    `option` is what asks for it. Raises UnreachableError where there is no `rich`.
    """

    def __init__(self, option: str) -> None:
        try:
            self._rich = Rich()
        except ImportError:
            raise UnreachableError("standard output", f"{option} {MISSING}") from None
        self._console = self._rich.console(
            file=_Terminal(), force_terminal=True, legacy_windows=False, highlight=False,
            markup=False, emoji=False,
        )  # fmt: skip
        self._live: Any = None
        self._picture: Picture | None = None

    def show(self, picture: Picture) -> None:
        """Draw what there is. Raises OSError where the terminal is gone."""
        self._picture = picture
        self._console.size = _size()
        if self._live is None:
            self._live = self._rich.live(
                console=self._console, screen=True, auto_refresh=False, redirect_stdout=False,
                redirect_stderr=False,
            )  # fmt: skip
            self._live.start()
        self._live.update(self._drawn(picture, is_last=False), refresh=True)

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
            picture, self._picture = self._picture, None
            if picture:
                self._console.size = _size()
                self._console.print(self._drawn(picture, is_last=True))

    def _drawn(self, picture: Picture, *, is_last: bool) -> Any:
        size = os.terminal_size(self._console.size)
        return self._rich.group(*picture.parts(self._rich, size, is_last=is_last))


def _size() -> os.terminal_size:
    """Tell how large the terminal is now; one that does not know has 80 columns and 24 lines."""
    try:
        columns, lines = os.get_terminal_size(1)
    except OSError:
        columns = lines = 0
    return os.terminal_size((columns or 80, lines or 24))


class Rich:
    """The parts of `rich` that are used. Raises ImportError."""

    def __init__(self) -> None:
        self.console = load("rich.console").Console
        self.group = load("rich.console").Group
        self.live = load("rich.live").Live
        self.table = load("rich.table").Table
        self.text = load("rich.text").Text
        self.cells = load("rich.cells").cell_len
        self.measurement = load("rich.measure").Measurement

    def line(self, text: str, style: str = "") -> Any:
        """Make a line, of which what does not fit is not shown."""
        return self.text(spelled(text), style=style, no_wrap=True, overflow="crop")

    def path(self, path: str) -> Any:
        """Make a path that loses its beginning where there is no room, for its end tells most."""
        return _End(self, spelled(path))


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
    """A text of which the end is shown where there is no room for all of it."""

    def __init__(self, rich: Rich, path: str) -> None:
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
