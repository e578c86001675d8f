"""The modules of a Debian kernel, read by a few lines of `struct`.

pyelftools takes a minute for a thousand modules.
"""

import struct
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from tests.support.command import ROOT

CLOUD = ROOT / ".cache" / "kernel" / "cloud"  # tools/kernel says what is in there
R_X86_64_64 = 1


class Header(NamedTuple):
    """An ELF64 section header; the gABI's fields without `sh_`."""

    name: int
    type: int
    flags: int
    addr: int
    offset: int
    size: int
    link: int
    info: int
    addralign: int
    entsize: int


@dataclass(frozen=True)
class Module:
    """The bytes of an ELF64 object with fewer than 65,280 sections."""

    data: bytes

    @cached_property
    def header_table(self) -> bytes:
        (start,) = struct.unpack_from("<Q", self.data, 40)  # e_shoff
        (count,) = struct.unpack_from("<H", self.data, 60)  # e_shnum
        return self.data[start : start + 64 * count]

    @cached_property
    def headers(self) -> list[Header]:
        return [Header(*fields) for fields in struct.iter_unpack("<IIQQQQIIQQ", self.header_table)]

    def content(self, index: int) -> bytes:
        header = self.headers[index]
        return b"" if header.type == 8 else self.data[header.offset : header.offset + header.size]

    def name(self, index: int) -> str:
        (names,) = struct.unpack_from("<H", self.data, 62)  # e_shstrndx
        return self.content(names)[self.headers[index].name :].partition(b"\0")[0].decode()

    @cached_property
    def names(self) -> list[str]:
        return [self.name(index) for index in range(len(self.headers))]

    def entries(self) -> list[tuple[str, int]]:
        """The places that `__mcount_loc` names, in order: section name and section offset.

        A module has one section of a name (`ld -r` made it).
        """
        if "__mcount_loc" not in self.names:
            return []
        relocations = self.names.index(".rela__mcount_loc")
        symbols = self.content(self.headers[relocations].link)
        entries: list[tuple[str, int]] = []
        for slot, info, addend in struct.iter_unpack("<QQq", self.content(relocations)):
            assert info & 0xFFFFFFFF == R_X86_64_64
            assert slot == 8 * len(entries)
            section, value = struct.unpack_from("<HQ", symbols, 24 * (info >> 32) + 6)
            entries.append((self.names[section], value + addend))
        assert self.headers[self.names.index("__mcount_loc")].size == 8 * len(entries)
        return entries

    def parts(self) -> list[bytes]:
        """All bytes that a header refers to, the headers first: everything but padding."""
        return [self.data[:64], self.header_table, *map(self.content, range(len(self.headers)))]
