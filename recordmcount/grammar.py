"""The grammar of a command line: declared once, it is what is parsed and what --help tells.

Words mean what they mean to getopt_long: `--name VALUE`, `--name=VALUE`, `-n VALUE`, `-nVALUE`,
`-ab` for `-a -b`, a long name cut short where it is clear; options stand between files or behind
them, and behind `--` there are none. Unlike there, no VALUE of its own begins with a dash: where a
value was forgotten the next option is not swallowed. (`argparse` takes longer to import than
recording takes.)
"""

from .errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import TypeVar

    from .asked import Values

    Result = TypeVar("Result", bound="Values")

LONGEST_NUMBER = 9  # digits


class Option:
    """An option: a switch, or with `value`, its name in --help, one that takes a value.

    `names` are its names, `attribute` that of `asked.Values`. A `repeatable` one collects its
    values, of a `number` the value must be one of a range. `information` asks for something else
    than work.
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
    With `passes_on` all that stands behind the first file is for another command.
    """

    __slots__ = (
        "name", "usages", "description", "options", "arguments", "verbs", "epilog", "passes_on",
    )  # fmt: skip

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
        passes_on: bool = False,
    ) -> None:
        self.name = name
        self.usages = usages
        self.description = description
        self.options = options
        self.arguments = arguments
        self.verbs = verbs
        self.epilog = epilog
        self.passes_on = passes_on


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
            if command.passes_on:
                files += rest
        else:
            for name, option, value in _options(word, known, rest):
                if option.information:
                    values.information = option.attribute
                    return values
                _set(values, name, option, value)
    values.files = tuple(files)
    return values


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
            raise UsageError(f"unknown option '{name}'{where}{_instead(word, known)}")
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
    raise UsageError(f"unknown option '{name}'{_instead(name, known)}")


def _instead(word: str, known: dict[str, Option]) -> str:
    """Say what to write instead of a word with an option that there is not."""
    from .nearest import question  # rare

    long_names = [each for each in known if each.startswith("--")]
    is_long = len(word) > 3  # a few letters are like anything
    meant = question(f"--{word.lstrip('-')}", long_names) if is_long else ""
    return meant or "; see --help"


def _next(name: str, option: Option, rest: "Iterator[str]") -> str:
    """Take the next word as the value; what may be an option must not vanish in another's value."""
    if not option.value:
        return ""
    value = next(rest, "")
    if value.startswith("-") and value != "-":
        raise UsageError(f"option '{name}' wants a value, not '{value}'")
    return value


def _set(values: "Values", name: str, option: Option, value: str) -> None:
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
