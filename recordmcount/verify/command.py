"""The verb `verify`: files -> findings -> lines, JSON, SARIF or annotations, and exit status."""

from __future__ import annotations

import os
from functools import partial

from recordmcount.console import put, say
from recordmcount.grammar import Command, Option
from recordmcount.options import (
    ALL_SECTIONS,
    HELP,
    JOBS,
    JSON,
    KERNEL,
    SCHEDULER,
    SCHEMA,
    SYMBOL,
)  # fmt: skip
from recordmcount.reading import PATHS, Reading
from recordmcount.verb import give

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from .shapes import Unreadable, VerifiedFile


class VerifyOptions(Reading):
    """What is asked of `recordmcount verify`."""

    FORMATS = ("text", "json", "github", "sarif")
    kernel = False
    all_sections = False


def declare() -> tuple[Command, VerifyOptions]:
    """Declare the command line."""
    command = Command(
        "recordmcount verify",
        ["[options] PATH..."],
        "Compare __mcount_loc tables with the code: every entry names the first byte of a site, "
        "once, and every site has an entry. Which calls in objects are to have one is decided as "
        "recording does. Each finding is told with its place, its function, and how it is mended.",
        [
            Option(
                "--format",
                "text (the default), json, github (annotations of a workflow), or sarif (2.1.0)",
                value="FORMAT",
            ),
            KERNEL, ALL_SECTIONS, SYMBOL, JSON, SCHEMA, JOBS, SCHEDULER, HELP,
        ],
        arguments=[("PATH", PATHS)],
        epilog="exit status: 0 clean, or nothing to verify; 1 findings, or a file could not be "
        "read; 2 usage",
    )  # fmt: skip
    return command, VerifyOptions()


def execute(options: VerifyOptions) -> int:
    """Verify all files; returns the exit status."""
    from recordmcount.report.json import dump, schema

    if options.information == "schema":
        return give(dump(schema(f"{__file__.rpartition('/')[0]}/verify.schema.json")))
    run = _Run(options)
    written = run.write()
    return 0 if written and run.is_clean else 1


class _Run:
    """One run: what is told of each file when it has been read, and whether all is well."""

    def __init__(self, options: VerifyOptions) -> None:
        from recordmcount.folders import Files

        self._options = options
        self._paths = Files(options.files)
        self._errors: list[Unreadable] = []
        self.is_clean = True

    def write(self) -> bool:
        """Print in the format that is asked for; False where nobody can read it."""
        if self._options.format == "text":
            return self._text()
        if self._options.format == "github":
            from . import github

            if not all(say(1, github.lines(file)) for file in self._files()):
                return False
            errors = [github.unreadable(each["path"], each["message"]) for each in self._errors]
            return say(1, errors)
        from recordmcount.report.json import dump

        from .document import verification
        from .sarif import log

        files = [*self._files()]
        if self._options.format == "sarif":
            return put(dump(log(files, self._errors)))
        return put(dump(verification(files, self._errors, self._paths.skipped)))

    def _text(self) -> bool:
        from .text import Total, lines

        total, one = Total(), self._is_one()
        if not say(1, lines(self._files(), one=one, total=total)):
            return False
        total.skipped = self._paths.skipped
        return (one and total.files < 2) or say(1, [str(total)])

    def _is_one(self) -> bool:
        """Tell whether one file is named: then it is told of even if it is clean."""
        return len(self._options.files) == 1 and not os.path.isdir(self._options.files[0])

    def _files(self) -> Iterator[VerifiedFile]:
        """Give what is told of each file; say at once what cannot be read."""
        from .asked import Asked
        from .pieces import Piece, failed, piece

        options = self._options
        asked = Asked(options.symbols, options.kernel, options.all_sections, options.folder)
        for answer in options.read(partial(piece, asked), self._paths, failed):
            made = Piece(*answer)
            self._errors += made.errors
            say(2, [*(error["message"] for error in made.errors), *made.warnings])
            self.is_clean &= not made.errors
            for file in made.files:
                self.is_clean &= not file["findings"]
                yield file
