"""The verb `report`: files -> documents -> lines, rows, JSON or a page, and exit status."""

from __future__ import annotations

import os

from recordmcount.console import put, say
from recordmcount.errors import UsageError
from recordmcount.grammar import Command, Option, Values
from recordmcount.options import DEMANGLE, HELP, JSON, SCHEMA, SYMBOL
from recordmcount.verb import give

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from recordmcount.errors import Error

    from .shapes import ReportedFile

FORMATS = ("text", "json", "jsonl", "csv", "html")


class ReportOptions(Values):
    """What is asked of `recordmcount report`."""

    json = False
    format: str | None = None
    demangle = False
    lines = False
    untraceable = False
    symbols: tuple[str, ...] = ()

    def check(self) -> None:
        """Raise UsageError where words make no sense together."""
        super().check()
        self.format = self.format or ("json" if self.json else "text")
        if self.format not in FORMATS:
            raise UsageError(f"no format '{self.format}': {', '.join(FORMATS)}")
        if self.json and self.format != "json":
            raise UsageError("--json is --format json")


def declare() -> tuple[Command, ReportOptions]:
    """Declare the command line."""
    what = (
        "an object, a static library, an executable, a shared object, a kernel image, or a folder, "
        "whose files of such sorts are meant"
    )
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
            Option("--lines", "the source line of each site, by its debug information"),
            Option("--untraceable", "also the functions without a site, and why, if it is known"),
            DEMANGLE, JSON, SCHEMA, SYMBOL, HELP,
        ],
        arguments=[("PATH", what)],
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
    errors: list[Error] = []
    written = _tell(options, _files(options, errors), errors)
    return 0 if written and not errors else 1


def _files(options: ReportOptions, errors: list[Error]) -> Iterator[ReportedFile]:
    """Give what is told of each file when it has been read; say at once what cannot be."""
    from recordmcount.elf.filetype import NO_OBJECTS
    from recordmcount.errors import Error
    from recordmcount.folders import files
    from recordmcount.progress import over, start

    from .examine import Asked, examine
    from .names import demangle

    asked = Asked(options.symbols, options.lines, options.untraceable)
    progress = start(len(options.files), quiet=options.format == "json")
    for path in files(over(options.files, progress)):
        told = False
        for result in [path] if isinstance(path, Error) else examine(path, asked):
            told = True
            if isinstance(result, Error):
                errors.append(result)
                say(2, [str(result)])
            else:
                if options.demangle:
                    demangle(result["sites"])
                yield result
        if not told:
            say(2, [f"{path}: warning: {NO_OBJECTS}"])


def _tell(options: ReportOptions, files: Iterable[ReportedFile], errors: list[Error]) -> bool:
    """Print in the format that is asked for; False where nobody can read it."""
    if options.format == "text":
        from .text import lines

        colour = os.isatty(1) and not os.environ.get("NO_COLOR")
        return say(1, lines(files, colour=colour))
    if options.format == "json":
        from .document import report
        from .json import dump

        return put(dump(report(list(files), errors)))
    from . import rows

    every = (row for file in files for row in rows.rows(file))
    if options.format == "html":
        from .html import page

        return put(page(list(every), "Call sites", ", ".join(options.files)))
    if options.format == "csv":
        return put(rows.csv_head()) and all(put(rows.csv_line(row)) for row in every)
    return all(put(rows.json_line(row)) for row in every)
