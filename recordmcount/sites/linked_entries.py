"""The words of a linked file's table, as the loader makes them addresses."""

from _struct import unpack
from itertools import repeat

from recordmcount.elf import object as elf
from recordmcount.errors import FormatError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from recordmcount.elf.object import Object

    from .loaded_words import Values

# What a word has that the loader would not make an address.
NOT_RELOCATED = -1


def addresses(
    obj: "Object", name: str, vaddrs: range, content: bytes, relocated: "Values"
) -> "Sequence[int]":
    """Read the link-time virtual addresses in a table of a linked file, in its order.

    The table is `content`, whole words at `vaddrs`, none if it is not loaded: then it has the
    addresses as they are. `name` is for messages. `relocated` are the values of words that have a
    dynamic relocation. Raises FormatError where the loader would not make a word an address.
    """
    entries = words(obj, vaddrs, content, relocated)
    if NOT_RELOCATED in entries:
        raise FormatError(
            obj.path, "an entry the loader would not relocate", name,
            entries.index(NOT_RELOCATED) * obj.layout.word,
        )  # fmt: skip
    return entries


def words(obj: "Object", vaddrs: range, content: bytes, relocated: "Values") -> "Sequence[int]":
    """Read a table as `addresses` does, with NOT_RELOCATED for what it raises FormatError for."""
    word, highest = obj.layout.word, obj.layout.highest
    slots = vaddrs[::word]
    if slots in relocated.runs:  # all words have a relocation
        return relocated.runs[slots]
    entries = unpack(f"<{len(content) // word}{'Q' if word == 8 else 'I'}", content)
    if not vaddrs:
        return entries
    if obj.type != elf.ET_EXEC:  # what has no relocation is no address
        entries = tuple(map({0: 0, highest: 0}.get, entries, repeat(NOT_RELOCATED)))
    return [*map(relocated.get, slots, entries)] if relocated else entries
