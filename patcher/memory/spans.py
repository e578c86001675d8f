"""What of a relocatable object may be changed: code, and the relocations of code.

An object has no addresses yet, so here they are file offsets.
"""

from recordmcount.elf import object as elf
from recordmcount.elf.segments import PF_X, PT_LOAD, Segment
from recordmcount.errors import FormatError


def pieces(obj: elf.Object) -> list[Segment]:
    """The executable sections and their relocation sections, each as a segment at its file offset.

    They ascend. Raises FormatError where sections overlap: a change in one would be one in both.
    """
    spans = [(0, len(obj.header), False), (obj.shoff, len(obj.header_table), False)]
    for _, kind, flags, _, offset, size, _, info, _, _ in obj.headers:
        if kind in (elf.SHT_NULL, elf.SHT_NOBITS):
            continue
        if kind in (elf.SHT_RELA, elf.SHT_REL) and info < len(obj.headers):
            flags = obj.headers[info][2]
        spans.append((offset, size, bool(flags & elf.SHF_EXECINSTR)))
    end = 0
    found = []
    for offset, size, is_ours in sorted(span for span in spans if span[1]):
        if offset < end:
            raise FormatError(obj.path, f"sections overlap at {offset:#x}")
        end = offset + size
        if is_ours:
            found.append(Segment(PT_LOAD, PF_X, offset, offset, size, size))
    return found
