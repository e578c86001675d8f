"""One path -> its piece of the report, in the format that is asked for.

This is what is spread over processes: they read and render, and the pieces are only put together.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from recordmcount.console import rendered
from recordmcount.elf.filetype import NO_OBJECTS
from recordmcount.errors import Error

from . import rows
from .asked import Asked
from .examine import examine
from .tally import Tally

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .shapes import ReportedFile


class Job(NamedTuple):
    """What is to be done for each path; as `Piece`, of plain values in its `asked` too."""

    format: str
    colour: bool
    asked: Asked


class Piece(NamedTuple):
    """What is told of one path; of plain values, as pipes between processes take them.

    `out` is text, of the format html a list of rows. `tally` are a Tally's numbers, `errors` are
    (path, line that a person reads), and `idle` the globs like no function with a site.
    """

    out: Any
    tally: tuple[int, ...]
    errors: list[tuple[str, str]]
    warnings: list[str]
    idle: tuple[str, ...]


def piece(job: Job, path: str) -> tuple[Any, ...]:
    """Read what is at a path, and render it; gives a Piece as a plain tuple."""
    outs: list[Any] = []
    tally = Tally()
    errors: list[tuple[str, str]] = []
    idle: set[str] = set(job.asked.functions)
    for told in examine(path, job.asked):
        if isinstance(told, Error):
            errors.append((told.path, str(told)))
            continue
        idle.intersection_update(told.pop("idle", ()))
        tally.add(told)
        outs.append(_render(told, job))
    tally.failed = len(errors)
    warnings = [] if outs or errors else [f"{path}: warning: {NO_OBJECTS}"]
    return tuple(Piece(_joined(outs, job.format), tally.numbers(), errors, warnings, tuple(idle)))


def failed(error: Error) -> tuple[Any, ...]:
    """Make the piece of what could not be read, as a plain tuple."""
    tally = Tally()
    tally.failed = 1
    return tuple(Piece(None, tally.numbers(), [(error.path, str(error))], [], ()))


def _render(file: ReportedFile, job: Job) -> Any:
    if job.format == "text":
        from .text import lines

        return rendered(lines(file, colour=job.colour))
    if job.format == "json":
        from .json import part

        return part(file)
    every = rows.rows(file)
    if job.format == "html":
        return list(every)
    spell = rows.csv_line if job.format == "csv" else rows.json_line
    return "\n".join(map(spell, every))


def _joined(outs: list[Any], format: str) -> Any:  # noqa: A002 - the word for it
    """Join what is told of members; None where there is nothing to write."""
    if format == "html":
        return [row for out in outs for row in out]
    from .json import SEPARATOR

    between = {"text": "\n\n", "json": SEPARATOR}.get(format, "\n")
    return between.join(filter(None, outs)) or None
