"""Two paths -> pairs to compare: of two files, or of what has one name in two folders.

Members of archives are compared by name too; of several by one name the first with the first.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Generator, Iterator
from typing import NamedTuple

from recordmcount.errors import Error
from recordmcount.folders import Walk
from recordmcount.report.asked import Asked
from recordmcount.report.examine import examine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from recordmcount.report.shapes import ReportedFile


class Pair(NamedTuple):
    """A file of two builds; None where it is in one of them only. `name` is what both have."""

    name: str
    old: ReportedFile | None
    new: ReportedFile | None


# A name, and the paths of the files that have it in the old build and the new one; "" for none.
Named = tuple[str, str, str]


def named(old: str, new: str) -> Iterator[Named | Error]:
    """Give what is to be compared, in the order of the names."""
    if not (os.path.isdir(old) and os.path.isdir(new)):
        yield new, old, new
        return
    before = yield from _names(old)
    after = yield from _names(new)
    for name in sorted(before | after, key=os.fsencode):
        yield (
            name,
            os.path.join(old, name) if name in before else "",
            os.path.join(new, name) if name in after else "",
        )


def _names(folder: str) -> Generator[Error, None, set[str]]:
    """Return the paths of the files in a folder, relative to it; yield what cannot be read."""
    names = set()
    for path in Walk(folder):
        if isinstance(path, Error):
            yield path
        else:
            names.add(os.path.relpath(path, folder))
    return names


def pairs(each: Named, symbols: tuple[str, ...]) -> Iterator[Pair | Error]:
    """Give the pairs of one name: of files, or of the members of archives."""
    name, old, new = each
    before = yield from _documents(old, symbols)
    after = yield from _documents(new, symbols)
    for member in [*before, *(member for member in after if member not in before)]:
        yield Pair(name + member, before.get(member), after.get(member))


def _documents(
    path: str, symbols: tuple[str, ...]
) -> Generator[Error, None, dict[str, ReportedFile]]:
    """Return the documents of a file by what distinguishes them: `(member)`, and a number."""
    documents: dict[str, ReportedFile] = {}
    seen: Counter[str] = Counter()
    for found in examine(path, Asked(symbols)) if path else ():
        if isinstance(found, Error):
            yield found
            continue
        member = found["path"].removeprefix(path)
        seen[member] += 1
        documents[member if seen[member] == 1 else f"{member}#{seen[member]}"] = found
    return documents
