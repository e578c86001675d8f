"""What a file is, by its first bytes; and what cannot be recorded or switched because of that."""

from recordmcount.errors import FormatError
from recordmcount.x86 import EM_386, EM_X86_64

from . import object as elf

START = 20  # bytes by which a file is recognized

# What a file may be, as it is told to people.
X86_ELF = "an ELF file for x86"
OTHER_ELF = "not for x86"
ARCHIVE = "an archive"
THIN_ARCHIVE = "a thin archive"
ARCHIVES = (ARCHIVE, THIN_ARCHIVE)
BITCODE = "LLVM bitcode, not an object"
COMPRESSED = "compressed"
OTHER = "not an ELF file"

_MAGIC = {
    ARCHIVE: (b"!<arch>\n",),
    THIN_ARCHIVE: (b"!<thin>\n",),
    BITCODE: (b"BC\xc0\xde", b"\xde\xc0\x17\x0b"),  # raw, and in its wrapper
    # xz, zstd and gzip: how kernels may keep their modules.
    COMPRESSED: (b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"\x1f\x8b"),
}
# EI_CLASS and e_machine of x86-64, x32 and i386.
_MACHINES = (
    (elf.ELFCLASS64, EM_X86_64), (elf.ELFCLASS32, EM_X86_64), (elf.ELFCLASS32, EM_386),
)  # fmt: skip

# What to do instead, where a command that reads objects meets one of these.
ADVICE = {
    BITCODE: "compile without -flto, or record after the link",
}


def of(start: bytes) -> str:
    """Tell what a file is that begins with these bytes, of which START are enough."""
    if not start.startswith(elf.MAGIC):
        for found, magic in _MAGIC.items():
            if start.startswith(magic):
                return found
    if not start.startswith(elf.MAGIC) or len(start) < START:
        return OTHER
    machine = int.from_bytes(start[18:20], "little")
    is_ours = start[5] == elf.ELFDATA2LSB and (start[4], machine) in _MACHINES
    return X86_ELF if is_ours else OTHER_ELF


def refuse(path: str, found: str, advice: dict[str, str]) -> None:
    """Raise FormatError if there is advice for a file of this type."""
    if found in advice:
        raise FormatError(path, f"{found}: {advice[found]}")
