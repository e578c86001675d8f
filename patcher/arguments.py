"""What a person asks of patcher, and the usual ways to say it.

argparse takes longer to import than most files to switch. So words that are nothing but a verb,
options in full and then files are understood here, and all others are left to it (`parser`).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

LISTS = {"--functions": "functions", "--notrace": "notrace", "--symbol": "symbol"}
SWITCHES = {"-q": "quiet", "--quiet": "quiet", "--json": "json"}
OF_CHANGES = {"-n": "dry_run", "--dry-run": "dry_run"}


class Arguments:
    """The words by the names of the options. See `patcher --help`."""

    __slots__ = (
        "verb", "files", "functions", "notrace", "symbol", "out", "dry_run", "quiet", "json",
        "schema",
    )  # fmt: skip

    def __init__(self, verb: str) -> None:
        self.verb = verb
        self.files: list[str] = []
        self.functions: list[str] = []
        self.notrace: list[str] = []
        self.symbol: list[str] = []
        self.out: str | None = None
        self.dry_run = False
        self.quiet = False
        self.json = False
        self.schema = False


def usual(words: Sequence[str]) -> Arguments | None:
    """What these words ask for; None if argparse has to say that, or what is wrong."""
    if not words or words[0] not in ("nop", "call", "status"):
        return None
    found = Arguments(words[0])
    switches = SWITCHES if found.verb == "status" else {**SWITCHES, **OF_CHANGES}
    rest = list(reversed(words[1:]))
    while rest and rest[-1].startswith("-"):
        word = rest.pop()
        if word in switches:
            setattr(found, switches[word], True)
        elif not rest or not rest[-1] or rest[-1].startswith("-"):
            return None  # no value, or one that may be an option
        elif word in LISTS:
            getattr(found, LISTS[word]).append(rest.pop())
        elif word == "-o" and found.verb != "status":
            found.out = rest.pop()
        else:
            return None
    found.files = rest[::-1]
    is_clear = found.files and all(file and not file.startswith("-") for file in found.files)
    return found if is_clear and (found.out is None or len(found.files) == 1) else None
