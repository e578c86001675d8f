"""The verb `report`: files -> documents -> lines, rows, JSON or a page, and exit status."""

from __future__ import annotations

import os
from functools import partial

from recordmcount.console import put, say, spelled
from recordmcount.grammar import Command, Option
from recordmcount.options import DEMANGLE, HELP, JOBS, JSON, SCHEDULER, SCHEMA, SYMBOL
from recordmcount.reading import PATHS, Reading
from recordmcount.verb import give

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from .asked import Asked
    from .pieces import Piece


class ReportOptions(Reading):
    """What is asked of `recordmcount report`."""

    FORMATS = ("text", "json", "jsonl", "csv", "html")
    demangle = False
    lines = False
    untraceable = False
    unrecorded = False
    functions: tuple[str, ...] = ()
    sections: tuple[str, ...] = ()


def declare() -> tuple[Command, ReportOptions]:
    """Declare the command line."""
    command = Command(
        "recordmcount report",
        ["[options] PATH..."],
        "Show every call site of mcount and __fentry__: the calls in relocatable objects and "
        "static libraries, recorded or not, and in executables and shared objects the entries of "
        "the __mcount_loc table, or without one the calls that the code proves.",
        [
            Option(
                "--format",
                "text (the default), json, jsonl (a line of JSON for each row), csv, or html (a "
                "page to search and sort)",
                value="FORMAT",
            ),
            Option(
                "--function",
                "only functions with a name like this, mangled or as it stands in the source; "
                "repeatable",
                "functions", value="GLOB", repeatable=True,
            ),
            Option(
                "--section", "only sections like this; repeatable", "sections", value="GLOB",
                repeatable=True,
            ),
            Option(
                "--unrecorded",
                "only sites without an entry; of linked files with a table also the calls that it "
                "leaves out",
            ),
            Option("--untraceable", "also the functions without a site, and why, if it is known"),
            Option("--lines", "the source line of each site, by its debug information"),
            DEMANGLE, SYMBOL, JSON, SCHEMA, JOBS, SCHEDULER, HELP,
        ],
        arguments=[("PATH", PATHS)],
        epilog="state: call, nop (a call that was turned off), foreign (neither, but the table "
        "names it, or it may be a call in a form that cannot be recorded).\n"
        "exit status: 0 done, 1 a file could not be read, 2 usage",
    )  # fmt: skip
    return command, ReportOptions()


def execute(options: ReportOptions) -> int:
    """Report on all files; returns the exit status."""
    from .json import dump, schema

    if options.information == "schema":
        return give(dump(schema()))
    report = _Report(options)
    written = report.write()
    return 0 if written and not report.errors else 1


class _Report:
    """One run: pieces as they come, and what must be told when all are there."""

    def __init__(self, options: ReportOptions) -> None:
        from recordmcount.folders import Files

        from .tally import Tally

        self._options = options
        self._asked = _asked(options)
        self._files = Files(options.files)
        self._tally = Tally()
        self._idle = {*options.functions}
        self.errors: list[tuple[str, str]] = []

    def write(self) -> bool:
        """Print in the format that is asked for; False where nobody can read it."""
        if self._options.format == "text":
            good = self._text()
        elif self._options.format == "json":
            good = self._json()
        elif self._options.format == "html":
            good = self._html()
        else:
            good = self._rows()
        if self._idle and self._tally.files:
            globs = ", ".join(f"'{glob}'" for glob in sorted(self._idle))
            say(2, [f"warning: no function with a site is like {globs}"])
        return good

    def _pieces(self) -> Iterator[Piece]:
        """Give the piece of each path, in order; say at once what cannot be read."""
        from .pieces import Job, Piece, failed, piece

        options = self._options
        colour = os.isatty(1) and not os.environ.get("NO_COLOR")
        job = Job(str(options.format), colour, self._asked)
        for answer in options.read(partial(piece, job), self._files, failed):
            made = Piece(*answer)
            self._tally.add_numbers(made.tally)
            if made.out is not None:
                self._idle.intersection_update(made.idle)
            self.errors += made.errors
            say(2, [*(line for _, line in made.errors), *made.warnings])
            yield made

    def _outs(self) -> Iterator[str]:
        return (piece.out for piece in self._pieces() if piece.out is not None)

    def _text(self) -> bool:
        from .text import total

        for number, out in enumerate(self._outs()):
            if not put(f"\n{out}" if number else out):
                return False
        if self._tally.files < 2 and not self._files.skipped:
            return True
        lines = total(self._tally, self._files.skipped, is_filtered=self._asked.is_filtered)
        return say(1, [*[""] * (self._tally.files > 0), *lines])

    def _rows(self) -> bool:
        from .rows import csv_head

        return (self._options.format != "csv" or put(csv_head())) and all(map(put, self._outs()))

    def _json(self) -> bool:
        from .json import stream

        return all(map(put, stream(self._outs(), self._rest)))

    def _rest(self) -> dict[str, object]:
        """Tell in JSON what is known when all files are."""
        errors = [{"path": path, "message": spelled(line)} for path, line in self.errors]
        return {"errors": errors, "skipped": self._files.skipped}

    def _html(self) -> bool:
        from .html import page

        rows = [row for piece in self._pieces() for row in piece.out or ()]
        summary = ", ".join(self._options.files)
        if self._asked.is_filtered:
            shown = sum(self._tally.sites.values())
            summary += f": {shown} of {self._tally.total} sites shown"
        return put(page(rows, "Call sites", summary))


def _asked(options: ReportOptions) -> Asked:
    from .asked import Asked

    return Asked(
        options.symbols, options.lines, options.untraceable, options.demangle, options.functions,
        options.sections, options.unrecorded, options.folder,
    )  # fmt: skip
