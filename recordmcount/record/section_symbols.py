"""Add section symbols to an object that lacks them, and let what counts symbols follow.

An entry that is based on a global symbol means what that symbol is bound to by the linker, which
may be another function (-z muldefs, --wrap, weakening, renaming, interposition). So entries name
their own section, and where it has no local symbol one is added. Assemblers leave section symbols
out since binutils 2.36, as LLVM does, where nothing refers to them.

Local symbols stand before the others (gABI, "Symbol Table", sh_info). So a new one takes the place
of the first global symbol, and that moves to the end: all others keep their number, and hardly
anything has to follow. What holds symbol indices: relocations, the signature of a section group,
the parallel SHT_SYMTAB_SHNDX table, LLVM's address-significance table and its old call graph
profile. A section type that is linked to the symbol table and is not known here is refused.
"""

from recordmcount.elf import object as elf
from recordmcount.errors import FormatError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from recordmcount.elf.object import Object

# From this many symbols that move, it is found out first which of them a section names.
MANY = 16
# Linked to the symbol table without symbol indices of their own inside.
_INDIFFERENT = (elf.SHT_LLVM_CALL_GRAPH_PROFILE,)


class Renumbering:
    """The symbol table with section symbols added, and what follows from it.

    `symbols` maps a section index to its new symbol's index, `moved` the old index of each symbol
    that moves to its new one; `displaced` are the old ones. Of the sections that change, by index:
    `contents` has those whole, `relocations` among them apart, and `infos` the new sh_info.
    """

    __slots__ = ("symbols", "moved", "displaced", "count", "contents", "relocations", "infos")

    def __init__(self, symbols: dict[int, int], moved: dict[int, int], count: int) -> None:
        self.symbols = symbols
        self.moved = moved
        self.displaced = frozenset(moved)
        self.count = count
        self.contents: dict[int, bytes] = {}
        self.relocations: dict[int, bytearray] = {}
        self.infos: dict[int, int] = {}

    def new(self, path: str, symbol: int) -> int:
        """Return the new index of a symbol; FormatError where there is none."""
        if symbol >= self.count:
            raise FormatError(path, f"there is no symbol {symbol}")
        return self.moved.get(symbol, symbol)


def add_section_symbols(obj: "Object", sections: list[int]) -> Renumbering:
    """Plan one new STT_SECTION symbol for each of `sections`, behind the last local symbol."""
    symtab, count = obj.symtab, obj.symbol_count
    if symtab is None:
        raise FormatError(obj.path, "there is no symbol table")
    first_global = obj.headers[symtab][elf.SH_INFO]
    if not 1 <= first_global <= count or not _ends_locals(obj, first_global):
        what = f"sh_info of the symbol table is {first_global}, where its local symbols do not end"
        raise FormatError(obj.path, what)
    behind = first_global + len(sections)
    displaced = range(first_global, min(behind, count))
    moved = {symbol: max(count, behind) + i for i, symbol in enumerate(displaced)}
    symbols = {section: first_global + i for i, section in enumerate(sections)}
    obj.require_nameable(max((*symbols.values(), *moved.values())))
    result = Renumbering(symbols, moved, count)
    result.infos[symtab] = behind
    size = obj.layout.sym.size
    added = b"".join(_section_symbol(obj, section) for section in sections)
    result.contents[symtab] = _moved(obj.symbol_bytes, size, displaced, added)
    _extend(obj, result, symtab, sections, displaced)
    for index, header in enumerate(obj.headers):
        if index != symtab and header[elf.SH_LINK] == symtab:
            _follow(obj, result, index)
    return result


def _ends_locals(obj: "Object", first_global: int) -> bool:
    """Tell whether all symbols before this one are local, and no others."""
    infos = obj.symbol_bytes[obj.layout.sym_info :: obj.layout.sym.size]
    least_global = elf.STB_GLOBAL << 4
    local, others = infos[:first_global], infos[first_global:]
    return max(local) < least_global and min(others, default=least_global) >= least_global


def _moved(table: bytes, size: int, displaced: range, added: bytes) -> bytes:
    """Put what is added in the place of the displaced entries, of `size` bytes, and those last."""
    start, end = displaced.start * size, displaced.stop * size
    return table[:start] + added + table[end:] + table[start:end]


def _extend(
    obj: "Object", result: Renumbering, symtab: int, sections: list[int], displaced: range
) -> None:
    """Let SHT_SYMTAB_SHNDX follow, which has a word for each symbol."""
    extended = [
        index
        for index in obj.of_type(elf.SHT_SYMTAB_SHNDX)
        if obj.headers[index][elf.SH_LINK] == symtab
    ]
    for index in extended:
        added = b"".join(
            (section if section >= elf.SHN_LORESERVE else 0).to_bytes(4, "little")
            for section in sections
        )
        result.contents[index] = _moved(obj.extended_shndx(index), 4, displaced, added)
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
        content = _relocations(obj, index, result)
        if content is not None:
            result.relocations[index] = content
    elif section.type == elf.SHT_GROUP:
        result.infos[index] = result.new(obj.path, section.info)
    elif section.type == elf.SHT_LLVM_ADDRSIG:
        result.contents[index] = _address_significance(obj, index, result)
    elif section.type == elf.SHT_LLVM_CALL_GRAPH_PROFILE_INDICES:
        if section.size % 16:
            raise FormatError(obj.path, "ends inside an entry", section.name)
        result.contents[index] = _call_graph_profile(obj, index, result)
    elif section.type not in (elf.SHT_SYMTAB_SHNDX, *_INDIFFERENT):
        raise FormatError(obj.path, f"type {section.type:#x} may hold symbol indices", section.name)


def _relocations(obj: "Object", index: int, result: Renumbering) -> bytearray | None:
    """Renumber a relocation section; None if it names no symbol that moves."""
    layout, highest = obj.layout, obj.highest_symbol(index)
    if highest >= result.count:
        raise FormatError(obj.path, f"there is no symbol {highest}")
    moved = result.displaced
    if len(moved) > MANY:  # then few of them are named in one section
        moved = moved.intersection(obj.symbols_of_relocations(index))
    if not moved:
        return None
    content = None
    step = obj.headers[index][elf.SH_ENTSIZE]
    for piece in obj.relocations_naming(index, moved, obj.relocation_pieces(index)):
        content = content or bytearray(obj.content(index))
        for number, info in zip(piece.numbers, piece.infos, strict=True):
            new = layout.info(result.moved[layout.symbol_of(info)], layout.type_of(info))
            at = number * step + layout.word
            content[at : at + layout.word] = new.to_bytes(layout.word, "little")
    return content


def _call_graph_profile(obj: "Object", index: int, result: Renumbering) -> bytes:
    """Renumber entries of 16 bytes: from and to, 4-byte symbol indices, and an 8-byte weight."""
    content = obj.content(index)
    entries = []
    for at in range(0, len(content), 16):
        for end in (content[at : at + 4], content[at + 4 : at + 8]):
            symbol = result.new(obj.path, int.from_bytes(end, "little"))
            entries.append(symbol.to_bytes(4, "little"))
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
            _append_uleb128(out, result.new(obj.path, symbol))
            symbol = shift = 0
    if shift:
        raise FormatError(obj.path, f"section {index} ends inside a number")
    return bytes(out)


def _append_uleb128(out: bytearray, value: int) -> None:
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
