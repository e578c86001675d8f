"""Two paths -> pairs to compare: of two files, or of what has one name in two folders.

A file and one that is compressed, as modules are when they are installed, have one name but for
its end. They are a pair where that is so of one file on each side: which of several was meant is
not guessed. Members of archives are compared by name too; of several by one name the first with the
first.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Generator, Iterator
from typing import NamedTuple

from recordmcount.elf.containers import SUFFIXES
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
# Where the names differ, it is the new one.
Named = tuple[str, str, str]


def named(old: str, new: str) -> Iterator[Named | Error]:
    """Give what is to be compared, in the order of the names."""
    if not (os.path.isdir(old) and os.path.isdir(new)):
        yield new, old, new
        return
    before = yield from _names(old)
    after = yield from _names(new)
    partners = {name: name for name in before & after} | _compressed(before, after)
    gone = before.difference(partners.values())
    for name in sorted(after | gone, key=os.fsencode):
        partner = name if name in gone else partners.get(name, "")
        yield (
            name,
            os.path.join(old, partner) if partner else "",
            os.path.join(new, name) if name in after else "",
        )


def _compressed(before: set[str], after: set[str]) -> dict[str, str]:
    """Pair names that differ in how a file is compressed: of the new build -> of the old one."""
    olds, news = _by_plain(before), _by_plain(after)
    return {
        news[plain][0]: olds[plain][0]
        for plain in olds.keys() & news.keys()
        if len(olds[plain]) == len(news[plain]) == 1
    }


def _by_plain(names: set[str]) -> dict[str, list[str]]:
    """Group names by what they are without the end that tells of compression."""
    found: dict[str, list[str]] = {}
    for name in names:
        plain, end = os.path.splitext(name)
        found.setdefault(plain if end in SUFFIXES else name, []).append(name)
    return found


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
