"""What a file is, by its first bytes; and what cannot be recorded or switched because of that."""

from recordmcount.errors import FormatError
from recordmcount.x86 import EM_386, EM_X86_64

from . import object as elf

START = 0x250  # bytes by which a file is recognized: up to the fields of a kernel image's header
ELF_START = 20  # up to e_machine

# What a file may be, as it is told to people.
X86_ELF = "an ELF file for x86"
OTHER_ELF = "not for x86"
ARCHIVE = "an archive"
THIN_ARCHIVE = "a thin archive"
BITCODE = "LLVM bitcode, not an object"
COMPRESSED = "compressed"
KERNEL_IMAGE = "a compressed kernel image"
OTHER = "not an ELF file"

_MAGIC = {
    ARCHIVE: (b"!<arch>\n",),
    THIN_ARCHIVE: (b"!<thin>\n",),
    BITCODE: (b"BC\xc0\xde", b"\xde\xc0\x17\x0b"),  # raw, and in its wrapper
}
# EI_CLASS and e_machine of x86-64, x32 and i386.
_MACHINES = (
    (elf.ELFCLASS64, EM_X86_64), (elf.ELFCLASS32, EM_X86_64), (elf.ELFCLASS32, EM_386),
)  # fmt: skip

# What to do instead, where a command that reads objects meets one of these.
ADVICE = {
    BITCODE: "join the objects with ld.lld -r, and record the result",
    THIN_ARCHIVE: "record the objects it names instead",
    COMPRESSED: "decompress it first, and compress it again afterwards",
    KERNEL_IMAGE: "record the objects that its vmlinux is linked from",
}


def of(start: bytes) -> str:
    """Tell what a file is that begins with these bytes, of which START are enough."""
    if not start.startswith(elf.MAGIC):
        return _other(start)
    if len(start) < ELF_START:
        return OTHER
    machine = int.from_bytes(start[18:20], "little")
    is_ours = start[5] == elf.ELFDATA2LSB and (start[4], machine) in _MACHINES
    return X86_ELF if is_ours else OTHER_ELF


def _other(start: bytes) -> str:
    """Tell what a file is that does not begin as ELF."""
    for found, magic in _MAGIC.items():
        if start.startswith(magic):
            return found
    from . import containers, kernel_image  # rare

    if containers.format_of(start):
        return COMPRESSED
    return KERNEL_IMAGE if kernel_image.is_image(start) else OTHER


def refuse(path: str, found: str, advice: dict[str, str]) -> None:
    """Raise FormatError if there is advice for a file of this type."""
    if found in advice:
        raise FormatError(path, f"{found}: {advice[found]}")
