"""The symbols of a linked file: which addresses have these names, which function is at an address.

Names are those before an `@`: bfd and gold append the version in .symtab.
"""

from _bisect import bisect_left, bisect_right

from recordmcount.columns import positions
from recordmcount.errors import FormatError

from . import object as elf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .object import Object


def named(obj: "Object", names: "Sequence[bytes]") -> "Iterator[tuple[bytes, int, int, int]]":
    """(name, st_value, st_info, st_shndx) of .symtab's and .dynsym's symbols of these names."""
    size = obj.layout.sym.size
    for index in obj.of_type(elf.SHT_SYMTAB, elf.SHT_DYNSYM):
        section = obj.section(index)
        places = _places(obj.content(section.link), names)
        low_bytes = {place[0] for place in places}
        step = elf.CHUNK * size
        for start in range(0, section.size - section.size % size, step):
            length = min(step, section.size - start)
            piece = obj.read(section.offset + start, length, f"section {index}")
            for number in positions(piece[::size], low_bytes) if places else ():
                at = number * size
                name = places.get(piece[at : at + 4])  # st_name
                if name is not None and at + size <= length:
                    fields = obj.layout.sym.unpack_from(piece, at)
                    value, _, info, shndx = _fields(obj, fields)
                    yield name, value, info, shndx


def _places(strings: bytes, names: "Sequence[bytes]") -> dict[bytes, bytes]:
    """st_name, as its four bytes, -> name, wherever in the string table one of `names` is."""
    places = {}
    absent: tuple[bytes, ...] = ()
    for name in sorted(names, key=len):
        if name.endswith(absent):  # where its tail is not, the name is not
            continue
        at = strings.find(name)
        absent += () if at >= 0 else (name,)
        while at >= 0:
            if strings[at + len(name) : at + len(name) + 1] in (b"\0", b"@"):
                places[at.to_bytes(4, "little")] = name
            at = strings.find(name, at + 1)
    return places


def _fields(obj: "Object", fields: tuple[int, ...]) -> tuple[int, int, int, int]:
    """(st_value, st_size, st_info, st_shndx) of a symbol's fields."""
    if obj.layout.is_64:
        _, info, _, shndx, value, size = fields
    else:
        _, value, size, info, _, shndx = fields
    return value, size, info, shndx


class Functions:
    """The STT_FUNC symbols by address; of several at one address a global one, then the first.

    They are read when the first is asked for.
    """

    def __init__(self, obj: "Object") -> None:
        self._obj = obj
        self._read: tuple[list[tuple[int, int, int, bytes, int]], list[int]] | None = None

    def covering(self, vaddr: int) -> tuple[str | None, int]:
        """(name, distance to its first byte) of the function at `vaddr`; (None, 0) if none."""
        functions, starts = self._functions()
        number = bisect_right(starts, vaddr) - 1
        if number < 0:
            return None, 0
        value, _, _, name, size = functions[number]
        if size and vaddr >= value + size:
            return None, 0
        return _unversioned(name), vaddr - value

    def names(self, start: int) -> tuple[str, ...]:
        """All names of the function that begins at `start`, each once, the best first."""
        functions, starts = self._functions()
        first, end = bisect_left(starts, start), bisect_right(starts, start)
        rows = reversed(functions[first:end])
        return tuple(dict.fromkeys(_unversioned(name) for *_, name, _ in rows))

    def _functions(self) -> tuple[list[tuple[int, int, int, bytes, int]], list[int]]:
        """Rows of (value, -rank, -number, name, size), sorted; and their first column."""
        if self._read is None:
            order = (elf.STB_GLOBAL, elf.STB_WEAK, elf.STB_LOCAL)
            rows = sorted(
                (value, -order.index(info >> 4) if info >> 4 in order else -3, -number, name, size)
                for number, (name, value, size, info, shndx) in enumerate(_symbols(self._obj))
                if info & 0xF == elf.STT_FUNC and shndx != elf.SHN_UNDEF
            )
            self._read = rows, [row[0] for row in rows]
        return self._read


def _symbols(obj: "Object") -> "Iterator[tuple[bytes, int, int, int, int]]":
    """(name, st_value, st_size, st_info, st_shndx) of .symtab's and .dynsym's symbols.

    Raises FormatError where names are tails of each other and would fill the memory.
    """
    allowance = elf.READINGS * obj.size
    for index in obj.of_type(elf.SHT_SYMTAB, elf.SHT_DYNSYM):
        content = obj.content(index)
        strings = obj.content(obj.section(index).link)
        whole = len(content) - len(content) % obj.layout.sym.size
        for fields in obj.layout.sym.iter_unpack(content[:whole]):
            name = strings[fields[0] : strings.find(b"\0", fields[0])]
            allowance -= len(name)
            if allowance < 0:
                raise FormatError(obj.path, "names of symbols overlap: they are too long together")
            yield name, *_fields(obj, fields)


def _unversioned(name: bytes) -> str:
    return name.partition(b"@")[0].decode("utf-8", "backslashreplace")
