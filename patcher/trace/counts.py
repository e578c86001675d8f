"""Who is shown how often functions were called: at the end, or second by second."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import compress

from patcher.report.counts import Called, columns, document, lines
from patcher.report.most_called import MostCalled
from patcher.report.screen import Screen
from recordmcount.report.json import dump

from .family import Family
from .naming import LiveNames
from .session import Session
from .views import LONG, Output, View

EVERY = 1.0  # second
SHORTEST = 0.001  # second, of which a rate is told
MOST = 20  # functions of a table that is written, and not drawn
FOOTER = "counted every second; Ctrl-C ends"

Function = tuple[str, str]  # name, path of its module


def counted(session: Session, names: LiveNames) -> Counter[Function]:
    """Return how often each function was called, of those that were, while a session counts."""
    total: Counter[Function] = Counter()
    counts = session.rings.counts() if session.rings else []
    for site, count in compress(zip(session.counted, counts, strict=False), counts):
        total[names.function(site.address), site.module.file.path] += count
    return total


def _calls(family: Family) -> Counter[Function]:
    """Return the same for a process and its children."""
    total: Counter[Function] = Counter()
    for each in family.members:
        total += counted(each.session, each.names)
    return total


def rows(total: Mapping[Function, int], rates: Mapping[Function, float]) -> list[Called]:
    """Sort functions: those that are called most now first, and then those that were."""
    made = [Called(*each, count, rates.get(each, 0.0)) for each, count in total.items()]
    return sorted(made, key=lambda row: (-row.rate, -row.calls, row.name, row.module))


class Counts(View):
    """How often each function was called, at the end. Raises OSError."""

    def __init__(self, output: Output, family: Family, form: str) -> None:
        super().__init__(output)
        self._family = family
        self._form = form
        proc = family.first.target.proc
        self._pid, self._name = proc.pid, proc.stat().name
        self._began = time.monotonic()
        self._seconds = 0.0
        self._rows: list[Called] = []

    def show(self, *, is_last: bool) -> bool:
        """Count, the last time; look for children until then."""
        if is_last:
            self._rows = rows(_calls(self._family), {})
            self._seconds = time.monotonic() - self._began
            self.events = sum(row.calls for row in self._rows)
        else:
            self._family.meet()
        return True

    def end(self) -> None:
        """Write the counts, the largest first; of functions that were not called none."""
        if self._form == "json":
            told = document(self._pid, self._name, self._seconds, self._rows)
            self._output.write(_text([dump(told)]))
            return
        self._output.write(_text(lines(columns(self._rows))))


class Top(View):
    """The most called functions, as a table a second. Raises OSError."""

    def __init__(self, output: Output, family: Family) -> None:
        super().__init__(output)
        self._family = family
        self._at = time.monotonic()
        self._next = self._at + EVERY
        self._before: Counter[Function] = Counter()
        self._rates: dict[Function, float] = {}
        self._is_first = True
        self._rows: list[Called] = []

    def show(self, *, is_last: bool) -> bool:
        """Count if a second is over; the last time what came since."""
        now = time.monotonic()
        self._family.meet()
        is_due = is_last or now >= self._next
        if is_due:
            self._count(now, is_last=is_last)
        self.wait = min(LONG, max(0.0, self._next - now))
        return self._told() if is_due else True

    def _count(self, now: float, *, is_last: bool) -> None:
        total = _calls(self._family)
        seconds = max(now - self._at, SHORTEST)
        if self._is_first or not is_last or seconds >= EVERY / 2:  # else that tells no rate
            self._rates = {each: (total[each] - self._before[each]) / seconds for each in total}
            self._before, self._at, self._is_first = total, now, False
            self._next = max(self._next + EVERY, now)
        self._rows = rows(total, self._rates)
        self.events = total.total()

    def _told(self) -> bool:
        """Write what was counted; False where nobody reads it."""
        shown = self._rows[:MOST]
        text = _text(lines(columns(shown, rates=sum(self._rates.values()) or 1.0)))
        more = len(self._rows) - len(shown)
        return self._output.write(text + (f"{more} more\n\n" if more else "\n").encode())


class DrawnTop(Top):
    """The same, drawn on a terminal."""

    def __init__(self, output: Output, family: Family, screen: Screen) -> None:
        super().__init__(output, family)
        self._screen = screen
        self._trouble = ""
        self._is_open = True
        self._told()

    def _told(self) -> bool:
        """Draw what was counted; False where nobody can see it."""
        now = datetime.now().strftime("%Y-%m-%d %H:%M:%S")
        picture = MostCalled(
            self._family.first.name, self._rows, self._trouble, f"{now}; {FOOTER}"
        )  # fmt: skip
        try:
            self._screen.show(picture)
        except OSError:
            return False
        return True

    def end(self) -> None:
        """Give the terminal back, and leave there what was drawn last."""
        self._is_open = False
        self._screen.close()

    def tell(self, line: str) -> bool:
        """Show a line above the table."""
        self._trouble = line
        return self._is_open

    def take(self, signals: Sequence[int]) -> None:
        """Stop with the terminal given back; and draw anew, as it may have another size."""
        if signal.SIGTSTP in signals:
            self._screen.suspend()
        self._told()


def _text(made: Iterable[str]) -> bytes:
    return "".join(f"{line}\n" for line in made).encode("utf-8", "surrogateescape")
