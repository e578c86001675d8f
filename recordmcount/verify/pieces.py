"""One path -> all that is told of it, as plain values: this is what is spread over processes."""

from __future__ import annotations

from typing import NamedTuple

from recordmcount.console import spelled
from recordmcount.elf.filetype import NO_OBJECTS
from recordmcount.errors import Error

from .examine import examine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .asked import Asked
    from .shapes import Unreadable, VerifiedFile


class Piece(NamedTuple):
    """What is told of one path: of each file in it, what could not be read, and warnings."""

    files: list[VerifiedFile]
    errors: list[Unreadable]
    warnings: list[str]


def piece(asked: Asked, path: str) -> tuple[list[VerifiedFile], list[Unreadable], list[str]]:
    """Verify what is at a path; gives a Piece as a plain tuple."""
    made = Piece([], [], [])
    for found in examine(path, asked):
        if isinstance(found, Error):
            made.errors.extend(failed(found)[1])
        else:
            made.files.append(found)
    if not made.files and not made.errors:
        made.warnings.append(f"{path}: warning: {NO_OBJECTS}")
    return tuple(made)  # type: ignore[return-value]  # as `marshal` knows it


def failed(error: Error) -> tuple[list[VerifiedFile], list[Unreadable], list[str]]:
    """Make the piece of what could not be read, as a plain tuple."""
    return [], [{"path": error.path, "message": spelled(str(error))}], []
