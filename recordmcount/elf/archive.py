"""Rebuild a static library (`ar`, the common System V / GNU format) around changed members.

Members grow, so everything behind them moves, and the archive's symbol index, which names
members by their file offsets, must follow. Names, order, dates, owners and modes stay.
(Format: System V ABI, "Archive File"; GNU: binutils/bfd documentation of `/`, `//`, `/SYM64/`.)
"""

from recordmcount.errors import FormatError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAGIC = b"!<arch>\n"
THIN_MAGIC = b"!<thin>\n"  # of the same length; only its special members have contents
HEADER_SIZE = 60  # name 16, date 12, uid 6, gid 6, mode 8, size 10, "`\n"
SIZE_FIELD = slice(48, 58)
HEADER_END = b"`\n"
# Special members of the GNU format: symbol index in 4 or 8 byte words, and long names.
INDEX_WORDS = {b"/": 4, b"/SYM64/": 8}
LONG_NAMES = b"//"


def members(path: str, content: bytes) -> "Iterator[tuple[str, bytes]]":
    """Yield (name, contents) of each member of the archive `content`, but of special ones.

    Raises FormatError where the archive is broken or in another format (BSD).
    """
    long_names = b""
    for _, header, member in _entries(path, content):
        name = header[:16].rstrip(b" ")
        if name == LONG_NAMES:
            long_names = member
        elif name not in INDEX_WORDS:
            yield _member_name(path, name, long_names), member


def rebuild(path: str, content: bytes, new_member: "Callable[[str, bytes], bytes]") -> bytes:
    """Return the archive `content` with every member replaced by new_member(name, its bytes).

    Where none changes, it is the very same. Raises FormatError as `members` does.
    """
    out = bytearray(MAGIC)
    moved: dict[int, int] = {}
    index: tuple[int, int, int] | None = None  # where it is in `out`, its size, its word
    names = members(path, content)
    changed = False
    for at, header, old in _entries(path, content):
        moved[at] = len(out)
        name, member = header[:16].rstrip(b" "), old
        if name in INDEX_WORDS:
            index = (len(out) + HEADER_SIZE, len(old), INDEX_WORDS[name])
        elif name != LONG_NAMES:
            member = new_member(next(names)[0], old)
            changed = changed or member != old
        size = b"%-10d" % len(member)
        if len(size) > 10:
            raise FormatError(path, "an archive member grows beyond its header")
        out += header[: SIZE_FIELD.start] + size + header[SIZE_FIELD.stop :] + member
        out += b"\n" * (len(out) % 2)
    if index is not None:
        _move_index(path, out, index, moved)
    return bytes(out) if changed else content


def files(path: str, content: bytes) -> "list[str]":
    """Return the files that the thin archive `content` at `path` names, each once, as paths.

    It names them relative to its folder. What lies elsewhere is for the user to name, not for an
    archive that may come from anywhere: FormatError, as where it is broken.
    """
    long_names = b""
    names: dict[bytes, None] = {}
    for _, header, special in _entries(path, content):
        name = header[:16].rstrip(b" ")
        if name == LONG_NAMES:
            long_names = special
        elif name not in INDEX_WORDS:
            names[_file_name(path, name, long_names)] = None
    folder = path[: path.rfind("/") + 1]
    return [folder + name.decode("utf-8", "surrogateescape") for name in names]


def _entries(path: str, content: bytes) -> "Iterator[tuple[int, bytes, bytes]]":
    """Yield (file offset of the header, header, contents) of each entry, special ones too."""
    thin = content.startswith(THIN_MAGIC)
    at = len(MAGIC)
    while at < len(content):
        header = content[at : at + HEADER_SIZE]
        digits = header[SIZE_FIELD].rstrip(b" ")
        if not header.endswith(HEADER_END) or not digits.isdigit():
            raise FormatError(path, f"no archive member header at {at:#x}")
        start = at + HEADER_SIZE
        is_named = thin and header[:16].rstrip(b" ") not in (*INDEX_WORDS, LONG_NAMES)
        end = start if is_named else start + int(digits)
        if end > len(content):
            raise FormatError(path, f"the archive member at {at:#x} is truncated")
        if header.startswith((b"#1/", b"__.SYMDEF")):
            raise FormatError(path, "a BSD archive: only the GNU format is supported")
        yield at, header, content[start:end]
        at = end + end % 2


def _member_name(path: str, name: bytes, long_names: bytes) -> str:
    return _full_name(path, name, long_names).decode("utf-8", "backslashreplace")


def _full_name(path: str, name: bytes, long_names: bytes) -> bytes:
    if name.startswith(b"/") and name[1:].isdigit():
        start = int(name[1:])
        end = long_names.find(b"/\n", start)
        if end < 0:
            raise FormatError(path, f"archive member name {start} is not in the table of names")
        name = long_names[start:end]
    return name.removesuffix(b"/")


def _file_name(path: str, name: bytes, long_names: bytes) -> bytes:
    if name.startswith(b"/"):
        start, colon, _ = name[1:].partition(b":")
        if colon:
            raise FormatError(path, "it names members of other archives: record those instead")
        if start.isdigit() and int(start) and long_names[int(start) - 1 : int(start)] != b"\n":
            # Where names may overlap, a small table makes a great many long ones.
            raise FormatError(path, f"archive member name {int(start)} begins inside another")
    name = _full_name(path, name, long_names)
    if name.startswith(b"/") or b".." in name.split(b"/") or b"\0" in name or not name:
        told = name.decode("utf-8", "backslashreplace")
        raise FormatError(path, f"{told} is not in its folder: name that file yourself")
    return name


def _move_index(
    path: str, out: bytearray, index: tuple[int, int, int], moved: dict[int, int]
) -> None:
    """Make the symbol index name the members' new offsets (big-endian words after a count)."""
    at, size, word = index
    count = int.from_bytes(out[at : at + word], "big")
    if word * (count + 1) > size:
        raise FormatError(path, "the archive's symbol index is truncated")
    for place in range(at + word, at + word * (count + 1), word):
        member = int.from_bytes(out[place : place + word], "big")
        if member not in moved:
            raise FormatError(path, f"the symbol index names no member at {member:#x}")
        if moved[member] >> (8 * word):
            raise FormatError(path, "the archive grows beyond its symbol index")
        out[place : place + word] = moved[member].to_bytes(word, "big")
