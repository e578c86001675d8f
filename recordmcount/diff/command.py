"""The verb `diff`: two files or folders -> what changed, as lines or JSON, and exit status."""

from __future__ import annotations

from recordmcount.console import put, say, spelled
from recordmcount.errors import UsageError
from recordmcount.grammar import Command, Values
from recordmcount.options import HELP, JSON, SCHEMA, SYMBOL
from recordmcount.verb import give

VERSION = 1
SAME, DIFFERENT, TROUBLE = 0, 1, 2


class DiffOptions(Values):
    """What is asked of `recordmcount diff`."""

    json = False
    symbols: tuple[str, ...] = ()

    def check(self) -> None:
        """Raise UsageError unless there are two paths."""
        if len(self.files) != 2:
            raise UsageError("two paths are compared, OLD and NEW")


def declare() -> tuple[Command, DiffOptions]:
    """Declare the command line."""
    command = Command(
        "recordmcount diff",
        ["[options] OLD NEW"],
        "Show which functions gained or lost a call site between two builds, and which sites moved "
        "to another section or changed their form or state. Functions are matched by name, so "
        "shifted addresses are no difference, nor are the numbers of .isra.N and its like.",
        [JSON, SCHEMA, SYMBOL, HELP],
        arguments=[
            ("OLD", "a file, or a folder, whose files are then compared by their names"),
            ("NEW", "the same of the other build"),
        ],
        epilog="exit status: 0 no difference, 1 some, 2 a file could not be read, or usage",
    )
    return command, DiffOptions()


def execute(options: DiffOptions) -> int:
    """Compare; returns the exit status."""
    from recordmcount.errors import Error
    from recordmcount.report.json import dump, schema

    from .compare import compare
    from .pairs import pairs
    from .text import document, lines

    if options.information == "schema":
        return give(dump(schema(f"{__file__.rpartition('/')[0]}/diff.schema.json")))
    files, errors = [], []
    status = SAME
    old, new = options.files
    for pair in pairs(old, new, options.symbols):
        if isinstance(pair, Error):
            errors.append({"path": pair.path, "message": spelled(str(pair))})
            say(2, [str(pair)])
            continue
        changes = compare(pair.old, pair.new)
        if changes or not (pair.old and pair.new):
            status = DIFFERENT
            if options.json:
                files.append(document(pair, changes))
            elif not say(1, lines(pair, changes)):
                return TROUBLE
    if options.json:
        written = put(dump({"version": VERSION, "files": files, "errors": errors}))
        return TROUBLE if errors or not written else status
    return TROUBLE if errors else status
