"""The sections of debug information: decompressed within bounds, and in objects relocated.

(gABI, "Section Compression", and the psABIs for relocations.) Whoever reads debug information reads
it from here, so that no other reader has to be trusted with sizes that a file claims.
"""

from __future__ import annotations

from typing import NamedTuple

from recordmcount import x86
from recordmcount.errors import FormatError

from . import containers
from . import object as elf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .object import Object

ZLIB, ZSTD = 1, 2  # ELFCOMPRESS_ZLIB, ELFCOMPRESS_ZSTD
# Relocation types that fill words of debug information with addresses or offsets, in bytes.
_WORDS = {
    x86.EM_X86_64: {x86.R_X86_64_64: 8, x86.R_X86_64_32: 4},
    x86.EM_386: {x86.R_386_32: 4},
}


class Content(NamedTuple):
    """A section's bytes, relocated; and by the position of a word the section that it points to."""

    data: bytes
    places: dict[int, int]


NONE = Content(b"", {})


class DebugSections:
    """The sections of one file, by name; read when they are first asked for, and kept."""

    def __init__(self, obj: Object) -> None:
        self._obj = obj
        self._left = containers.limit(obj.size)  # bytes that may still come of compressed ones
        self._kept: dict[bytes, Content] = {}

    def content(self, name: bytes) -> Content:
        """Read a section; empty if there is none.

        Raises FormatError for one that is broken, or compressed in a way that is not supported.
        """
        if name not in self._kept:
            self._kept[name] = self._read(name)
        return self._kept[name]

    def _read(self, name: bytes) -> Content:
        obj = self._obj
        indices = obj.named(name)
        if not indices:
            return NONE
        section = obj.section(indices[0])
        if section.type == elf.SHT_NOBITS:  # what is left of it where it was split from the file
            return NONE
        data = obj.read(section.offset, section.size, section.name)
        if section.flags & elf.SHF_COMPRESSED:
            data = self._decompressed(data, section.name)
        if obj.type != elf.ET_REL:
            return Content(data, {})
        return self._relocated(data, indices[0])

    def _relocated(self, data: bytes, target: int) -> Content:
        obj = self._obj
        content, places = bytearray(data), {}
        sizes = _WORDS[obj.machine]
        for index in obj.of_type(elf.SHT_RELA, elf.SHT_REL):
            if obj.headers[index][elf.SH_INFO] != target:
                continue
            for at, kind, number, addend in obj.relocations(index):
                size = sizes.get(kind)
                if size is None or at + size > len(content) or number >= obj.symbol_count:
                    continue
                symbol = obj.raw_symbol(number)
                if addend is None:
                    addend = int.from_bytes(content[at : at + size], "little")
                value = symbol[elf.ST_VALUE] + addend & (1 << 8 * size) - 1
                content[at : at + size] = value.to_bytes(size, "little")
                places[at] = symbol[elf.ST_SHNDX]
        return Content(bytes(content), places)

    def _decompressed(self, data: bytes, name: str) -> bytes:
        """Decompress a section: a header, and one stream of as many bytes as that says."""
        is_64 = self._obj.layout.is_64
        head = 24 if is_64 else 12
        kind = int.from_bytes(data[:4], "little")
        size = int.from_bytes(data[8:16] if is_64 else data[4:8], "little")
        if size > self._left:
            what = f"{size} bytes when decompressed: refused"
            raise FormatError(self._obj.path, what, name)
        self._left -= size
        if kind not in _DECOMPRESSORS:
            what = f"compressed in a way that is not known ({kind})"
            raise FormatError(self._obj.path, what, name)
        try:
            content = _DECOMPRESSORS[kind](data[head:], size)
        except ImportError as error:
            raise FormatError(self._obj.path, str(error), name) from error
        if content is None or len(content) != size:
            raise FormatError(self._obj.path, "compressed, and broken", name)
        return content


def _zlib(data: bytes, size: int) -> bytes | None:
    """Decompress to `size` bytes and one more, which tells that there are more; None if broken."""
    import zlib

    try:
        return zlib.decompressobj().decompress(data, size + 1)
    except zlib.error:
        return None


def _zstd(data: bytes, size: int) -> bytes | None:
    opened, broken = containers.zstd()
    try:
        return opened().decompress(data, size + 1)
    except broken:
        return None


_DECOMPRESSORS = {ZLIB: _zlib, ZSTD: _zstd}
