"""Two files of one name -> what is told of them: this is what is spread over processes."""

from __future__ import annotations

from typing import Any, NamedTuple

from recordmcount.console import rendered
from recordmcount.errors import Error

from .compare import compare
from .pairs import Named, pairs
from .text import document, lines


class Compared(NamedTuple):
    """What is told, in plain values as pipes take them: lines as one `text`, or `documents`.

    `errors` are (path, line that a person reads).
    """

    is_different: bool
    text: str
    documents: list[dict[str, Any]]
    errors: list[tuple[str, str]]


def compared(is_json: bool, symbols: tuple[str, ...], named: Named) -> tuple[Any, ...]:
    """Compare two files, and their members; gives a Compared as a plain tuple."""
    texts: list[str] = []
    documents: list[dict[str, Any]] = []
    errors: list[tuple[str, str]] = []
    is_different = False
    for pair in pairs(named, symbols):
        if isinstance(pair, Error):
            errors.append((pair.path, str(pair)))
            continue
        changes = compare(pair.old, pair.new)
        if not changes and pair.old and pair.new:
            continue
        is_different = True
        if is_json:
            documents.append(document(pair, changes))
        else:
            texts.append(rendered(lines(pair, changes)))
    return tuple(Compared(is_different, "\n".join(texts), documents, errors))


def failed(error: Error) -> tuple[Any, ...]:
    """Tell that two files could not be compared, as a plain tuple."""
    return tuple(Compared(False, "", [], [(error.path, str(error))]))
