"""A verb of a command line: words -> what they ask for -> its work -> exit status.

A verb is a module with two functions. `declare` gives its command line and an object for what that
asks for; `execute` does it, and imports what takes long only then.
"""

from __future__ import annotations

import sys

from .asked import Values
from .console import put, say
from .errors import UnreachableError, UsageError
from .grammar import Command, parse

# What Python raises where memory ends while it handles that memory has ended.
NO_MEMORY_LEFT = "error return without exception set"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeVar

    Asked = TypeVar("Asked", bound=Values)


def run(
    declared: tuple[Command, Asked], execute: Callable[[Asked], int], words: Sequence[str]
) -> int:
    """Parse the words and execute what they ask for; returns the exit status."""
    command, values = declared
    try:
        asked = parse(command, words, values)
        if not asked.information:
            asked.check()
    except UsageError as error:
        from .help import refuse

        return refuse(command, error)
    if asked.information == "help":
        from .help import help_of

        return inform(help_of(command))
    try:
        status = execute(asked)
    except UnreachableError as error:  # no file is to blame
        say(2, [str(error)])
        return 1
    except (MemoryError, SystemError) as error:
        if isinstance(error, SystemError) and str(error) != NO_MEMORY_LEFT:
            raise
        say(2, [f"{command.name}: out of memory"])
        return 1
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:  # nobody reads it
        return 1
    return status


def inform(lines: Sequence[str]) -> int:
    """Print for people what was asked for; returns the exit status."""
    return 0 if say(1, lines) else 1


def give(text: str) -> int:
    """Print for programs what was asked for; returns the exit status."""
    return 0 if put(text) else 1
