"""Plan what to write: (object, sites, options) -> bytes to replace and bytes to append. Pure.

Calls of mcount get entries in `__mcount_loc`, those of `__return__` in `__return_loc`.

The old contents stay where they are. Appended are, in this order, the section name table, the
section headers and the new data; the ELF header then points at the new headers, and that one
write makes the object recorded. (The order is that of the kernel's recordmcount.)

In a kernel, sections whose code is freed or moved behind the tracer's back must have no entries:
their calls become NOPs instead, and their relocations R_*_NONE.
"""

from recordmcount import mcount_loc, x86
from recordmcount.elf import object as elf
from recordmcount.errors import FormatError

from .new_sections import NewSections, Table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from recordmcount.asked import Options
    from recordmcount.elf.object import Object
    from recordmcount.sites.calls import Found, SectionSites

    from .new_sections import Entries

# Sections of a kernel that are recorded: these, and .text*. (.ltext* is that of the large code
# model, x86-64 psABI 1.0 section 4.2.1.)
_TEXT = (".text", ".ltext")
_TRACED_SECTIONS = frozenset(
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
    with and without entry. `lost` names the sections of the latter that are loaded, where nothing
    but their names says that the object is a kernel's.
    """

    __slots__ = ("edits", "appended", "header", "recorded", "ignored", "lost")

    def __init__(
        self,
        recorded: "list[SectionSites]",
        ignored: "list[SectionSites]",
        lost: "Sequence[str]" = (),
    ) -> None:
        self.recorded = recorded
        self.ignored = ignored
        self.lost = lost
        self.edits: list[tuple[int, bytes]] = []
        self.appended = b""
        self.header = b""

    @property
    def all_edits(self) -> list[tuple[int, bytes]]:
        """The edits, the ELF header among them."""
        return [(0, self.header), *self.edits] if self.header else self.edits

    def __bool__(self) -> bool:
        return bool(self.all_edits)


def make_plan(obj: "Object", found: "Found", options: "Options") -> Plan:
    """Return the plan for one object; false (no edits, no header) where there is nothing to do.

    Raises FormatError where a sound table cannot be made.
    """
    recorded: list[SectionSites] = []
    ignored: list[SectionSites] = []
    wanted = Wanted(obj, options)
    for part in found.sections:
        (recorded if part.section in wanted else ignored).append(part)
    result = Plan(recorded, ignored, wanted.lost)
    if found.sections and not obj.shstrndx:
        raise FormatError(obj.path, "there are no section names, which say what to record")
    rewritten: dict[int, bytearray] = {}
    tables, gone = _plan_tables(obj, found, result, wanted, options)
    new = _NewTables(obj, tables, gone) if tables or gone else None
    if new:
        rewritten = new.relocations
    for part in ignored:
        result.edits += _to_nops(obj, part, rewritten)
    if new:
        result.header, result.appended = new.finish()
    result.edits.sort()
    if result.edits:
        obj.extents()  # where sections overlap, an edit of one would change another
        check_disjoint(obj, result.edits)
    return result


class Wanted:
    """Which text sections' calls get entries; the others' become NOPs."""

    def __init__(self, obj: "Object", options: "Options") -> None:
        self._obj = obj
        self._all = options.all_sections
        self._of_kernel: bool | None = options.kernel or None  # None: not looked at yet
        self._lost: dict[int, str] = {}

    @property
    def lost(self) -> list[str]:
        """The names of loaded sections that are left out for their names alone."""
        return [*self._lost.values()]

    def __contains__(self, section: int) -> bool:
        if not self._obj.headers[section][elf.SH_FLAGS] & elf.SHF_ALLOC:
            return False  # never loaded: an entry would name somebody else's memory
        name = self._obj.section_name(section)
        if self._all or name.startswith(_TEXT) or name in _TRACED_SECTIONS:
            return True
        from . import kernel_objects  # rarely needed

        if self._of_kernel is None:
            self._of_kernel = kernel_objects.is_of_kernel(self._obj)
        if self._of_kernel or not kernel_objects.is_named_as_there(name):
            return not self._of_kernel
        self._lost[section] = name
        return False


def _to_nops(
    obj: "Object", part: "SectionSites", rewritten: dict[int, bytearray]
) -> "list[tuple[int, bytes]]":
    """Return edits that turn the calls of `part` into NOPs and their relocations into R_*_NONE.

    A relocation section that is written anew as a whole is changed there, in `rewritten`.
    """
    text, relocations = obj.section(part.section), obj.section(part.relocations)
    # r_info as a whole, the word behind r_offset: where the symbol stays, PIC does not link (bfd).
    info_at, none = obj.layout.word, bytes(obj.layout.word)
    content = rewritten.get(part.relocations)
    edits = []
    for site in part:
        edits.append((text.offset + site.offset, site.form.nop))
        at = site.entry * relocations.entsize + info_at
        if content is None:
            edits.append((relocations.offset + at, none))
        else:
            content[at : at + len(none)] = none
    return edits


def _plan_tables(
    obj: "Object", found: "Found", result: Plan, wanted: "Wanted", options: "Options"
) -> "tuple[list[Table], Sequence[int]]":
    """Plan the tables; and the sections, of tables that are made anew, of which nothing is left.

    Calls of `__return__` that have right entries already are no longer among those to record.
    """
    calls: list[Entries] = []
    returns: list[Entries] = []
    for part in result.recorded:
        (returns if part.are_returns else calls).append((part.section, part.starts))
    is_pic = options.pic or any(
        x86.ALL_FORMS[form].pic for part in found.sections for form in set(part.forms)
    )
    flags = elf.SHF_ALLOC | (elf.SHF_WRITE if is_pic else 0)
    tables = _tables(obj, mcount_loc.NAME, calls, flags, options) if calls else []
    if not obj.named(mcount_loc.RETURNS):
        if returns:
            tables += _tables(obj, mcount_loc.RETURNS, returns, flags, options)
        return tables, ()
    from . import told_returns  # gcc tells some where it is asked to

    returns += [each for each in told_returns.others(obj, found) if each[0] in wanted]
    anew = _tables(obj, mcount_loc.RETURNS, returns, flags, options)
    if told_returns.are_right(obj, anew, group_of(obj)):
        result.recorded = [part for part in result.recorded if not part.are_returns]
        return tables, ()
    return tables + anew, told_returns.take_place(obj, anew)


def _tables(
    obj: "Object", name: bytes, parts: "Sequence[Entries]", flags: int, options: "Options"
) -> list[Table]:
    """Plan one table for all sections, but for each that may be dropped at link time its own.

    A section in a group goes with its group, so its table is a member of it. With --gc-sections
    any section may go: SHF_LINK_ORDER ties each table to its text. Only then: mold puts tables
    with and without that flag into two output sections, of which programs see the first.
    """
    link_order = elf.SHF_LINK_ORDER if options.gc_sections else 0
    groups = group_of(obj) if any(in_group(obj, section) for section, _ in parts) else {}
    tables: dict[int, Table] = {}
    for section, starts in parts:
        group = groups.get(section, 0)
        own = section if group or link_order else 0
        if own not in tables:
            member = elf.SHF_GROUP if group else 0
            tables[own] = Table(name, own if link_order else 0, group, flags | link_order | member)
        tables[own].parts.append((section, starts))
    return list(tables.values())


def in_group(obj: "Object", section: int) -> bool:
    """Tell whether a section is of a group."""
    return bool(obj.headers[section][elf.SH_FLAGS] & elf.SHF_GROUP)


def group_of(obj: "Object") -> dict[int, int]:
    """Map each member section to the SHT_GROUP section that lists it, by index."""
    groups = {}
    for index in obj.of_type(elf.SHT_GROUP):
        content = obj.content(index)
        if len(content) < 4 or len(content) % 4:
            raise FormatError(obj.path, f"section group {index} has an impossible size")
        for at in range(4, len(content), 4):
            groups[int.from_bytes(content[at : at + 4], "little")] = index
    return groups


def base_symbols(obj: "Object", sections: set[int]) -> dict[int, tuple[int, int]]:
    """Map each section to the first symbol an entry can be based on: (symbol index, st_value).

    Only a local symbol will do: what a global one means is decided by the linker, and may be
    another function. Never an IFUNC, whose address is that of a PLT entry.
    """
    wanted = set(sections)
    bases = {}
    for index, (_name, value, _size, info, _other, shndx) in enumerate(obj.raw_symbols()):
        if info >> 4 != elf.STB_LOCAL or not wanted:
            break  # all local symbols stand before the others
        if shndx not in wanted or info & 0xF == elf.STT_GNU_IFUNC:
            continue
        if value <= min(obj.headers[shndx][elf.SH_SIZE], obj.size):
            bases[shndx] = (index, value)
            wanted.remove(shndx)
    return bases


class _NewTables:
    """The tables of a plan, and the sections that have to change for them.

    Of those that are `gone` nothing is left. `relocations` are sections that change whole, by
    index; until `finish` they may change further.
    """

    def __init__(self, obj: "Object", tables: list[Table], gone: "Sequence[int]") -> None:
        self._obj = obj
        self._tables = tables
        self._rela = mcount_loc.uses_rela(obj)
        new = [one for one in tables if one.place is None]
        # By the table's: where the name of its relocations begins, of which its own is the end.
        self._names: dict[bytes, int] = {}
        names = b""
        for name in dict.fromkeys([one.name for one in new]):
            names += b"\0" if names else b""
            self._names[name] = len(names)
            names += self._kind + name
        self._new = NewSections(obj, names, 2 * len(new))
        self._gone = gone
        self.relocations: dict[int, bytearray] = {}
        self._bases = self._find_bases({section for one in tables for section, _ in one.parts})

    @property
    def _kind(self) -> bytes:
        """How the names of sections of relocations begin."""
        return b".rela" if self._rela else b".rel"

    def _find_bases(self, sections: set[int]) -> dict[int, tuple[int, int]]:
        """Find the base of each section's entries; add a section symbol where there is none."""
        bases = base_symbols(self._obj, sections)
        missing = sorted(sections - bases.keys())
        if not missing:
            return bases
        from . import section_symbols  # rarely needed

        renumbered = section_symbols.add_section_symbols(self._obj, missing)
        for section, content in renumbered.contents.items():
            self._new.replace_content(section, content)
        for section, info in renumbered.infos.items():
            self._new.set_info(section, info)
        self.relocations = renumbered.relocations
        bases.update((section, (renumbered.symbols[section], 0)) for section in missing)
        return bases

    def finish(self) -> tuple[bytes, bytes]:
        """Lay everything out: (the new ELF header, the bytes to append)."""
        members: dict[int, bytes] = {}
        for one in self._tables:
            new = self._add(one)
            if one.group:
                members[one.group] = members.get(one.group, b"") + new
        for group, words in members.items():
            self._new.replace_content(group, self._obj.content(group) + words)
        made_anew = {*self._gone, *[index for one in self._tables for index in one.place or ()]}
        for section, content in self.relocations.items():
            if section not in made_anew:
                self._new.replace_content(section, bytes(content))
        # What is left of a table is empty, and as writable as the others are: see _tables.
        writable = self._tables[0].flags & elf.SHF_WRITE if self._tables else 0
        for section in self._gone:
            header = self._obj.headers[section]
            more = writable if header[elf.SH_TYPE] == elf.SHT_PROGBITS else 0
            fields = {elf.SH_SIZE: 0, elf.SH_FLAGS: header[elf.SH_FLAGS] | more}
            self._new.change(section, fields)
        return self._new.finish()

    def _add(self, one: Table) -> bytes:
        """Add one table and its relocations; their section indices as a group lists them."""
        layout, word = self._obj.layout, self._obj.layout.word
        entry = layout.rela if self._rela else layout.rel
        content, relocations = mcount_loc.encode(self._obj, _runs(one, self._bases))
        header = elf.SHT_PROGBITS, one.flags, one.text, 0, word, word

        def relocations_of(table: int) -> tuple[int, ...]:
            kind = elf.SHT_RELA if self._rela else elf.SHT_REL
            group, symtab = one.flags & elf.SHF_GROUP, self._obj.symtab or 0
            return kind, group, symtab, table, word, entry.size

        if one.place:
            self._new.replace_section(one.place[0], header, content)
            self._new.replace_section(one.place[1], relocations_of(one.place[0]), relocations)
            return b""
        name = self._names[one.name]
        index = self._new.add_section(name + len(self._kind), header, content)
        second = self._new.add_section(name, relocations_of(index), relocations)
        return index.to_bytes(4, "little") + second.to_bytes(4, "little")


def _runs(one: Table, bases: dict[int, tuple[int, int]]) -> list[tuple[int, list[int]]]:
    """Return the table's entries as (base symbol, values relative to it), part by part."""
    runs = []
    for section, starts in one.parts:
        symbol, value = bases[section]
        runs.append((symbol, [start - value for start in starts] if value else [*starts]))
    return runs


def check_disjoint(obj: "Object", edits: "list[tuple[int, bytes]]") -> None:
    """Refuse ascending edits of which one would undo another."""
    end = 0
    for offset, data in edits:
        if offset < end:
            raise FormatError(obj.path, f"two sites overlap at file offset {offset:#x}")
        end = offset + len(data)
