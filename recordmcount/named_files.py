"""The files that words name: a @LIST those that it lists, and each of them once."""

import posix
import sys

from .commit import close
from .errors import RecordError, reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

LONGEST_LIST = 1 << 26  # bytes; a kernel's has 1 << 19


def expanded(files: "Iterable[str]") -> "Iterator[str]":
    """Give the files, each @LIST replaced by what it lists."""
    for file in files:
        if file.startswith("@"):
            content = _read_list(file[1:])
            separator = b"\0" if b"\0" in content else b"\n"
            for name in content.split(separator):
                if name.strip():
                    yield name.decode(sys.getfilesystemencoding(), "surrogateescape")
        else:
            yield file


def each_once(files: "Sequence[str]") -> "Iterator[str]":
    """Give each file once, however often and in whichever spelling it is named.

    Not so hard links: each is a path that is to have its own recorded file.
    """
    seen = set()
    for file in files:
        key: object = file
        try:
            status = posix.stat(file)
            if status.st_nlink == 1:
                key = status.st_dev, status.st_ino
        except OSError:
            pass  # whoever opens it will say so
        if key not in seen:
            seen.add(key)
            yield file


def _read_list(path: str) -> bytes:
    content = bytearray()
    try:
        fd = 0 if path == "-" else posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
        try:
            while piece := posix.read(fd, 1 << 16):
                content += piece
                if len(content) > LONGEST_LIST:
                    raise RecordError(path, f"no list of files: more than {LONGEST_LIST} bytes")
        finally:
            if fd:
                close(fd)
    except OSError as error:
        raise RecordError(path, reason(error)) from error
    return bytes(content)
