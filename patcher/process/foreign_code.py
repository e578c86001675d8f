"""Why a process seems to have no sites: what it executes may be no code of its own processor."""

from __future__ import annotations

from patcher.errors import ReadError
from recordmcount.x86 import EM_386, EM_X86_64

from .memory import ProcessMemory

ELF = b"\x7fELF"
E_MACHINE = 18  # byte offset in an ELF header
NAMES = {8: "MIPS", 20: "PowerPC", 21: "PowerPC64", 22: "S390", 40: "Arm", 183: "AArch64"}
NAMES |= {243: "RISC-V", 258: "LoongArch"}


def why_nothing(memory: ProcessMemory) -> str:
    """Tell, as more of a sentence, of files that are loaded and not mapped to be executed here."""
    executable = {(each.device, each.inode) for each in memory.mappings() if "x" in each.protection}
    for mapping in memory.mappings():
        if mapping.offset or not mapping.inode or (mapping.device, mapping.inode) in executable:
            continue
        try:
            header = memory.read(mapping.range.start, 20)
        except ReadError:
            continue
        machine = int.from_bytes(header[E_MACHINE:], "little" if header[5:6] == b"\1" else "big")
        if header.startswith(ELF) and machine not in (EM_386, EM_X86_64):
            name = NAMES.get(machine, f"machine {machine}")
            return f": it executes {name} code by an emulator ({mapping.path})"
        if header.startswith(ELF) and header[16:18] in (b"\2\0", b"\3\0"):
            return f": {mapping.path} is mapped, and not to be executed, as emulators do it"
    return ""
