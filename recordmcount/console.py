"""What a terminal is for: results and diagnostics, to whoever still listens, and Ctrl-C."""

import _signal  # type: ignore[import-not-found]  # see commit.py
from itertools import islice

from .commit import write_all
from .errors import reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


LINES = 4096  # that are written at once


def end_when_interrupted() -> None:
    """Have Ctrl-C end the process as any signal does, not as a Python exception."""
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)


def printable(name: str) -> str:
    """Spell a name without what would move the cursor or break the line."""
    return name if name.isprintable() else name.encode("unicode_escape").decode("ascii")


def say(fd: int, lines: "Iterable[str]") -> bool:
    """Write lines to stdout (1) or stderr (2); False where nobody can read them.

    Any path can be printed, valid UTF-8 or not. A stdout that is closed or full, or more than the
    memory holds, is no reason to leave the rest of the files undone, so it is not raised.
    """
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
