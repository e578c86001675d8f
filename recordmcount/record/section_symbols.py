"""Add section symbols to an object that lacks them; everything that counts symbols must follow.

Local symbols stand before the others (gABI, "Symbol Table", sh_info), so a new one moves every
symbol behind it. What holds symbol indices: relocations, the signature of a section group, the
parallel SHT_SYMTAB_SHNDX table, LLVM's address-significance table and its old call graph profile.
A section type that is linked to the symbol table and is not known here is refused.
"""

from recordmcount.elf import object as elf
from recordmcount.errors import FormatError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from recordmcount.elf.object import Object

# Linked to the symbol table without symbol indices of their own inside.
_INDIFFERENT = (elf.SHT_LLVM_CALL_GRAPH_PROFILE,)


class Renumbering:
    """The symbol table with section symbols added, and what follows from it.

    `symbols` maps a section index to its new symbol's index. `new` maps an old symbol index to
    the new one. Of the sections, by index: `contents` has those that change their size, whole;
    `relocations` those that keep it; `infos` the new sh_info.
    """

    __slots__ = ("symbols", "new", "contents", "relocations", "infos")

    def __init__(self, symbols: dict[int, int], new: "Callable[[int], int]") -> None:
        self.symbols = symbols
        self.new = new
        self.contents: dict[int, bytes] = {}
        self.relocations: dict[int, bytearray] = {}
        self.infos: dict[int, int] = {}


def add_section_symbols(obj: "Object", sections: list[int]) -> Renumbering:
    """Plan one new STT_SECTION symbol for each of `sections`, behind the last local symbol."""
    symtab = obj.symtab
    if symtab is None:
        raise FormatError(obj.path, "there is no symbol table")
    first_global = obj.headers[symtab][elf.SH_INFO]
    if not 1 <= first_global <= obj.symbol_count:
        raise FormatError(obj.path, f"sh_info of the symbol table is {first_global}")
    symbols = {section: first_global + i for i, section in enumerate(sections)}

    def new(symbol: int) -> int:
        if symbol >= obj.symbol_count:
            raise FormatError(obj.path, f"there is no symbol {symbol}")
        return symbol if symbol < first_global else symbol + len(sections)

    result = Renumbering(symbols, new)
    _insert(obj, result, symtab, first_global, sections)
    for index, header in enumerate(obj.headers):
        if index != symtab and header[elf.SH_LINK] == symtab:
            _follow(obj, result, index)
    return result


def _insert(
    obj: "Object", result: Renumbering, symtab: int, first_global: int, sections: list[int]
) -> None:
    size = obj.layout.sym.size
    table = obj.symbol_bytes
    added = b"".join(_section_symbol(obj, section) for section in sections)
    cut = first_global * size
    result.contents[symtab] = table[:cut] + added + table[cut:]
    result.infos[symtab] = first_global + len(sections)
    extended = [
        index
        for index in obj.of_type(elf.SHT_SYMTAB_SHNDX)
        if obj.headers[index][elf.SH_LINK] == symtab
    ]
    for index in extended:
        words = obj.extended_shndx(index)
        added = b"".join(
            (section if section >= elf.SHN_LORESERVE else 0).to_bytes(4, "little")
            for section in sections
        )
        result.contents[index] = words[: 4 * first_global] + added + words[4 * first_global :]
    if not extended and max(sections) >= elf.SHN_LORESERVE:
        raise FormatError(obj.path, f"section {max(sections)} has no symbol, nor can it have one")


def _section_symbol(obj: "Object", section: int) -> bytes:
    shndx = section if section < elf.SHN_LORESERVE else elf.SHN_XINDEX
    info = elf.STB_LOCAL << 4 | elf.STT_SECTION
    fields = (0, info, 0, shndx, 0, 0) if obj.layout.is_64 else (0, 0, 0, info, 0, shndx)
    return obj.layout.sym.pack(*fields)


def _follow(obj: "Object", result: Renumbering, index: int) -> None:
    section = obj.section(index)
    if section.type in (elf.SHT_RELA, elf.SHT_REL):
        result.relocations[index] = _relocations(obj, index, result)
    elif section.type == elf.SHT_GROUP:
        result.infos[index] = result.new(section.info)
    elif section.type == elf.SHT_LLVM_ADDRSIG:
        result.contents[index] = _address_significance(obj, index, result)
    elif section.type == elf.SHT_LLVM_CALL_GRAPH_PROFILE_INDICES:
        if section.size % 16:
            raise FormatError(obj.path, "ends inside an entry", section.name)
        result.contents[index] = _call_graph_profile(obj.content(index), result)
    elif section.type not in (elf.SHT_SYMTAB_SHNDX, *_INDIFFERENT):
        raise FormatError(obj.path, f"type {section.type:#x} may hold symbol indices", section.name)


def _relocations(obj: "Object", index: int, result: Renumbering) -> bytearray:
    layout = obj.layout
    content = obj.content(index)
    entry = layout.rela if obj.section_type(index) == elf.SHT_RELA else layout.rel
    if len(content) % entry.size:
        raise FormatError(obj.path, "a relocation section ends inside an entry")
    moved = (
        entry.pack(
            offset, layout.info(result.new(layout.symbol_of(info)), layout.type_of(info)), *addend
        )
        for offset, info, *addend in entry.iter_unpack(content)
    )
    return bytearray(b"".join(moved))


def _call_graph_profile(content: bytes, result: Renumbering) -> bytes:
    """Renumber entries of 16 bytes: from and to, 4-byte symbol indices, and an 8-byte weight."""
    entries = []
    for at in range(0, len(content), 16):
        ends = (content[at : at + 4], content[at + 4 : at + 8])
        entries += [result.new(int.from_bytes(end, "little")).to_bytes(4, "little") for end in ends]
        entries.append(content[at + 8 : at + 16])
    return b"".join(entries)


def _address_significance(obj: "Object", index: int, result: Renumbering) -> bytes:
    """Renumber symbol indices in ULEB128 (LLVM's extensions to ELF, SHT_LLVM_ADDRSIG)."""
    out = bytearray()
    symbol = shift = 0
    for byte in obj.content(index):
        symbol |= (byte & 0x7F) << shift
        shift += 7
        if shift > 63:
            raise FormatError(obj.path, f"section {index}: a number is too long")
        if byte < 0x80:
            _append_uleb128(out, result.new(symbol))
            symbol = shift = 0
    if shift:
        raise FormatError(obj.path, f"section {index} ends inside a number")
    return bytes(out)


def _append_uleb128(out: bytearray, value: int) -> None:
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
