"""The vmlinux inside of a compressed kernel image for x86 (bzImage, vmlinuz).

The image begins with the kernel's setup code, in sectors, whose header says where the compressed
kernel is. (Linux: Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header" and "Details of
Header Fields"; fields of the payload are there since protocol 2.08.) Not on the recording path.
"""

from __future__ import annotations

from recordmcount.errors import FormatError

from . import containers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

SECTOR = 512  # bytes
# File offsets of the header's fields.
SETUP_SECTS, BOOT_FLAG, HEADER, VERSION = 0x1F1, 0x1FE, 0x202, 0x206
PAYLOAD_OFFSET, PAYLOAD_LENGTH = 0x248, 0x24C
START = 0x250  # bytes up to the end of these
OLD_SECTS = 4  # what 0 means in SETUP_SECTS
WITH_PAYLOAD = 0x0208  # the first version that tells of it
SIZE_FIELD = 4  # bytes at the payload's end: how large it is when decompressed


def is_image(start: bytes) -> bool:
    """Tell whether a file that begins with these bytes, START of them, is a kernel image."""
    return start[BOOT_FLAG : BOOT_FLAG + 2] == b"\x55\xaa" and start[HEADER:].startswith(b"HdrS")


def vmlinux(path: str, size: int, read: Callable[[int, int], bytes]) -> bytes:
    """Decompress the kernel inside of the image `path` of `size` bytes.

    `read` gives so many bytes at a file offset. Raises FormatError for an image that is broken, or
    made in a way that is not supported.
    """
    start, length = _payload(path, size, read(0, START))
    last = start + length
    name = containers.format_of(read(start, containers.START))
    if name is None:
        raise FormatError(path, "the kernel inside is compressed in no way that is known")
    claimed = int.from_bytes(read(last - SIZE_FIELD, SIZE_FIELD), "little")
    if claimed > containers.limit(length):
        raise FormatError(path, f"a kernel of {claimed} bytes when decompressed: refused")
    # The size is gzip's own last field, and was put behind all others.
    end = last if name == containers.GZIP else last - SIZE_FIELD
    content = containers.decompress(path, read, start, end, claimed)
    if len(content) < claimed:
        raise FormatError(path, f"the kernel inside has {len(content)} bytes, not {claimed}")
    return content


def _payload(path: str, size: int, header: bytes) -> tuple[int, int]:
    """Find the compressed kernel: (file offset, bytes)."""

    def field(at: int, width: int) -> int:
        return int.from_bytes(header[at : at + width], "little")

    version = field(VERSION, 2)
    if version < WITH_PAYLOAD:
        which = f"{version >> 8}.{version & 0xFF:02}"
        raise FormatError(path, f"boot protocol {which} does not tell where the kernel is")
    code = SECTOR * (1 + (field(SETUP_SECTS, 1) or OLD_SECTS))
    start, length = code + field(PAYLOAD_OFFSET, 4), field(PAYLOAD_LENGTH, 4)
    if length < SIZE_FIELD or start + length > size:
        what = f"the kernel inside, {length:#x} bytes at {start:#x}, is not in the file"
        raise FormatError(path, what)
    return start, length
