"""The calls of mcount that a relocation of a linked file still names.

Linkers keep the relocations of objects with --emit-relocs, and leave it to the loader to relocate
code that is not position-independent where it must be. Either names mcount, so that nothing has to
be resolved.
"""

from __future__ import annotations

from recordmcount import x86, x86_linked
from recordmcount.elf import object as elf
from recordmcount.elf.segments import DynamicRelocations

from . import evidence

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from recordmcount.elf.segments import LoadView

    from .goals import Goals


class NamedCall:
    """A call at a link-time virtual address, which may have a prefix or NOP before it.

    `form` is its form, `name` the function it calls; `evidence` tells how that is known.
    """

    __slots__ = ("vaddr", "form", "name", "evidence")

    def __init__(
        self, vaddr: int, form: x86.CallForm | x86_linked.LinkedCall, name: str, evidence: str
    ) -> None:
        self.vaddr = vaddr
        self.form = form
        self.name = name
        self.evidence = evidence


def named_calls(goals: Goals, names: Sequence[bytes]) -> Iterator[NamedCall]:
    """Find the calls that relocations name; FormatError for a broken relocation."""
    yield from _emitted(goals.view, names)
    if goals.words.in_code:
        for relocations in goals.view.relocations():
            yield from _left_to_the_loader(goals.view, relocations, names)


def _emitted(view: LoadView, names: Sequence[bytes]) -> Iterator[NamedCall]:
    """Find the calls that kept relocations name; linkers may have changed their bytes since."""
    obj = view.obj
    tables = [
        index
        for index in obj.of_type(elf.SHT_RELA, elf.SHT_REL)
        if not obj.headers[index][elf.SH_FLAGS] & elf.SHF_ALLOC
        and obj.headers[index][elf.SH_LINK] == obj.symtab
    ]
    symbols = obj.symbols_named(names) if tables else frozenset()
    forms = x86_linked.linked_calls(obj.machine)
    for index in tables if symbols else ():
        for found in obj.relocations_naming(index, symbols, obj.relocation_pieces(index)):
            for offset, info in zip(found.offsets, found.infos, strict=True):
                if obj.layout.type_of(info) not in x86.CALL_FORMS[obj.machine]:
                    continue
                field = offset & obj.layout.highest
                for form in forms:
                    start = field - len(form.prefix)
                    if form.operand(_code(view, start, form.length)) is not None:
                        symbol = obj.raw_symbol(obj.layout.symbol_of(info))
                        name = elf.string_at(obj.symbol_names, symbol[elf.ST_NAME])
                        yield NamedCall(
                            start, form, name.partition("@")[0], evidence.EMITTED_RELOCATION
                        )
                        break


def _left_to_the_loader(
    view: LoadView, relocations: DynamicRelocations, names: Sequence[bytes]
) -> Iterator[NamedCall]:
    """Find the calls whose operand the loader fills in."""
    layout, machine = view.obj.layout, view.obj.machine
    named: dict[int, bytes] = {}
    for info in set(relocations.infos):
        if layout.type_of(info) in x86.CALL_FORMS[machine] and layout.symbol_of(info):
            name = view.symbol(layout.symbol_of(info))[0].partition(b"@")[0]
            if name in names:
                named[info] = name
    addends = relocations.addends
    for number, info in enumerate(relocations.infos) if named else ():
        if info not in named:
            continue
        field = relocations.slots[number]
        for form in x86.CALL_FORMS[machine][layout.type_of(info)]:
            start = field - len(form.prefix)
            code = _code(view, start, form.length)
            if not form.matches(code, len(form.prefix)):
                continue
            addend = addends[number] if addends else elf.in_place(code, len(form.prefix))
            if addend == form.addend:
                name_told = named[info].decode("utf-8", "backslashreplace")
                yield NamedCall(start, form, name_told, evidence.TEXT_RELOCATION)


def _code(view: LoadView, vaddr: int, size: int) -> bytes:
    """Read code at a link-time virtual address, nothing if it is not all code from the file."""
    if view.file_offset(vaddr, size, executable=True) is None:
        return b""
    return view.read(vaddr, size, "code")
