"""What a file may cost, in proportion to its size: what is read of it, and what is told of it.

A sound file needs far less. A hostile one has sections that overlap, or one long name that is told
again and again. Whoever repeats what a file says pays here first.
"""

from .errors import FormatError

# How many times a file's size may be read from it; recording a sound object takes less than four.
READINGS = 8
# How many times its size may be told of it, in characters, and what may be told of any file.
TELLINGS, LEAST = 10, 1 << 16
# Characters of a row about one site but for its names, and those that one may be spelled by.
ROW, LONGEST_SPELLING = 170, 6


class Budget:
    """The budget of the file `path` of `size` bytes; members of an archive share the archive's."""

    __slots__ = ("_path", "_reading", "_telling")

    def __init__(self, path: str, size: int) -> None:
        self._path = path
        self._reading = READINGS * size
        self._telling = TELLINGS * size + LEAST

    def reads(self, size: int) -> bool:
        """Count bytes that are to be read; False if those are too many."""
        self._reading -= size
        return self._reading >= 0

    def tell(self, *texts: str, more: int = 0) -> None:
        """Count what is to be told: texts, and `more` characters. Raises FormatError."""
        whole = "".join(texts)  # nearly always plain, and then one look is enough
        is_plain = whole.isascii() and whole.isprintable()
        self._telling -= more + (len(whole) if is_plain else sum(map(_spelled, texts)))
        if self._telling < 0:
            raise FormatError(
                self._path, f"more than {TELLINGS} times its size would be told of it"
            )


def _spelled(text: str) -> int:
    """Tell how long a text is at most when it is spelled."""
    return len(text) if text.isascii() and text.isprintable() else LONGEST_SPELLING * len(text)
