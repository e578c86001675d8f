"""Relocation types in words, and how much of the code a relocation can touch."""

from .x86 import (
    EM_386,
    EM_X86_64,
    R_386_GOT32,
    R_386_GOT32X,
    R_386_NONE,
    R_386_PC32,
    R_386_PLT32,
    R_X86_64_64,
    R_X86_64_GOT64,
    R_X86_64_GOTPCREL,
    R_X86_64_GOTPCRELX,
    R_X86_64_GOTPLT64,
    R_X86_64_NONE,
    R_X86_64_PC32,
    R_X86_64_PLT32,
    R_X86_64_PLTOFF64,
)

# The relocation types of calls, and of none, by name; the tables of the psABIs that `x86` names.
RELOCATION_NAMES = {
    EM_X86_64: {
        R_X86_64_NONE: "R_X86_64_NONE",
        R_X86_64_64: "R_X86_64_64",
        R_X86_64_PC32: "R_X86_64_PC32",
        R_X86_64_PLT32: "R_X86_64_PLT32",
        R_X86_64_GOTPCREL: "R_X86_64_GOTPCREL",
        R_X86_64_GOTPCRELX: "R_X86_64_GOTPCRELX",
    },
    EM_386: {
        R_386_NONE: "R_386_NONE",
        R_386_PC32: "R_386_PC32",
        R_386_GOT32: "R_386_GOT32",
        R_386_PLT32: "R_386_PLT32",
        R_386_GOT32X: "R_386_GOT32X",
    },
}
# Relocations that fill 8 bytes; no other fills more than 4.
WIDE_TYPES = frozenset(
    (R_X86_64_64, 16, 17, 18, 24, 25, R_X86_64_GOT64, 28, 29, R_X86_64_GOTPLT64,
     R_X86_64_PLTOFF64, 33)  # DTPMOD64 DTPOFF64 TPOFF64 PC64 GOTOFF64; GOTPCREL64 GOTPC64; SIZE64
)  # fmt: skip
WIDEST_FIELD = 8


def field_size(machine: int, relocation_type: int) -> int:
    """Tell how many bytes a relocation can touch, at most."""
    wide = machine == EM_X86_64 and relocation_type in WIDE_TYPES
    return WIDEST_FIELD if wide else 4
