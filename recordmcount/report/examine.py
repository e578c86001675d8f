"""Files -> what is told of them: of an archive by objects, of a compressed one what is inside."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

from recordmcount.elf import contents
from recordmcount.sites import image

from .document import of_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from recordmcount.elf.object import Object
    from recordmcount.errors import Error

    from .shapes import ReportedFile


class Asked(NamedTuple):
    """What is asked of files: further names of mcount, and what debug information tells."""

    symbols: tuple[str, ...] = ()
    lines: bool = False
    untraceable: bool = False


NOTHING_MORE = Asked()


def examine(path: str, asked: Asked = NOTHING_MORE) -> Iterator[ReportedFile | Error]:
    """Tell of a file or, for an archive, of each object in it; or why that cannot be."""
    return contents.each(path, partial(_of_object, asked))


def _of_object(asked: Asked, obj: Object) -> ReportedFile:
    sites = image.read(obj, asked.symbols)
    return of_file(obj, sites, asked.symbols, lines=asked.lines, untraceable=asked.untraceable)
