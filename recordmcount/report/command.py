"""The verb `report`: files -> documents -> lines or JSON, and exit status."""

from __future__ import annotations

import os

from recordmcount.console import put, say
from recordmcount.grammar import Command, Values
from recordmcount.options import DEMANGLE, HELP, JSON, SCHEMA, SYMBOL
from recordmcount.verb import give

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .shapes import ReportedFile


class ReportOptions(Values):
    """What is asked of `recordmcount report`."""

    json = False
    demangle = False
    symbols: tuple[str, ...] = ()


def declare() -> tuple[Command, ReportOptions]:
    """Declare the command line."""
    command = Command(
        "recordmcount report",
        ["[options] FILE..."],
        "Show every call site of mcount and __fentry__: the calls in relocatable objects and "
        "static libraries, recorded or not, and in executables and shared objects the entries of "
        "the __mcount_loc table, or without one the calls that the code proves.",
        [DEMANGLE, JSON, SCHEMA, SYMBOL, HELP],
        arguments=[("FILE", "an object, a static library, an executable or a shared object")],
        epilog="state: call, nop (a call that was turned off), foreign (neither, but the table "
        "names it, or it may be a call in a form that cannot be recorded).\n"
        "exit status: 0 done, 1 a file could not be read, 2 usage",
    )
    return command, ReportOptions()


def execute(options: ReportOptions) -> int:
    """Report on all files; returns the exit status."""
    from recordmcount.elf.filetype import NO_OBJECTS
    from recordmcount.errors import Error
    from recordmcount.progress import over, start

    from .document import report
    from .examine import examine
    from .json import dump, schema
    from .names import demangle
    from .text import lines

    if options.information == "schema":
        return give(dump(schema()))
    files: list[ReportedFile] = []
    errors: list[Error] = []
    for path in over(options.files, start(len(options.files), quiet=options.json)):
        told = False
        for result in examine(path, options.symbols):
            told = True
            if isinstance(result, Error):
                errors.append(result)
                say(2, [str(result)])
            else:
                files.append(result)
                if options.demangle:
                    demangle(result["sites"])
        if not told:
            say(2, [f"{path}: warning: {NO_OBJECTS}"])
    if options.json:
        written = put(dump(report(files, errors)))
    else:
        colour = os.isatty(1) and not os.environ.get("NO_COLOR")
        written = say(1, lines(files, colour=colour))
    return 0 if written and not errors else 1
