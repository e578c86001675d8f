"""What stands at one place of a relocatable object: decided by its relocation and the bytes there.

`bulk` decides it of many places at once.
"""

from __future__ import annotations

from _struct import unpack

from recordmcount import x86
from recordmcount.elf import object as elf
from recordmcount.x86_object_nops import is_object_nop, object_nops

from .state import State
from .turned_off import Relocation

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from recordmcount.elf.object import Object, Section
    from recordmcount.x86 import CallForm

    from .calls import SectionSites, TurnedOff
    from .turned_off import Callees

    # A section's index, and a section offset.
    Place = tuple[int, int]
    # What a NOP of object_nop tells: form and type of relocation of its call, and a name.
    Told = tuple[CallForm, int, int]

_LONGEST_PREFIX = 2
LOST = "a NOP in the place of a call whose relocation is gone (gold -r drops it)"


class Finding:
    """What was found at a place: `length` bytes in a `state`; as in Site."""

    __slots__ = ("state", "length", "form", "reason", "relocation")

    def __init__(
        self,
        state: State,
        length: int = 5,
        form: str = "",
        reason: str = "",
        relocation: Relocation | None = None,
    ) -> None:
        self.state = state
        self.length = length
        self.form = form
        self.reason = reason
        self.relocation = relocation


def calls(
    part: SectionSites, numbers: list[int], symbols: Sequence[int], callees: Callees
) -> Iterator[tuple[Place, Finding]]:
    """Find the calls of a part that have these numbers; `symbols` has what each call names."""
    entries = unpack(f"<{len(part)}Q", part.entries)
    for number in numbers:
        form = part.form(part.starts[number], part.forms[number])
        types = part.types[number]
        known = Relocation(part.relocations, entries[number], form, types, symbols[number])
        why = callees.why_not(known)
        finding = Finding(State.CALL, form.length, form.name, why, known)
        yield (part.section, part.starts[number]), finding


def turned_off(
    obj: Object, code: ObjectCode, callees: Callees, part: TurnedOff, numbers: list[int]
) -> Iterator[tuple[Place, Finding]]:
    """Find what stands where the relocations of a part with these numbers are.

    Where one names no symbol, and no NOP of a recorder stands, nothing is found: it is not ours.
    """
    section, text, entries, fields, infos, addends = part
    marked = object_nops(obj.machine)
    for number in numbers:
        around = code.around((text, fields[number]))
        symbol = obj.layout.symbol_of(infos[number])
        addend = addends[number] if addends else None
        told = around.told(marked)
        found = told and _marked_nop(told, callees, section, entries[number], symbol, addend)
        if told and found:
            yield around.start(told[0]), found
        else:
            yield from _nop_around(around, code.forms, symbol, addend)


def _marked_nop(
    told: Told, callees: Callees, section: int, number: int, symbol: int, addend: int | None
) -> Finding | None:
    """Find what a marked NOP and its relocation tell together, if they fit; REL has no addend."""
    form, relocation_type, name = told
    names_it = symbol != 0
    if names_it:
        if name or addend not in (None, form.addend):
            return None
    else:
        kept = addend or 0, name
        symbol = callees.find(kept) or 0
        if not symbol:
            return Finding(State.NOP, form.length, form.name, callees.why_not_found(kept))
    known = Relocation(section, number, form, relocation_type, symbol, names_it=names_it)
    why = callees.why_not(known)
    return Finding(State.NOP, form.length, form.name, why, None if why else known)


def _nop_around(
    around: _Around, forms: list[CallForm], symbol: int, addend: int | None
) -> Iterator[tuple[Place, Finding]]:
    """Find the NOP that a recorder put there. Where mcount is named one has to be."""
    for form in forms:
        if around.holds(form.nop, len(form.prefix)) and (symbol or addend in (None, form.addend)):
            yield around.start(form), Finding(State.NOP, form.length, form.name)
            return
    if symbol:
        reason = "the relocation of a call that was turned off, but no NOP"
        yield around.field, Finding(State.FOREIGN, reason=reason)


def claimed(
    place: Place, code: ObjectCode, finding_at: Callable[[Place], Finding | None]
) -> Finding:
    """Find what an entry names where no relocation does: the NOP of -mnop-mcount, or no site."""
    section, offset = place
    for back in range(1, x86.LONGEST_SITE):
        around = finding_at((section, offset - back))
        if around and around.state is not State.FOREIGN and around.length > back:
            return Finding(State.FOREIGN, reason=f"{back:#x} into the {around.state}")
    if not code.at(place, 1):
        return Finding(State.FOREIGN, 0, reason="outside the section")
    for form in code.forms:
        if code.at(place, form.length) == form.nop:
            return Finding(State.NOP, form.length, form.name)
    if is_object_nop(code.at(place, x86.LONGEST_SITE)):
        return Finding(State.FOREIGN, reason=LOST)
    if code.at(place, len(x86.NOP5)) == x86.NOP5:  # gcc -m32 -mnop-mcount
        return Finding(State.NOP, len(x86.NOP5), x86.CALL.name)
    return Finding(State.FOREIGN, reason="neither a call of mcount nor a NOP of one")


class ObjectCode:
    """The bytes of sections, read where they are asked for.

    `forms` are the call forms, longest first: the NOP of a short one is the tail of a longer one's.
    """

    def __init__(self, obj: Object) -> None:
        self._obj = obj
        self._sections: dict[int, Section] = {}
        known = x86.CALL_FORMS[obj.machine].values()
        self.forms: list[CallForm] = sorted(
            dict.fromkeys(form for forms in known for form in forms),
            key=lambda form: -form.length,
        )

    def section(self, index: int) -> Section:
        """Return section `index`; FormatError where there is none."""
        if index not in self._sections:
            self._sections[index] = self._obj.section(index)
        return self._sections[index]

    def at(self, place: Place, length: int) -> bytes:
        """Read up to `length` bytes at a place; fewer, or none, where the section ends."""
        index, offset = place
        section = self.section(index)
        length = min(length, section.size - offset)
        if length <= 0 or offset < 0 or section.type == elf.SHT_NOBITS:
            return b""
        return self._obj.read(section.offset + offset, length, "code")

    def around(self, field: Place) -> _Around:
        """Read the bytes on both sides of a relocated field."""
        section, offset = field
        start = max(0, offset - _LONGEST_PREFIX)
        before = offset - start
        code = self.at((section, start), before + x86.LONGEST_SITE)
        return _Around(field, code[:before], code[before:])


class _Around:
    """The bytes of code before and from a relocated field, as far as any site reaches."""

    __slots__ = ("field", "before", "code")

    def __init__(self, field: Place, before: bytes, code: bytes) -> None:
        self.field = field
        self.before = before
        self.code = code

    def holds(self, site: bytes, prefix: int) -> bool:
        """Tell whether `site` stands there, whose field comes after so many bytes."""
        return self.before.endswith(site[:prefix]) and self.code.startswith(site[prefix:])

    def told(self, marked: Mapping[bytes, Told]) -> Told | None:
        """Find the NOP of object_nops that stands there."""
        for prefix, length in {(len(form.prefix), form.length) for form, _, _ in marked.values()}:
            found = marked.get(self.before[-prefix:] + self.code[: length - prefix])
            if found and len(found[0].prefix) == prefix:
                return found
        return None

    def start(self, form: CallForm) -> Place:
        """Find where the site of this form begins."""
        section, offset = self.field
        return section, offset - len(form.prefix)
