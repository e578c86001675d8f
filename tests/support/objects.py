"""The objects most tests start from, and the recorder applied to them without a process."""

import io
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection
from elftools.elf.sections import Section as ELFSection
from elftools.elf.sections import Symbol as ELFSymbol
from elftools.elf.sections import SymbolTableSection

from recordmcount import x86
from recordmcount.asked import Options
from recordmcount.elf import object as elf
from recordmcount.record.file import Result, record
from recordmcount.sites import calls
from tests.support.elf_builder import (
    I386,
    SHF_ALLOC,
    SHF_EXECINSTR,
    STT_FUNC,
    X32,
    X86_64,
    Elf,
    Relocation,
    Section,
    Symbol,
    Target,
    build,
)

AX = SHF_ALLOC | SHF_EXECINSTR
R_PC32, R_PLT32 = 2, 4  # the same numbers in both psABIs
TARGETS = pytest.mark.parametrize("target", [X86_64, I386, X32], ids=["x86_64", "i386", "x32"])
EVERY_FORM = pytest.mark.parametrize(
    ("target", "kind", "form"),
    [
        pytest.param(target, kind, form, id=f"{target.elf_class}-{target.machine}-{kind}-{prefix}")
        for target in (X86_64, I386, X32)
        for kind, forms in x86.CALL_FORMS[target.machine].items()
        for form in forms
        for prefix in [form.prefix.hex()]
    ],
)

CALL = b"\xe8\0\0\0\0\xc3"  # call and ret


def text(name: str = ".text", calls: int = 1, callee: str = "__fentry__") -> Section:
    """An executable section of functions of 6 bytes that call `callee` first."""
    return Section(
        name,
        flags=AX,
        data=CALL * calls,
        relocations=[Relocation(6 * i + 1, R_PLT32, callee, -4) for i in range(calls)],
    )


def caller(*names: str, target: Target = X86_64) -> Elf:
    """An object with a text section of each name, a global function at its start, and one call."""
    names = names or (".text",)
    return build(
        target,
        [text(name) for name in names],
        [*(Symbol(f"in{name}", name, type=STT_FUNC) for name in names), Symbol("__fentry__")],
    )


def as_bytes(contents: Elf | bytes) -> bytes:
    """The file itself."""
    return contents if isinstance(contents, bytes) else contents.data


def parsed(data: bytes | bytearray, path: str = "object.o") -> elf.Object:
    """The product's own view of a file in memory."""
    return elf.Object(path, len(data), lambda offset, size: bytes(data[offset : offset + size]))


def found(contents: Elf | bytes, *names: str) -> calls.Found:
    """What the product finds in an object in memory."""
    return calls.find(parsed(as_bytes(contents)), names)


def record_file(path: Path, **options: object) -> Result:
    """Record the file in place; nothing is asserted."""
    return record(str(path), Options(**options))


def recorded(path: Path, contents: Elf | bytes, **options: object) -> Path:
    """Write an object to `path` and record it, which must succeed without a word; its path."""
    path.write_bytes(as_bytes(contents))
    result = record_file(path, **options)
    assert (result.failed, result.err) == (False, [])
    return path


class Read:
    """A file as pyelftools sees it."""

    def __init__(self, path: Path) -> None:
        self.file = ELFFile(io.BytesIO(path.read_bytes()))
        self.sections: list[ELFSection] = list(self.file.iter_sections())

    def named(self, name: str) -> list[ELFSection]:
        return [section for section in self.sections if section.name == name]

    @property
    def tables(self) -> list[ELFSection]:
        return self.named("__mcount_loc")

    def relocations_of(self, section: ELFSection) -> RelocationSection:
        index = self.sections.index(section)
        (found,) = (
            relocations
            for relocations in self.sections
            if isinstance(relocations, RelocationSection) and relocations["sh_info"] == index
        )
        return found

    @property
    def symbols(self) -> list[ELFSymbol]:
        symtab = self.file.get_section_by_name(".symtab")
        assert isinstance(symtab, SymbolTableSection)
        return list(symtab.iter_symbols())

    def symbol_name(self, index: int) -> str:
        """The symbol's own name, or its section's where it has none."""
        symbol = self.symbols[index]
        return symbol.name or self.sections[symbol["st_shndx"]].name
