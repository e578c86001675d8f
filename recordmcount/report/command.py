"""The verb `report`: words -> files -> report -> lines or JSON, and exit status."""

from __future__ import annotations

import os
from collections.abc import Sequence

from recordmcount.arguments import Parser
from recordmcount.console import say
from recordmcount.errors import Error

from .document import ReportedFile, report
from .examine import examine
from .json import dump, schema
from .text import lines


def main(words: Sequence[str]) -> int:
    """Run `recordmcount report` with these words; returns the exit status."""
    parser = _parser()
    try:
        options = parser.parse_args(words)
        if not (options.files or options.schema):
            parser.error("no files")
    except SystemExit as end:
        return int(end.code or 0)
    if options.schema:
        return 0 if say(1, [dump(schema())]) else 1
    files: list[ReportedFile] = []
    errors: list[Error] = []
    for path in options.files:
        for result in examine(path, tuple(options.symbols)):
            if isinstance(result, Error):
                errors.append(result)
                say(2, [str(result)])
            else:
                files.append(result)
    colour = os.isatty(1) and not os.environ.get("NO_COLOR")
    told = [dump(report(files, errors))] if options.json else lines(files, colour=colour)
    written = say(1, told)
    return 0 if written and not errors else 1


def _parser() -> Parser:
    parser = Parser(
        prog="recordmcount report",
        description="Show every call site of mcount and __fentry__: the calls in relocatable "
        "objects and static libraries, recorded or not, and the entries of the __mcount_loc table "
        "of executables and shared objects.",
        epilog="state: call, nop (a call that was turned off), foreign (neither, but the "
        "table names it, or it may be a call in a form that cannot be recorded). "
        "exit status: 0 done, 1 a file could not be read, 2 usage",
    )
    parser.add_argument("files", nargs="*", metavar="FILE")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--schema", action="store_true", help="print the JSON's schema")
    parser.add_argument(
        "--symbol", action="append", default=[], dest="symbols", metavar="NAME",
        help="a further function to look for, as in gcc's -mfentry-name; repeatable",
    )  # fmt: skip
    return parser
