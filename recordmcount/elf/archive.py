"""Rebuild a static library (`ar`, the common System V / GNU format) around changed members.

Only headers, names, the index and what changes are held: archives may be larger than memory.

Members grow, so everything behind them moves, and the archive's symbol index, which names
members by their file offsets, must follow. Names, order, dates, owners and modes stay.
(Format: System V ABI, "Archive File"; GNU: binutils/bfd documentation of `/`, `//`, `/SYM64/`.)
"""

from recordmcount.errors import FormatError

from .filetype import ARCHIVE_MAGIC, THIN_MAGIC

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    # read(file offset, size), less at the end.
    Read = Callable[[int, int], bytes]
    # (file offset, bytes that take the place of as many), and bytes to append to a member.
    Change = tuple[list[tuple[int, bytes]], bytes]

HEADER_SIZE = 60  # name 16, date 12, uid 6, gid 6, mode 8, size 10, "`\n"
SIZE_FIELD = slice(48, 58)
HEADER_END = b"`\n"
# Special members of the GNU format: symbol index in 4 or 8 byte words, and long names.
INDEX_WORDS = {b"/": 4, b"/SYM64/": 8}
LONG_NAMES = b"//"


class Member:
    """`size` bytes at file offset `offset`, behind a `header` at file offset `at`."""

    __slots__ = ("at", "header", "name", "offset", "size")

    def __init__(self, at: int, header: bytes, size: int) -> None:
        self.at = at
        self.header = header
        self.name = header[:16].rstrip(b" ")
        self.offset = at + HEADER_SIZE
        self.size = size


class Rebuilt:
    """An archive to be: `parts`, bytes or the (start, end) of some in the old one, one by one.

    Then `edits` are made in it: (file offset, bytes that take the place of as many).
    """

    __slots__ = ("parts", "edits", "size")

    def __init__(self) -> None:
        self.parts: list[bytes | tuple[int, int]] = [ARCHIVE_MAGIC]
        self.edits: list[tuple[int, bytes]] = []
        self.size = len(ARCHIVE_MAGIC)

    def add(self, part: "bytes | tuple[int, int]") -> None:
        """Put a part behind the others."""
        self.parts.append(part)
        self.size += len(part) if isinstance(part, bytes) else part[1] - part[0]


def members(path: str, size: int, read: "Read") -> "Iterator[tuple[str, Member]]":
    """Yield (name, member) of each member of the archive, of `size` bytes, but of special ones.

    Raises FormatError where the archive is broken or in another format (BSD).
    """
    for table, member in _names(path, size, read):
        yield _full_name(path, member.name, table).decode("utf-8", "backslashreplace"), member


def files(path: str, size: int, read: "Read") -> list[str]:
    """Return the files that the thin archive at `path` names, each once, as paths.

    It names them relative to its folder. What lies elsewhere is for the user to name, not for an
    archive that may come from anywhere: FormatError, as where it is broken.
    """
    names = {
        _file_name(path, member.name, table): None for table, member in _names(path, size, read)
    }
    folder = path[: path.rfind("/") + 1]
    return [folder + name.decode("utf-8", "surrogateescape") for name in names]


def rebuild(
    path: str, size: int, read: "Read", change: "Callable[[str, Member], Change | None]"
) -> Rebuilt | None:
    """Rebuild the archive with each member changed as change(its name, the member) says.

    None where none changes. Raises FormatError as `members` does, and where there is a doubt which
    index is the one that counts.
    """
    new = Rebuilt()
    moved: dict[int, int] = {}
    index: tuple[int, Member] | None = None  # where it is among the parts
    special: set[int] = set()
    names = members(path, size, read)
    changed = False
    for member in _entries(path, size, read):
        moved[member.at] = new.size
        word = INDEX_WORDS.get(member.name, 0)
        appended = b""
        if word or member.name == LONG_NAMES:
            _check_special(path, special, word, member)
            if word:
                index = (len(new.parts) + 1, member)
        elif wanted := change(next(names)[0], member):
            edits, appended = wanted
            changed = True
            start = new.size + HEADER_SIZE
            new.edits += [(start + offset, data) for offset, data in edits]
        _add(path, new, member, appended)
    if index is not None:
        at, member = index
        new.parts[at] = _moved_index(path, read(member.offset, member.size), member, moved)
    return new if changed else None


def _check_special(path: str, special: set[int], word: int, member: Member) -> None:
    """Refuse what some programs would read and others pass over; one of two would go stale."""
    if not word and word in special:
        raise FormatError(path, "two tables of names")
    if word and special.intersection(INDEX_WORDS.values()):
        raise FormatError(path, "two symbol indexes: make the archive anew, with ar")
    if word and member.at != len(ARCHIVE_MAGIC):
        raise FormatError(path, "the symbol index is not the first member")
    special.add(word)


def _add(path: str, new: Rebuilt, member: Member, appended: bytes) -> None:
    """Put a member, with what is appended to it, behind the others."""
    grown = member.size + len(appended)
    field = b"%-10d" % grown
    if len(field) > 10:
        raise FormatError(path, "an archive member grows beyond its header")
    header = member.header
    new.add(header[: SIZE_FIELD.start] + field + header[SIZE_FIELD.stop :])
    new.add((member.offset, member.offset + member.size))
    new.add(appended + b"\n" * (grown % 2))


def _names(path: str, size: int, read: "Read") -> "Iterator[tuple[bytes, Member]]":
    """Yield (the table of long names, member) of each member but special ones.

    Names in that table may overlap; all together they may not be longer than the archive.
    """
    long_names = b""
    allowance = size
    for member in _entries(path, size, read):
        if member.name == LONG_NAMES:
            long_names = read(member.offset, member.size)
        elif member.name not in INDEX_WORDS:
            if member.name[1:].isdigit():
                start = int(member.name[1:])
                allowance -= max(0, long_names.find(b"/\n", start) - start)
            if allowance < 0:
                raise FormatError(path, "names of members overlap: they are too long together")
            yield long_names, member


def _entries(path: str, size: int, read: "Read") -> "Iterator[Member]":
    """Yield each entry, special ones too; in a thin archive only those have contents."""
    is_thin = read(0, len(THIN_MAGIC)) == THIN_MAGIC
    at = len(ARCHIVE_MAGIC)
    while at < size:
        header = read(at, HEADER_SIZE)
        digits = header[SIZE_FIELD].rstrip(b" ")
        if not header.endswith(HEADER_END) or not digits.isdigit():
            raise FormatError(path, f"no archive member header at {at:#x}")
        member = Member(at, header, int(digits))
        if is_thin and member.name not in (*INDEX_WORDS, LONG_NAMES):
            member.size = 0
        end = member.offset + member.size
        if end > size:
            raise FormatError(path, f"the archive member at {at:#x} is truncated")
        if header.startswith((b"#1/", b"__.SYMDEF")):
            advice = "make it again in the GNU format, as `llvm-ar --format=gnu` does"
            raise FormatError(path, f"a BSD archive: {advice}")
        yield member
        at = end + end % 2


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


def _moved_index(path: str, content: bytes, member: Member, moved: dict[int, int]) -> bytes:
    """Make the symbol index name the members' new offsets (big-endian words after a count)."""
    word = INDEX_WORDS[member.name]
    count = int.from_bytes(content[:word], "big")
    if word * (count + 1) > len(content):
        raise FormatError(path, "the archive's symbol index is truncated")
    new = bytearray(content)
    for place in range(word, word * (count + 1), word):
        offset = int.from_bytes(content[place : place + word], "big")
        if offset not in moved:
            raise FormatError(path, f"the symbol index names no member at {offset:#x}")
        if moved[offset] >> (8 * word):
            raise FormatError(path, "the archive grows beyond its symbol index")
        new[place : place + word] = moved[offset].to_bytes(word, "big")
    return bytes(new)
