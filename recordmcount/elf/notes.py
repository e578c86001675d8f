"""The notes of a file: which build it is.

(gABI, "Note Section"; NT_GNU_BUILD_ID as all linkers write it.) Not on the recording path.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from . import object as elf
from .object import Object
from .segments import LoadView

PT_NOTE = 4
NT_GNU_BUILD_ID = 3


def build_id(view: LoadView) -> bytes:
    """Return the descriptor of the NT_GNU_BUILD_ID note, empty if the loaded file has none."""
    segments = [segment for segment in view.segments if segment.type == PT_NOTE]
    return _build_id(view.obj.read(one.offset, one.filesz, "the notes") for one in segments)


def build_id_by_section(obj: Object) -> bytes:
    """Return the same of a file that is not to be loaded: of an object, or of debug information."""
    return _build_id(map(obj.content, obj.of_type(elf.SHT_NOTE)))


def _build_id(pieces: Iterable[bytes]) -> bytes:
    for notes in pieces:
        for name, note_type, descriptor in _notes(notes):
            if (name, note_type) == (b"GNU\0", NT_GNU_BUILD_ID):
                return descriptor
    return b""


def _notes(notes: bytes) -> Iterator[tuple[bytes, int, bytes]]:
    """Return (name, type, descriptor) of each; name and descriptor are padded to 4 bytes (gABI)."""
    at = 0
    while at + 12 <= len(notes):
        name_size, size, note_type = (
            int.from_bytes(notes[field : field + 4], "little") for field in (at, at + 4, at + 8)
        )
        name_at = at + 12
        at = name_at + (name_size + 3 & ~3)
        yield notes[name_at : name_at + name_size], note_type, notes[at : at + size]
        at += size + 3 & ~3
