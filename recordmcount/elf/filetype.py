"""Files that a build takes for objects and that have no code to record: named as what they are."""

from recordmcount.errors import FormatError

from .object import SH_NAME

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .object import Object

ARCHIVE_MAGIC = b"!<arch>\n"
THIN_ARCHIVE_MAGIC = b"!<thin>\n"
BITCODE_MAGIC = (b"BC\xc0\xde", b"\xde\xc0\x17\x0b")  # LLVM bitcode: raw, and in its wrapper


def refuse_others(path: str, magic: bytes) -> None:
    """Raise FormatError for bitcode and thin archives; `magic` are the file's first 8 bytes."""
    if magic.startswith(BITCODE_MAGIC):
        raise FormatError(
            path, "LLVM bitcode, not an object: compile without -flto, or record after the link"
        )
    if magic == THIN_ARCHIVE_MAGIC:
        raise FormatError(path, "a thin archive: record the objects it names instead")


def refuse_slim_lto(obj: "Object") -> None:
    """Raise FormatError for an object of gcc -flto without -ffat-lto-objects.

    It has no code yet, so no site, and silence would lose them. `.gnu.lto_.lto.*` holds versions
    (2 + 2 bytes) and the slim flag (gcc/lto-streamer.h, struct lto_section, since gcc 10).
    """
    prefix = b".gnu.lto_.lto."
    if prefix not in obj.section_names:
        return
    for index, header in enumerate(obj.headers):
        named_so = obj.section_names.startswith(prefix, header[SH_NAME])
        if named_so and obj.content(index)[4:5] == b"\1":
            raise FormatError(
                obj.path,
                "a slim LTO object without code: compile with -ffat-lto-objects, or record "
                "after the link",
            )
