"""The command line: words -> one action per file -> lines or JSON, and exit status.

What takes long to import is imported by the actions, so that `patcher --help` answers at once.
"""

from __future__ import annotations

import gc

from recordmcount.console import end_when_interrupted, say
from recordmcount.errors import Error

from .arguments import usual

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from .arguments import Arguments
    from .memory.elffile import ElfFile
    from .report.document import Switched


def main(words: Sequence[str]) -> int:
    """Run `patcher` with these words; returns the exit status."""
    end_when_interrupted()
    arguments = usual(words)
    if arguments is None:
        from .parser import parse

        arguments = parse(words)
    if arguments.schema:
        from recordmcount.report.json import dump, schema

        from .report.document import SCHEMA

        return 0 if say(1, [dump(schema(SCHEMA))]) else 1
    gc.disable()  # hardly any cycles are made, and looking for them takes long
    run = _Run(arguments)
    good = True
    for path in arguments.files:
        good &= run.process(path)
    return 0 if run.finish() and good else 1


class _Run:
    """One verb over many files: what to say of each at once, or of all as one JSON document."""

    def __init__(self, arguments: Arguments) -> None:
        self._arguments = arguments
        self._files: list[Mapping[str, Any]] = []
        self._errors: list[dict[str, Any]] = []

    def process(self, path: str) -> bool:
        """Whether the file is as it should be, and could be reported."""
        from .memory.elffile import ElfFile

        action = self._status if self._arguments.verb == "status" else self._switch
        try:
            with ElfFile(path) as file:
                return action(file)
        except (Error, OSError) as error:
            from .report.document import failed

            told = failed(path, error)
            say(2, [told["message"]])
            self._errors.append(told)
        return False

    def finish(self) -> bool:
        """Print the JSON, if that was asked for; whether it could be."""
        if not self._arguments.json:
            return True
        from recordmcount.report.json import dump

        from .report.document import run

        dry_run = self._arguments.dry_run
        told = run(self._arguments.verb, self._files, self._errors, dry_run=dry_run)
        return say(1, [dump(told)])

    def _status(self, file: ElfFile) -> bool:
        from recordmcount.sites.state import State

        from .files.switch import read, select

        table = read(file, self._arguments.symbol)
        selected = select(file.path, table, self._arguments.functions, self._arguments.notrace)
        good = not table.sites.where(selected, State.FOREIGN)
        from .report.document import examined

        listed = self._arguments.json or not self._arguments.quiet
        told = examined(file.object, table, selected, listed=listed)
        if self._arguments.json:
            self._files.append(told)
            return good
        from .report.text import examined_lines

        return say(1, [f"{file.path}: {line}" for line in examined_lines(told)]) and good

    def _switch(self, file: ElfFile) -> bool:
        from recordmcount.sites.state import State

        from .files.switch import plan, read, select, switch, warning

        arguments = self._arguments
        table = read(file, arguments.symbol)
        selected = select(file.path, table, arguments.functions, arguments.notrace)
        wanted = plan(
            file.path, table, selected, State.NOP if arguments.verb == "nop" else State.CALL
        )
        told: Switched | None = None
        if arguments.json or arguments.dry_run:  # first: nothing is done that cannot be told
            from .report.document import switched

            told = switched(file.object, wanted)
        written = switch(file, wanted, arguments.out, dry_run=arguments.dry_run)
        if not arguments.quiet and (what := warning(file, wanted)):
            say(2, [f"{file.path}: warning: {what}"])
        if told is None:
            return arguments.quiet or say(1, [f"{file.path}: {wanted}"])
        if arguments.json:
            self._files.append({**told, "written": written})
            return True
        from .report.text import switched_lines

        return say(1, [f"{file.path}: {line}" for line in switched_lines(told)])
