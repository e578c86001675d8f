"""Lines as the kernel's ftrace writes them: its function tracer, and function_graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

from patcher.trace.graph import Ended, Graph
from patcher.trace.kept import Kept
from recordmcount.console import spelled

from .told import missing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from patcher.trace.events import Event, Names

    from .writer import Writer

FUNCTION = """\
# tracer: function
#
#           TASK-PID     CPU#     TIMESTAMP  FUNCTION
#              | |         |         |         |
"""
GRAPH = """\
# tracer: function_graph
#
# CPU          TASK/PID             DURATION                  FUNCTION CALLS
# |              |  |                |   |                     |   |   |   |
"""
NO_DURATION, INDENT = " " * 14, "  "
ELSEWHERE = "on another stack"
# What stands before a duration that is longer than so many nanoseconds.
MARKS = (
    (1_000_000_000, "$"), (100_000_000, "@"), (10_000_000, "*"), (1_000_000, "#"),
    (100_000, "!"), (10_000, "+"),
)  # fmt: skip


def writer(names: Names, *, graph: bool) -> Writer:
    """Make what writes text."""
    return FunctionGraph(names) if graph else Function(names)


class _Lines:
    """What both have alike: bytes of lines, and who is told of in them."""

    header: str

    def __init__(self, names: Names) -> None:
        self._names = names
        self._tasks: Kept[int, str] = Kept(lambda tid: f"{spelled(names.thread(tid)):>16}-{tid:<7}")

    def begin(self) -> bytes:
        """Name the tracer and the columns."""
        return self.header.encode()

    def lost(self, cpu: int, count: int, time: int) -> bytes:  # noqa: ARG002 - the kernel tells none
        """Tell of lost events as the kernel does."""
        return f"CPU:{cpu} [LOST {count} EVENTS]\n".encode()

    def end(self) -> bytes:
        """Give nothing: lines end where they end."""
        return b""


class Function(_Lines):
    """A line for each entry, with its caller."""

    header = FUNCTION

    def __init__(self, names: Names) -> None:
        super().__init__(names)
        self._heads: Kept[tuple[int, int], str] = Kept(
            lambda where: f"{self._tasks[where[0]]} [{where[1]:03}] "
        )
        self._called: Kept[tuple[int, int], str] = Kept(
            lambda pair: f"{spelled(names.function(pair[0]))} <-{spelled(names.caller(pair[1]))}\n"
        )

    def events(self, batch: Sequence[Event]) -> bytes:
        """Tell of entries."""
        heads, called = self._heads, self._called
        lines = []
        for time, cpu, tid, site, caller, _ in batch:
            micro = f"{time // 1000:07}"
            seconds = f"{micro[:-6]:>6}.{micro[-6:]}"
            lines.append(f"{heads[tid, cpu]}{seconds}: {called[site, caller]}")
        return "".join(lines).encode()


class FunctionGraph(_Lines):
    """A line where a call begins, and one where it ends; one for both if none is between."""

    header = GRAPH

    def __init__(self, names: Names) -> None:
        super().__init__(names)
        self._graph = Graph(names)
        self._heads: Kept[tuple[int, int], str] = Kept(
            lambda where: f"{where[1]:3}) {self._tasks[where[0]]} | "
        )
        self._functions: Kept[int, str] = Kept(lambda site: spelled(names.function(site)))
        self._last: dict[int, int] = {}  # by track: which line begins its last call

    def events(self, batch: Sequence[Event]) -> bytes:
        """Tell where calls begin and end."""
        heads, functions, last = self._heads, self._functions, self._last
        lines: list[str] = []
        last.clear()  # what is written stays as it is
        for entry, end, depth, track, ended, doubtful in self._graph.events(batch):
            event = entry or end
            if not event:
                continue
            time, cpu, tid, site, _, _ = event
            function = functions[site]
            begun = _note(ELSEWHERE) if track != tid and not depth else ""
            if end is None:
                last[track] = len(lines)
                told = f"{NO_DURATION}|  {INDENT * depth}{_called(function)} {{{begun}\n"
                lines.append(heads[tid, cpu] + told)
                continue
            is_timed = ended is Ended.RETURNED
            duration = _duration(end.time - time) if is_timed else NO_DURATION
            notes = [*missing(ended, doubtful=doubtful).values()]
            line = last.pop(track, -1) if entry else -1
            if line < 0:
                told = "}" + (_note(f"{function}: {', '.join(notes)}") if notes else "")
                lines.append(f"{heads[tid, end.cpu]}{duration}|  {INDENT * depth}{told}\n")
            else:
                told = f"{_called(function)};{_note(*notes)}{begun}"
                lines[line] = f"{heads[tid, cpu]}{duration}|  {INDENT * depth}{told}\n"
        return "".join(lines).encode()

    def lost(self, cpu: int, count: int, time: int) -> bytes:
        """Tell of lost events; calls that are open are told to be doubtful when they end."""
        self._graph.lost()
        return super().lost(cpu, count, time)


def _note(*notes: str) -> str:
    return f" /* {', '.join(notes)} */" if notes else ""


def _duration(nanoseconds: int) -> str:
    """Spell a duration as the kernel does: a mark, and at most eight digits of microseconds."""
    mark = " "
    if nanoseconds > MARKS[-1][0]:
        mark = next(mark for least, mark in MARKS if nanoseconds > least)
    micro = str(nanoseconds // 1000)
    number = f"{micro}.{nanoseconds % 1000:03}"[:8] if len(micro) < 7 else micro
    return f"{mark} {number} us {'':{max(8 - len(number), 0)}}"


def _called(function: str) -> str:
    """Spell a function with brackets; a name as it is declared in C++ has parameters already."""
    return function if "(" in function else f"{function}()"
