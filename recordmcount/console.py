"""What a terminal is for: results and diagnostics, to whoever still listens."""

from itertools import islice

from .commit import write_all
from .errors import reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# Characters of a line that are shown: more than a path and the name of a member or symbol have.
LONGEST = 1 << 14
CUT = "[...]"
HALF = (LONGEST - len(CUT)) // 2
LINES = 4096  # that are written at once


def printable(text: str) -> str:
    """Spell a text without what would move the cursor, break the line or turn its direction.

    Bytes that are no UTF-8, which Python keeps as U+DC80 to U+DCFF, are spelled as bytes.
    """
    if text.isprintable():
        return text
    return "".join([each if each.isprintable() else _escaped(each) for each in text])


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    if 0x80 <= code <= 0xFF:  # not to be taken for a byte
        return f"\\u{code:04x}"
    return character.encode("unicode_escape").decode("ascii")


def spelled(line: str) -> str:
    """Spell a line for people: printable, and without the middle of what nobody would read."""
    text = printable(line if len(line) <= LONGEST else f"{line[:HALF]}{CUT}{line[-HALF:]}")
    return text if len(text) <= LONGEST else f"{text[:HALF]}{CUT}{text[-HALF:]}"


class Painted:
    """A line with a part in colour, what stands before and behind it; `colour` is ANSI's number."""

    __slots__ = ("before", "part", "behind", "colour")

    def __init__(self, before: str, part: str, behind: str, colour: str) -> None:
        self.before = before
        self.part = part
        self.behind = behind
        self.colour = colour

    def __str__(self) -> str:
        part = f"\033[{self.colour}m{spelled(self.part)}\033[0m"
        return f"{spelled(self.before)}{part}{spelled(self.behind)}"


def rendered(lines: "Iterable[str | Painted]") -> str:
    """Spell lines for people as one text for `put`, without the end of the last one."""
    return "\n".join([spelled(line) if isinstance(line, str) else str(line) for line in lines])


def say(fd: int, lines: "Iterable[str | Painted]") -> bool:
    """Write lines for people to stdout (1) or stderr (2); False where nobody can read them.

    Names in them come from files, and whatever they are made of, they cannot write on a terminal
    what is no line of ours: every line is spelled here. A stdout that is closed or full, or more
    than the memory holds, is no reason to leave the rest of the files undone, so it is not raised.
    """
    return _write(fd, (spelled(line) if isinstance(line, str) else str(line) for line in lines))


def put(text: str) -> bool:
    """Write for programs what stdout is asked for, as it is; False as `say` gives it."""
    return _write(1, [text])


def draw(text: str) -> None:
    """Write what draws on the terminal that stdout is, as it is. Raises OSError."""
    write_all(1, text.encode("utf-8", "surrogateescape"))


def _write(fd: int, lines: "Iterable[str]") -> bool:
    rest = iter(lines)
    try:
        while text := "".join([f"{line}\n" for line in islice(rest, LINES)]):
            write_all(fd, text.encode("utf-8", "surrogateescape"))
    except (OSError, MemoryError) as error:
        if fd == 1 and not isinstance(error, BrokenPipeError):
            what = reason(error) if isinstance(error, OSError) else "out of memory"
            say(2, [f"standard output: {what}"])
        return False
    return True
