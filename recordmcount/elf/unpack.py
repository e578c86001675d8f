"""What there is to read of a file: itself, or what is compressed in it."""

from __future__ import annotations

from functools import partial

from . import containers, filetype, kernel_image

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    # What it is, its bytes, and how so many of them are read from an offset on.
    Unpacked = tuple[str, int, Callable[[int, int], bytes]]


def unpacked(path: str, size: int, read: Callable[[int, int], bytes]) -> Unpacked:
    """Decompress a compressed file, or the kernel of a kernel image; any other file stays itself.

    This is done once: what is compressed twice is still compressed. Raises FormatError where it
    cannot be done.
    """
    found = filetype.of(read(0, filetype.START))
    if found == filetype.COMPRESSED:
        content = containers.decompress(path, read, 0, size, containers.limit(size))
    elif found == filetype.KERNEL_IMAGE:
        content = kernel_image.vmlinux(path, size, read)
    else:
        return found, size, read
    return filetype.of(content), len(content), partial(part, content)


def part(content: bytes, offset: int, size: int) -> bytes:
    """Give so many bytes at an offset, or less at the end."""
    return content[offset : offset + size]
