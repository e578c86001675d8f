"""Read `__mcount_loc` and tables like it out of objects, with pyelftools only."""

from pathlib import Path

from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection
from elftools.elf.sections import SymbolTableSection

from tests.support.oracle import File, Site, section_indices


def table_entries(path: Path, section: str = "__mcount_loc") -> list[Site]:
    """Return what the tables called `section` name, in order; an object may have several.

    An entry is a relocation: base symbol plus addend (in place for REL) is a place in a section.
    A slot without a relocation, or one whose symbol has no section, fails the test.
    """
    entries: list[Site] = []
    with path.open("rb") as stream:
        file = File(stream)
        for relocations in file.iter_sections():
            if not isinstance(relocations, RelocationSection):
                continue
            table = file.get_section(relocations["sh_info"])
            if table.name == section:
                found = _entries(file, relocations, table.data())
                assert found, f"{path}: empty {section}"
                assert len(table.data()) % len(found) == 0, f"{path}: a slot has no relocation"
                entries += found
    return entries


def _entries(file: ELFFile, relocations: RelocationSection, data: bytes) -> list[Site]:
    symbols = file.get_section(relocations["sh_link"])
    assert isinstance(symbols, SymbolTableSection)
    section_index = section_indices(file)
    entries = []
    for relocation in relocations.iter_relocations():
        number = relocation["r_info_sym"]
        symbol = symbols.get_symbol(number)
        index = section_index(number, symbol)
        assert index is not None, f"{symbol.name}, the base of an entry, lies in no section"
        slot = relocation["r_offset"]
        in_place = int.from_bytes(data[slot : slot + 4], "little", signed=True)
        addend = relocation["r_addend"] if relocation.is_RELA() else in_place
        name = file.get_section(index).name
        entries.append(Site(name, index, symbol["st_value"] + addend))
    return entries
