"""Findings as workflow commands of GitHub Actions, which shows them beside the files.

(docs.github.com, "Workflow commands for GitHub Actions": `::error file=F,title=T::message`. In a
message `%`, CR and LF are escaped, in a property `:` and `,` as well.)
"""

from __future__ import annotations

from recordmcount.console import spelled

from .text import sentence

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from .shapes import VerifiedFile


def lines(file: VerifiedFile) -> Iterator[str]:
    """Give a command for each finding of a file."""
    member = "" if file["path"] == file["file"] else f"{file['path']}: "
    for finding in file["findings"]:
        yield _error(file["file"], finding["rule"], f"{member}{sentence(finding)}")


def unreadable(path: str, message: str) -> str:
    """Give the command for a file that could not be read."""
    return _error(path, "unreadable", message)


def _error(file: str, title: str, message: str) -> str:
    return f"::error file={_property(file)},title={_property(title)}::{_data(message)}"


def _data(text: str) -> str:
    """Escape a message; what could break the line is spelled before."""
    return spelled(text).replace("%", "%25")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
