"""What --help and a usage error tell of a command line, as `grammar` declares it."""

from __future__ import annotations

from .console import say
from .errors import UsageError
from .grammar import Command

WIDTH = 100  # columns


def usage(command: Command) -> list[str]:
    """Give the lines that tell how a command is called."""
    fronts = ["usage:", *["      "] * (len(command.usages) - 1)]
    lines = zip(fronts, command.usages, strict=True)
    return [f"{front} {command.name} {each}" for front, each in lines]


def refuse(command: Command, error: UsageError) -> int:
    """Tell what is wrong with words; returns the exit status."""
    say(2, refusal(command, error))
    return 2


def refusal(command: Command, error: UsageError) -> list[str]:
    """Give the lines that say what is wrong with words, and how they should be."""
    return [f"{command.name}: {error}", *usage(command)]


def help_of(command: Command) -> list[str]:
    """Give the lines of --help."""
    options = [(str(option), option.help) for option in command.options]
    arguments, verbs = command.arguments, command.verbs
    width = max(len(name) for name, _ in (*arguments, *options, *verbs)) + 2
    rows = [line for row in (*arguments, *options) for line in _row(*row, width)]
    verb_rows = [line for row in verbs for line in _row(*row, width)]
    return [
        *usage(command), "", *wrapped(command.description, WIDTH), "", *rows,
        *(("", "verbs:", *verb_rows) if verbs else ()),
        *(("", *wrapped(command.epilog, WIDTH)) if command.epilog else ()),
    ]  # fmt: skip


def _row(name: str, help: str, width: int) -> list[str]:  # noqa: A002
    """Lay out a row of --help in two columns."""
    first, *others = wrapped(help, WIDTH - width - 2) or [""]
    indent = " " * (width + 2)
    return [f"  {name.ljust(width)}{first}".rstrip(), *(f"{indent}{line}" for line in others)]


def wrapped(text: str, width: int) -> list[str]:
    """Break a text into lines at its blanks; a line feed in it stays one."""
    lines: list[str] = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split(" "):
            if line and len(line) + 1 + len(word) > width:
                lines.append(line)
                line = word
            else:
                line = f"{line} {word}" if line else word
        lines.append(line)
    return lines if text else []
