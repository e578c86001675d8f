"""Files -> what is wrong with their tables: of an archive by objects, as reports have it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from recordmcount.elf import contents, filetype
from recordmcount.elf import object as elf

from . import linked, objects
from .asked import NOTHING_MORE, Asked
from .document import of_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from recordmcount.elf.object import Object
    from recordmcount.errors import Error

    from .shapes import VerifiedFile


def examine(path: str, asked: Asked = NOTHING_MORE) -> Iterator[VerifiedFile | Error]:
    """Verify a file or, of an archive, each object in it; or tell why that cannot be."""
    return contents.each(path, partial(_of_object, path, asked), asked.folder)


def _of_object(path: str, asked: Asked, obj: Object) -> VerifiedFile:
    obj.refuse_without_code()
    if obj.type == elf.ET_REL:
        found = objects.check(obj, asked)
    else:
        filetype.refuse_unlinked(obj)
        found = linked.check(obj, asked)
    return of_file(obj, path, found)
