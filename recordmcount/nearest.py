"""What was most likely meant by a word that means nothing here."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

# Of more words than these it is not looked for: it takes 5 to 10 microseconds for each.
MOST = 50_000


def nearest(word: str, known: Collection[str]) -> str:
    """Return the word of `known` that is most like `word`; "" if none is much like it."""
    if len(known) > MOST:
        return ""
    from difflib import get_close_matches  # slow to import, and only slips need it

    return next(iter(get_close_matches(word, known, 1)), "")


def question(word: str, known: Collection[str]) -> str:
    """Ask `; did you mean 'that'?` if something is much like `word`; "" if nothing is."""
    meant = nearest(word, known)
    return f"; did you mean '{meant}'?" if meant else ""
