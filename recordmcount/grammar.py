"""The grammar of a command line: declared once, it is what is parsed and what --help tells.

Words mean what they mean to getopt_long: `--name VALUE`, `--name=VALUE`, `-n VALUE`, `-nVALUE`,
`-ab` for `-a -b`, a long name cut short where it is clear; options stand between files or behind
them, and behind `--` there are none. Unlike there, no VALUE of its own begins with a dash: where a
value was forgotten the next option is not swallowed. (`argparse` takes longer to import than
recording takes.)
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import TypeVar

    Result = TypeVar("Result", bound="Values")

WIDTH = 100  # columns of --help
LONGEST_NUMBER = 9  # digits


class UsageError(Exception):
    """The words of a command line make no sense; the text says why."""


class Option:
    """An option: a switch, or with `value`, its name in --help, one that takes a value.

    `names` are its names, `attribute` that of Values. A `repeatable` one collects its values, of a
    `number` the value must be one of a range. `information` asks for something else than work.
    """

    __slots__ = ("names", "help", "attribute", "value", "repeatable", "number", "information")

    def __init__(
        self,
        names: str,
        help: str,  # noqa: A002 - as everywhere
        attribute: str = "",
        *,
        value: str = "",
        repeatable: bool = False,
        number: range | None = None,
        information: bool = False,
    ) -> None:
        self.names = names.split()
        self.help = help
        self.attribute = attribute or self.names[-1].lstrip("-").replace("-", "_")
        self.value = value
        self.repeatable = repeatable
        self.number = number
        self.information = information

    def __str__(self) -> str:
        """Spell it as --help does."""
        return f"{', '.join(self.names)} {self.value}".rstrip()


class Command:
    """A command, or one of its verbs: all that --help tells of it.

    `usages` stand behind `name`, one a line; `arguments` and `verbs` are (name, what it is) rows.
    """

    __slots__ = ("name", "usages", "description", "options", "arguments", "verbs", "epilog")

    def __init__(
        self,
        name: str,
        usages: "Sequence[str]",
        description: str,
        options: "Sequence[Option]",
        *,
        arguments: "Sequence[tuple[str, str]]" = (),
        verbs: "Sequence[tuple[str, str]]" = (),
        epilog: str = "",
    ) -> None:
        self.name = name
        self.usages = usages
        self.description = description
        self.options = options
        self.arguments = arguments
        self.verbs = verbs
        self.epilog = epilog

    def usage(self) -> list[str]:
        """Give the lines that tell how it is called."""
        fronts = ["usage:", *["      "] * (len(self.usages) - 1)]
        lines = zip(fronts, self.usages, strict=True)
        return [f"{front} {self.name} {usage}" for front, usage in lines]

    def refusal(self, error: UsageError) -> list[str]:
        """Give the lines that say what is wrong with words, and how they should be."""
        from .console import printable

        return [f"{self.name}: {printable(str(error))}", *self.usage()]

    def help(self) -> list[str]:
        """Give the lines of --help."""
        options = [(str(option), option.help) for option in self.options]
        width = max(len(name) for name, _ in (*self.arguments, *options, *self.verbs)) + 2
        rows = [line for row in (*self.arguments, *options) for line in _row(*row, width)]
        verbs = [line for row in self.verbs for line in _row(*row, width)]
        return [
            *self.usage(), "", *_wrapped(self.description, WIDTH), "", *rows,
            *(("", "verbs:", *verbs) if verbs else ()),
            *(("", *_wrapped(self.epilog, WIDTH)) if self.epilog else ()),
        ]  # fmt: skip


class Values:
    """What the words of a command line ask for, by the attributes of its options.

    A subclass gives each attribute its type, and the value it has if no word gives it another.
    `information` is the attribute of the option, if there is one, that asks for something else.
    """

    files: "tuple[str, ...]" = ()
    information = ""

    def __init__(self, **values: object) -> None:
        self.__dict__.update(values)


def parse(command: Command, words: "Sequence[str]", values: "Result") -> "Result":
    """Give `values` what the words say; nothing behind a word that asks for information counts.

    Raises UsageError.
    """
    known = {name: option for option in command.options for name in option.names}
    files: list[str] = []
    rest = iter(words)
    for word in rest:
        if word == "--":
            files += rest
        elif word == "-" or not word.startswith("-"):
            files.append(word)
        else:
            for name, option, value in _options(word, known, rest):
                if option.information:
                    values.information = option.attribute
                    return values
                _set(values, name, option, value)
    values.files = tuple(files)
    return values


def run(
    declared: "tuple[Command, Result]", execute: "Callable[[Result], int]", words: "Sequence[str]"
) -> int:
    """Run a verb: parse the words and execute what they ask for; returns the exit status.

    A verb is a module with two functions. `declare` gives its command line and an object for what
    that asks for; `execute` does it, and imports what takes long only then.
    """
    import sys

    from .console import say

    command, values = declared
    try:
        asked = parse(command, words, values)
        if not (asked.files or asked.information):
            raise UsageError("no files")
        if getattr(asked, "output", None) and len(asked.files) > 1:
            raise UsageError("-o is for one file")
    except UsageError as error:
        say(2, command.refusal(error))
        return 2
    if asked.information == "help":
        return inform(command.help())
    status = execute(asked)
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:  # nobody reads it
        return 1
    return status


def inform(lines: "Sequence[str]") -> int:
    """Print what was asked for; returns the exit status."""
    from .console import say

    return 0 if say(1, lines) else 1


def _options(
    word: str, known: dict[str, Option], rest: "Iterator[str]"
) -> "Iterator[tuple[str, Option, str]]":
    """Yield (name, option, value) of each option in a word; the value may be the next word."""
    if word.startswith("--"):
        name, equals, value = word.partition("=")
        option = _long(name, known)
        if equals and not option.value:
            raise UsageError(f"option '{name}' takes no value")
        yield name, option, value if equals else _next(name, option, rest)
        return
    letters = word[1:]
    while letters:
        name, letters = f"-{letters[0]}", letters[1:]
        if name not in known:
            where = "" if name == word else f" in '{word}'"
            raise UsageError(f"unknown option '{name}'{where}")
        option, value = known[name], ""
        if option.value and letters.startswith("="):
            raise UsageError(f"option '{name}' takes its value without '='")
        if option.value:
            value, letters = letters or _next(name, option, rest), ""
        yield name, option, value


def _long(name: str, known: dict[str, Option]) -> Option:
    if name in known:
        return known[name]
    meant = [each for each in known if each.startswith(name) and name != "--"]
    if len({known[each] for each in meant}) == 1:
        return known[meant[0]]
    if meant:
        raise UsageError(f"option '{name}' is not clear: {', '.join(meant)}")
    raise UsageError(f"unknown option '{name}'")


def _next(name: str, option: Option, rest: "Iterator[str]") -> str:
    """Take the next word as the value; what may be an option must not vanish in another's value."""
    if not option.value:
        return ""
    value = next(rest, "")
    if value.startswith("-") and value != "-":
        raise UsageError(f"option '{name}' wants a value, not '{value}'")
    return value


def _set(values: Values, name: str, option: Option, value: str) -> None:
    if not option.value:
        setattr(values, option.attribute, True)
        return
    if not value:
        raise UsageError(f"option '{name}' wants a value")
    if option.repeatable:
        setattr(values, option.attribute, (*getattr(values, option.attribute), value))
    elif option.number is None:
        setattr(values, option.attribute, value)
    elif value.isdecimal() and len(value) <= LONGEST_NUMBER and int(value) in option.number:
        setattr(values, option.attribute, int(value))
    else:
        least, most = option.number[0], option.number[-1]
        raise UsageError(f"option '{name}' wants a number from {least} to {most}, not '{value}'")


def _row(name: str, help: str, width: int) -> list[str]:  # noqa: A002
    """Lay out a row of --help in two columns."""
    first, *others = _wrapped(help, WIDTH - width - 2) or [""]
    indent = " " * (width + 2)
    return [f"  {name.ljust(width)}{first}".rstrip(), *(f"{indent}{line}" for line in others)]


def _wrapped(text: str, width: int) -> list[str]:
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
