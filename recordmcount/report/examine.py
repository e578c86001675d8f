"""Files -> what is told of them: of an archive by objects, of a compressed one what is inside."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from recordmcount.elf import contents
from recordmcount.sites import image

from .asked import NOTHING_MORE, Asked
from .document import of_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from recordmcount.elf.object import Object
    from recordmcount.errors import Error

    from .shapes import ReportedFile


def examine(path: str, asked: Asked = NOTHING_MORE) -> Iterator[ReportedFile | Error]:
    """Tell of a file or, for an archive, of each object in it; or why that cannot be."""
    return contents.each(path, partial(_of_object, asked), asked.folder)


def _of_object(asked: Asked, obj: Object) -> ReportedFile:
    return of_file(obj, image.read(obj, asked.symbols), asked)
