"""Plan what to write: (object, sites, options) -> bytes to replace and bytes to append. Pure.

The old contents stay where they are. Appended are, in this order, the section name table, the
section headers and the new data; the ELF header then points at the new headers, and that one
write makes the object recorded. (The order is that of the kernel's recordmcount.)

Sections whose code is freed or moved behind the tracer's back must have no entries: their calls
become NOPs instead, and their relocations R_*_NONE.
"""

from recordmcount import mcount_loc, x86
from recordmcount.elf import object as elf
from recordmcount.errors import FormatError

from .new_sections import NewSections

TYPE_CHECKING = False
if TYPE_CHECKING:
    from recordmcount.elf.object import Object
    from recordmcount.options import Options
    from recordmcount.sites.calls import Found, SectionSites

# Sections the kernel's tool records: these, and all whose name begins with ".text".
RECORDED_SECTIONS = frozenset(
    (
        ".init.text", ".ref.text", ".sched.text", ".spinlock.text", ".irqentry.text",
        ".softirqentry.text", ".kprobes.text", ".cpuidle.text",
    )
)  # fmt: skip


class Plan:
    """What turns the old file into the recorded one; nothing here has touched a file.

    `edits` are replacements of equal length, (file offset, bytes), disjoint and ascending;
    `appended` goes behind the old end of file. `header`, if any, is the new ELF header, which
    publishes what was appended; `all_edits` count it in. `recorded` and `ignored` are the sites
    with and without entry.
    """

    __slots__ = ("edits", "appended", "header", "recorded", "ignored", "tables")

    def __init__(self, recorded: "list[SectionSites]", ignored: "list[SectionSites]") -> None:
        self.recorded = recorded
        self.ignored = ignored
        self.edits: list[tuple[int, bytes]] = []
        self.appended = b""
        self.header = b""
        self.tables: list[Table] = []

    @property
    def all_edits(self) -> list[tuple[int, bytes]]:
        """The edits, the ELF header among them."""
        return [(0, self.header), *self.edits] if self.header else self.edits

    def __bool__(self) -> bool:
        return bool(self.all_edits)


class Table:
    """One `__mcount_loc` section to be.

    `text` is the text section it is linked to (SHF_LINK_ORDER) and `group` the section group it
    belongs to, 0 for none; `flags` its sh_flags; `parts` the sites it has entries for.
    """

    __slots__ = ("text", "group", "flags", "parts")

    def __init__(self, text: int, group: int, flags: int) -> None:
        self.text = text
        self.group = group
        self.flags = flags
        self.parts: list[SectionSites] = []


def make_plan(obj: "Object", found: "Found", options: "Options") -> Plan:
    """Return the plan for one object; false (no edits, no header) where there is nothing to do.

    Raises FormatError where a sound table cannot be made.
    """
    recorded: list[SectionSites] = []
    ignored: list[SectionSites] = []
    for part in found.sections:
        (recorded if is_recorded(obj, part.section, options) else ignored).append(part)
    result = Plan(recorded, ignored)
    rewritten: dict[int, bytearray] = {}
    if found.sections and not obj.shstrndx:
        raise FormatError(obj.path, "there are no section names, which say what to record")
    if recorded:
        result.tables = _tables(obj, found, recorded, options)
        rewritten = _append_tables(obj, result)
    for part in ignored:
        result.edits += _to_nops(obj, part, rewritten)
    for section, content in rewritten.items():
        result.edits.append((obj.headers[section][elf.SH_OFFSET], bytes(content)))
    result.edits.sort()
    if result.edits:
        obj.extents()  # where sections overlap, an edit of one would change another
        _check_disjoint(obj, result.edits)
    return result


def is_recorded(obj: "Object", section: int, options: "Options") -> bool:
    """Tell whether calls in text section `section` get entries; otherwise they become NOPs."""
    text = obj.section(section)
    if not text.flags & elf.SHF_ALLOC:
        return False  # never loaded: an entry would name somebody else's memory
    return options.all_sections or text.name.startswith(".text") or text.name in RECORDED_SECTIONS


def _to_nops(
    obj: "Object", part: "SectionSites", rewritten: dict[int, bytearray]
) -> "list[tuple[int, bytes]]":
    """Return edits that turn the calls of `part` into NOPs and their relocations into R_*_NONE.

    A relocation section that is written anew as a whole is changed there, in `rewritten`.
    """
    text, relocations = obj.section(part.section), obj.section(part.relocations)
    # r_info without its type, R_*_NONE being 0 on both machines: symbol and addend stay.
    type_at, none = (8, bytes(4)) if obj.layout.is_64 else (4, bytes(1))
    content = rewritten.get(part.relocations)
    edits = []
    for site in part:
        edits.append((text.offset + site.offset, site.form.nop))
        at = site.entry * relocations.entsize + type_at
        if content is None:
            edits.append((relocations.offset + at, none))
        else:
            content[at : at + len(none)] = none
    return edits


def _tables(
    obj: "Object", found: "Found", recorded: "list[SectionSites]", options: "Options"
) -> list[Table]:
    """Plan one table for all sections, but for each that may be dropped at link time its own.

    A section in a group goes with its group, so its table is a member of it. With --gc-sections
    any section may go: SHF_LINK_ORDER ties each table to its text. Only then: mold puts tables
    with and without that flag into two output sections, of which programs see the first.
    """
    pic = options.pic or any(
        x86.ALL_FORMS[form].pic for part in found.sections for form in set(part.forms)
    )
    flags = elf.SHF_ALLOC | (elf.SHF_WRITE if pic else 0)
    link_order = elf.SHF_LINK_ORDER if options.gc_sections else 0
    groups = _group_of(obj) if any(_in_group(obj, part.section) for part in recorded) else {}
    tables: dict[int, Table] = {}
    for part in recorded:
        group = groups.get(part.section, 0)
        own = part.section if group or link_order else 0
        if own not in tables:
            member = elf.SHF_GROUP if group else 0
            tables[own] = Table(own if link_order else 0, group, flags | link_order | member)
        tables[own].parts.append(part)
    return list(tables.values())


def _in_group(obj: "Object", section: int) -> bool:
    return bool(obj.headers[section][elf.SH_FLAGS] & elf.SHF_GROUP)


def _group_of(obj: "Object") -> dict[int, int]:
    """Map each member section to the SHT_GROUP section that lists it, by index."""
    groups = {}
    for index in obj.of_type(elf.SHT_GROUP):
        content = obj.content(index)
        if len(content) < 4 or len(content) % 4:
            raise FormatError(obj.path, f"section group {index} has an impossible size")
        for at in range(4, len(content), 4):
            groups[int.from_bytes(content[at : at + 4], "little")] = index
    return groups


def base_symbols(
    obj: "Object", sections: set[int], *, local_only: bool
) -> dict[int, tuple[int, int]]:
    """Map each section to the first symbol an entry can be based on: (symbol index, st_value).

    Never a weak one, which another object may override, and never an IFUNC, whose address is
    that of a PLT entry. With `local_only`, no global one either: in a shared object its address
    may be resolved to another module's symbol of the same name.
    """
    usable = (elf.STB_LOCAL,) if local_only else (elf.STB_LOCAL, elf.STB_GLOBAL)
    wanted = set(sections)
    bases = {}
    for index, (_name, value, _size, info, _other, shndx) in enumerate(obj.raw_symbols()):
        if shndx not in wanted or info >> 4 not in usable or info & 0xF == elf.STT_GNU_IFUNC:
            continue
        if value <= min(obj.section(shndx).size, obj.size):
            bases[shndx] = (index, value)
            wanted.remove(shndx)
            if not wanted:
                break
    return bases


def _append_tables(obj: "Object", plan: Plan) -> dict[int, bytearray]:
    """Lay out the plan's tables and fill in its `appended` and `header`.

    Returns the relocation sections whose contents must be replaced in place, by index.
    """
    rela = mcount_loc.uses_rela(obj)
    relocations_name = (b".rela" if rela else b".rel") + mcount_loc.NAME
    new_sections = NewSections(obj, relocations_name, 2 * len(plan.tables))
    bases, rewritten = _bases(obj, plan.tables, new_sections)
    word, entry = obj.layout.word, obj.layout.rela if rela else obj.layout.rel
    members: dict[int, bytes] = {}
    for one in plan.tables:
        content, relocations = mcount_loc.encode(obj, _runs(one, bases))
        index = new_sections.add_section(
            len(relocations_name) - len(mcount_loc.NAME),
            (elf.SHT_PROGBITS, one.flags, one.text, 0, word, word),
            content,
        )
        relocations_type = elf.SHT_RELA if rela else elf.SHT_REL
        relocations_index = new_sections.add_section(
            0,
            (relocations_type, one.flags & elf.SHF_GROUP, obj.symtab or 0, index, word, entry.size),
            relocations,
        )
        if one.group:
            new = index.to_bytes(4, "little") + relocations_index.to_bytes(4, "little")
            members[one.group] = members.get(one.group, b"") + new
    for group, words in members.items():
        new_sections.replace_content(group, obj.content(group) + words)
    plan.header, plan.appended = new_sections.finish()
    return rewritten


def _runs(one: Table, bases: dict[int, tuple[int, int]]) -> list[tuple[int, list[int]]]:
    """Return the table's entries as (base symbol, values relative to it), part by part."""
    runs = []
    for part in one.parts:
        symbol, value = bases[part.section]
        runs.append((symbol, [start - value for start in part.starts] if value else part.starts))
    return runs


def _bases(
    obj: "Object", tables: list[Table], new_sections: NewSections
) -> tuple[dict[int, tuple[int, int]], dict[int, bytearray]]:
    """Find the base of each section's entries; section symbols are added where there is none.

    (section -> (symbol index, st_value), relocation sections to replace in place). Tables that
    are resolved at run time or are dropped with a group must not depend on a global symbol.
    """
    strict = elf.SHF_WRITE | elf.SHF_GROUP | elf.SHF_LINK_ORDER
    local = {part.section for one in tables if one.flags & strict for part in one.parts}
    others = {part.section for one in tables if not one.flags & strict for part in one.parts}
    bases = base_symbols(obj, local, local_only=True) if local else {}
    bases.update(base_symbols(obj, others, local_only=False) if others else {})
    missing = sorted((local | others) - bases.keys())
    if not missing:
        return bases, {}
    from . import section_symbols  # rarely needed

    renumbered = section_symbols.add_section_symbols(obj, missing)
    for section, content in renumbered.contents.items():
        new_sections.replace_content(section, content)
    for section, info in renumbered.infos.items():
        new_sections.set_info(section, info)
    bases = {section: (renumbered.new(symbol), value) for section, (symbol, value) in bases.items()}
    bases.update((section, (renumbered.symbols[section], 0)) for section in missing)
    return bases, renumbered.relocations


def _check_disjoint(obj: "Object", edits: "list[tuple[int, bytes]]") -> None:
    """Refuse ascending edits of which one would undo another."""
    end = 0
    for offset, data in edits:
        if offset < end:
            raise FormatError(obj.path, f"two sites overlap at file offset {offset:#x}")
        end = offset + len(data)
