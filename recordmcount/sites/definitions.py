"""Where a linked image defines mcount, by its symbols."""

from __future__ import annotations

from recordmcount.elf import object as elf

from .known_symbols import named

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from recordmcount.elf.segments import LoadView


class Definitions:
    """Where the image defines mcount, by the symbols of these `names`.

    `code` are link-time virtual addresses of functions that are loaded, with the name of each, and
    `resolvers` those of STT_GNU_IFUNC symbols: a call does not go there, but where they say.
    """

    def __init__(
        self, view: LoadView, names: list[bytes], code: Mapping[int, str] | None = None
    ) -> None:
        self.names = names
        if code is not None:  # a kernel's, by symbols of its own
            self.code, self.resolvers = dict(code), {}
            return
        found: tuple[dict[int, bytes], dict[int, bytes]] = ({}, {})
        for name, value, info, shndx in named(view.obj, names):
            if (
                elf.SHN_UNDEF < shndx < elf.SHN_LORESERVE
                and view.file_offset(value, 1, executable=True) is not None
            ):
                known = found[info & 0xF == elf.STT_GNU_IFUNC]
                known[value] = min(known.get(value, name), name, key=names.index)
        self.code, self.resolvers = (
            {value: self.told(name) for value, name in each.items()} for each in found
        )

    @staticmethod
    def told(name: bytes) -> str:
        """Give a name as it is told."""
        return name.decode("utf-8", "backslashreplace")
