"""The verb `report`: files -> documents -> lines or JSON, and exit status."""

from __future__ import annotations

import os

from recordmcount.console import say
from recordmcount.grammar import Command, Values
from recordmcount.options import HELP, JSON, SCHEMA, SYMBOL
from recordmcount.verb import inform

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .shapes import ReportedFile


class ReportOptions(Values):
    """What is asked of `recordmcount report`."""

    json = False
    symbols: tuple[str, ...] = ()


def declare() -> tuple[Command, ReportOptions]:
    """Declare the command line."""
    command = Command(
        "recordmcount report",
        ["[options] FILE..."],
        "Show every call site of mcount and __fentry__: the calls in relocatable objects and "
        "static libraries, recorded or not, and in executables and shared objects the entries of "
        "the __mcount_loc table, or without one the calls that the code proves.",
        [JSON, SCHEMA, SYMBOL, HELP],
        arguments=[("FILE", "an object, a static library, an executable or a shared object")],
        epilog="state: call, nop (a call that was turned off), foreign (neither, but the table "
        "names it, or it may be a call in a form that cannot be recorded).\n"
        "exit status: 0 done, 1 a file could not be read, 2 usage",
    )
    return command, ReportOptions()


def execute(options: ReportOptions) -> int:
    """Report on all files; returns the exit status."""
    from recordmcount.errors import Error

    from .document import report
    from .examine import examine
    from .json import dump, schema
    from .text import lines

    if options.information == "schema":
        return inform([dump(schema())])
    files: list[ReportedFile] = []
    errors: list[Error] = []
    for path in options.files:
        for result in examine(path, options.symbols):
            if isinstance(result, Error):
                errors.append(result)
                say(2, [str(result)])
            else:
                files.append(result)
    colour = os.isatty(1) and not os.environ.get("NO_COLOR")
    told = [dump(report(files, errors))] if options.json else lines(files, colour=colour)
    written = say(1, told)
    return 0 if written and not errors else 1
