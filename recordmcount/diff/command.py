"""The verb `diff`: two files or folders -> what changed, as lines or JSON, and exit status."""

from __future__ import annotations

from functools import partial

from recordmcount.asked import Values
from recordmcount.console import put, say, spelled
from recordmcount.errors import UsageError
from recordmcount.grammar import Command
from recordmcount.options import HELP, JOBS, JSON, SCHEMA, SYMBOL
from recordmcount.verb import give

VERSION = 1
SAME, DIFFERENT, TROUBLE = 0, 1, 2


class DiffOptions(Values):
    """What is asked of `recordmcount diff`."""

    json = False
    symbols: tuple[str, ...] = ()
    jobs = 0  # as many as there are processors, where it is worth it

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
        [JSON, SCHEMA, SYMBOL, JOBS, HELP],
        arguments=[
            (
                "OLD",
                (
                    "a file, as for report, or a folder, whose files are compared by names; "
                    "x.ko also with x.ko.xz, where each side has one of these"
                ),
            ),
            ("NEW", "the same of the other build"),
        ],
        epilog="exit status: 0 no difference, 1 some, 2 a file could not be read, or usage",
    )
    return command, DiffOptions()


def execute(options: DiffOptions) -> int:
    """Compare; returns the exit status."""
    from recordmcount.progress import over, start
    from recordmcount.report.json import dump, schema
    from recordmcount.spread import How, spread

    from .compared import Compared, compared, failed
    from .pairs import named

    if options.information == "schema":
        return give(dump(schema(f"{__file__.rpartition('/')[0]}/diff.schema.json")))
    files, errors = [], []
    status = SAME
    work = partial(compared, options.json, options.symbols)
    answers = spread(work, named(*options.files), How(options.jobs), failed)
    progress = start(None, quiet=options.json)
    for answer in over(answers, progress):
        told = Compared(*answer)
        say(2, [line for _, line in told.errors])
        errors += [{"path": path, "message": spelled(line)} for path, line in told.errors]
        if told.is_different:
            status = DIFFERENT
        files += told.documents
        if told.text and not put(told.text):
            return TROUBLE
    if options.json:
        written = put(dump({"version": VERSION, "files": files, "errors": errors}))
        return TROUBLE if errors or not written else status
    return TROUBLE if errors else status
