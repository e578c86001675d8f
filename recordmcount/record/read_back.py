"""A second opinion on an image before it is committed: lief reads the very bytes, and must agree.

Nothing of the ELF reading here is ours. Images alone are read back: objects have a linker behind
them that would complain, and an image only a loader, which crashes.
"""

from __future__ import annotations

import io
from warnings import catch_warnings

from recordmcount import mcount_loc
from recordmcount.elf import object as elf
from recordmcount.errors import FormatError

from .image_plan import START, STOP

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    import lief

    from recordmcount.elf.object import Object

    from .image_plan import ImagePlan


def check(obj: Object, plan: ImagePlan) -> None:
    """Raise FormatError if lief reads anything of the planned image otherwise than it is meant."""
    import lief

    lief.logging.disable()  # what it has to say of the image it said of the old one, too
    config = lief.ELF.ParserConfig()
    config.parse_dyn_symbols = config.parse_symbol_versions = False
    config.parse_notes = config.parse_overlay = False
    config.parse_symtab_symbols = config.parse_relocations = plan.vaddr is not None
    image = lief.ELF.parse(io.BytesIO(contents(obj, plan)), config)
    with catch_warnings(action="ignore"):  # of numbers it has no name for
        wrong = "it cannot be read" if image is None else next(_differences(obj, plan, image), None)
    if wrong:
        raise FormatError(obj.path, f"not written, for read back by lief {wrong}")


def contents(obj: Object, plan: ImagePlan) -> bytes:
    """Return the whole image as it is planned."""
    image = bytearray(obj.read(0, obj.size, "the file"))
    image += plan.appended
    for offset, data in plan.all_edits:
        image[offset : offset + len(data)] = data
    return bytes(image)


def _differences(obj: Object, plan: ImagePlan, image: lief.ELF.Binary) -> Iterator[str]:
    """Say what is not as it is planned."""
    name = mcount_loc.NAME.decode()
    tables = [section for section in image.sections if section.name == name]
    if len(tables) != 1:
        yield f"it has {len(tables)} tables"
        return
    (table,) = tables
    if _words(bytes(table.content), obj) != list(plan.addresses):
        yield "the table has other entries"
    if table.virtual_address != (plan.vaddr or 0):
        yield f"the table is at {table.virtual_address:#x}"
    yield from _moved(obj, image)
    if plan.vaddr is not None:
        yield from _loaded(obj, plan, image, plan.vaddr)


def _words(content: bytes, obj: Object) -> list[int]:
    word = obj.layout.word
    return [
        int.from_bytes(content[at : at + word], "little") for at in range(0, len(content), word)
    ]


def _moved(obj: Object, image: lief.ELF.Binary) -> Iterator[str]:
    """Say which of the old sections, relocations apart, has another address or size."""
    kept = (elf.SHT_PROGBITS, elf.SHT_NOBITS)
    pairs = zip(obj.headers, image.sections, strict=False)
    for index, (header, section) in enumerate(pairs):
        if header[elf.SH_TYPE] in kept and (header[elf.SH_ADDR], header[elf.SH_SIZE]) != (
            section.virtual_address, section.size,
        ):  # fmt: skip
            yield f"section {index} is elsewhere"


def _loaded(obj: Object, plan: ImagePlan, image: lief.ELF.Binary, vaddr: int) -> Iterator[str]:
    """Say what a loader would not do with the table as it is planned."""
    end = vaddr + len(plan.addresses) * obj.layout.word
    load = type(image.segments[0]).TYPE.LOAD
    holding = [
        segment
        for segment in image.segments
        if segment.type == load
        and segment.virtual_address < end
        and vaddr < segment.virtual_address + segment.virtual_size
    ]
    if len(holding) != 1:
        yield f"{len(holding)} segments load the table"
    elif image.get_content_from_virtual_address(vaddr, end - vaddr).tobytes() != _bytes(plan, obj):
        yield "its segment loads something else"
    if plan.relocated:
        relocated = {
            relocation.address: relocation.addend
            for relocation in image.dynamic_relocations
            if vaddr <= relocation.address < end
        }
        addends = plan.addresses if plan.rela else [0] * len(plan.addresses)
        if relocated != dict(zip(range(vaddr, end, obj.layout.word), addends, strict=True)):
            yield "its entries are not relocated"
    bounds = {START.decode(): vaddr, STOP.decode(): end}
    symbols = {one.name: one.value for one in image.symtab_symbols if one.name in bounds}
    if obj.symtab is not None and symbols != bounds:
        yield f"its bounds are {symbols}"


def _bytes(plan: ImagePlan, obj: Object) -> bytes:
    return b"".join(each.to_bytes(obj.layout.word, "little") for each in plan.addresses)
