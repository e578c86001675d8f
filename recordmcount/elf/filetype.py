"""What a file is, by its first bytes; and what cannot be recorded or switched because of that."""

from recordmcount.errors import FormatError
from recordmcount.x86 import EM_386, EM_X86_64

from . import object as elf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    from .object import Object

ET_CORE = 4
# An executable that can be loaded anywhere is a shared object that says so (since glibc 2.26).
DT_FLAGS_1, DF_1_PIE = 0x6FFFFFFB, 0x08000000
START = 0x250  # bytes by which a file is recognized: up to the fields of a kernel image's header
ELF_START = 20  # up to e_machine

# What a file may be, as it is told to people.
X86_ELF = "an ELF file for x86"
OTHER_ELF = "not for x86"
ARCHIVE = "an archive"
THIN_ARCHIVE = "a thin archive"
ARCHIVES = (ARCHIVE, THIN_ARCHIVE)
BITCODE = "LLVM bitcode, not an object"
COMPRESSED = "compressed"
EMPTY = "an empty file"
SCRIPT = "a script, not an ELF file"
TEXT = "text, not an ELF file"
KERNEL_IMAGE = "a compressed kernel image"
OTHER = "not an ELF file"

ARCHIVE_MAGIC, THIN_MAGIC = b"!<arch>\n", b"!<thin>\n"
_MAGIC = {
    ARCHIVE: (ARCHIVE_MAGIC,),
    THIN_ARCHIVE: (THIN_MAGIC,),
    BITCODE: (b"BC\xc0\xde", b"\xde\xc0\x17\x0b"),  # raw, and in its wrapper
    SCRIPT: (b"#!",),
}
# In these nobody can look for code. The kernel's tool has words for them, which stand first.
NOT_CODE = (EMPTY, SCRIPT, TEXT)
# What a text may have of the bytes that are no characters: tab, line feed, form feed, return.
_SPACES = b"\t\n\f\r"
# EI_CLASS and e_machine of x86-64, x32 and i386.
_MACHINES = (
    (elf.ELFCLASS64, EM_X86_64), (elf.ELFCLASS32, EM_X86_64), (elf.ELFCLASS32, EM_386),
)  # fmt: skip

# What to do instead, where a command that reads objects meets one of these.
ADVICE = {
    BITCODE: "join the objects with ld.lld -r, and record the result",
    COMPRESSED: "decompress it first, and compress it again afterwards",
    KERNEL_IMAGE: "record the objects that its vmlinux is linked from",
}
# The same for a file that is no member of an archive.
ADVICE_ON_FILES = {
    **ADVICE,
    EMPTY: "build it again",
    SCRIPT: "name the program that it runs; libtool keeps those in .libs",
    TEXT: "compile it first, with -pg -mfentry -c, and name the object",
}
LINKED = {
    "executable": "an executable", "PIE": "an executable (PIE)", "shared object": "a shared object",
}  # fmt: skip
NO_OBJECTS = "an archive without objects"
OF_LINKED = (
    "record its objects before the link, or this by `recordmcount --image`; `recordmcount report` "
    "shows its sites"
)


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
    if not start:
        return EMPTY
    for found, magic in _MAGIC.items():
        if start.startswith(magic):
            return found
    from . import containers, kernel_image  # rare

    if containers.format_of(start):
        return COMPRESSED
    if kernel_image.is_image(start):
        return KERNEL_IMAGE
    return OTHER if any(byte < 0x20 and byte not in _SPACES for byte in start) else TEXT


def kind(obj: "Object") -> 'Literal["object", "executable", "PIE", "shared object"]':
    """Tell what an ELF file is; FormatError for one that is neither an object nor linked."""
    if obj.type == elf.ET_REL:
        return "object"
    refuse_unlinked(obj)
    if obj.type == elf.ET_EXEC:
        return "executable"
    from . import segments

    flags = obj.once(segments.LoadView).dynamic.get(DT_FLAGS_1, 0)
    return "PIE" if flags & DF_1_PIE else "shared object"


def no_object(obj: "Object") -> tuple[str, str]:
    """Tell what an ELF file is that is no object, and what to do with it, if that is known."""
    try:
        return LINKED[kind(obj)], OF_LINKED
    except FormatError as error:
        return error.what, ""


def refuse_unlinked(obj: "Object") -> None:
    """Raise FormatError for a file that is neither an executable nor a shared object."""
    if obj.type == ET_CORE:
        raise FormatError(obj.path, "a core dump: name the program it is of")
    if obj.type not in (elf.ET_EXEC, elf.ET_DYN):
        raise FormatError(obj.path, f"neither an object nor a linked file (e_type {obj.type})")


def refuse(path: str, found: str, advice: dict[str, str]) -> None:
    """Raise FormatError if there is advice for a file of this type."""
    if found in advice:
        raise FormatError(path, f"{found}: {advice[found]}")
