"""Small files that cost much: each multiplies two things a reader may have a loop for.

What each one is made of is sound enough to be read; only how often it stands there is not. They are
made field by field, for the builder of sound objects would be slow here.
"""

from collections.abc import Callable, Iterator, Sequence
from struct import pack
from typing import NamedTuple
from zlib import compress

EM_386, EM_X86_64 = 3, 62
ET_REL, ET_EXEC = 1, 2
PROGBITS, SYMTAB, STRTAB, RELA, DYNAMIC, REL = 1, 2, 3, 4, 6, 9
ALLOC, EXEC, AX = 2, 4, 6
PT_LOAD, PT_DYNAMIC, R, RX = 1, 2, 4, 5
FUNC, GLOBAL = 2, 16
PC32, PLT32, X86_64_64 = 2, 4, 1
BASE = 0x400000  # where segments of a file are loaded, file offset 0 first


class Section(NamedTuple):
    """A section of a file that is loaded at BASE + file offset, if it is loaded."""

    name: bytes
    type: int
    flags: int
    data: bytes
    link: int = 0
    info: int = 0
    entsize: int = 0


def elf(
    sections: Sequence[Section],
    *,
    machine: int = EM_X86_64,
    linked: bool = False,
    more_segments: Sequence[tuple[int, ...]] = (),
) -> bytes:
    """Lay out a file; of a linked one everything is loaded as code, and .dynamic is found."""
    wide = machine == EM_X86_64
    ehsize, phsize = (64, 56) if wide else (52, 32)
    names = b"\0" + b"".join(section.name + b"\0" for section in sections) + b".shstrtab\0"
    sections = [*sections, Section(b".shstrtab", STRTAB, 0, names)]
    phnum = (2 if linked else 0) + len(more_segments)
    body = bytearray(ehsize + phnum * phsize)
    headers = [bytes(64 if wide else 40)]
    dynamic = (0, 0)
    name = 1
    for section in sections:
        body += bytes(-len(body) % 16)
        offset, size = len(body), len(section.data)
        body += section.data
        address = BASE + offset if linked and section.flags & ALLOC else 0
        fields = (
            name, section.type, section.flags, address, offset, size, section.link, section.info,
            1, section.entsize,
        )  # fmt: skip
        headers.append(pack("<IIQQQQIIQQ" if wide else "<10I", *fields))
        name += len(section.name) + 1
        if section.type == DYNAMIC:
            dynamic = offset, size
    segments = [(PT_LOAD, RX, 0, BASE, len(body)), (PT_DYNAMIC, R, dynamic[0], BASE + dynamic[0],
                dynamic[1])] if linked else []  # fmt: skip
    for number, (kind, flags, offset, address, size) in enumerate([*segments, *more_segments]):
        header = (
            pack("<IIQQQQQQ", kind, flags, offset, address, address, size, size, 1)
            if wide
            else pack("<8I", kind, offset, address, address, size, size, flags, 1)
        )
        body[ehsize + number * phsize : ehsize + (number + 1) * phsize] = header
    body += bytes(-len(body) % 8)
    ident = b"\x7fELF" + bytes((2 if wide else 1, 1, 1)) + bytes(9)
    count = len(headers)
    if count >= 0xFF00:
        raise ValueError("too many sections")
    body[:ehsize] = pack(
        "<16sHHIQQQIHHHHHH" if wide else "<16sHHIIIIIHHHHHH", ident,
        ET_EXEC if linked else ET_REL, machine, 1, 0, ehsize if phnum else 0, len(body), 0, ehsize,
        phsize, phnum, len(headers[0]), count, count - 1,
    )  # fmt: skip
    return bytes(body) + b"".join(headers)


def symbol(name: int, info: int, shndx: int, value: int, size: int, *, wide: bool = True) -> bytes:
    if wide:
        return pack("<IBBHQQ", name, info, 0, shndx, value, size)
    return pack("<IIIBBH", name, value, size, info, 0, shndx)


def symbols(rows: Sequence[bytes], strings: bytes, link: int) -> list[Section]:
    """A symbol table of these rows behind the null symbol, and its strings, section `link`."""
    size = len(rows[0])
    table = bytes(size) + b"".join(rows)
    return [
        Section(b".symtab", SYMTAB, 0, table, link=link, info=1, entsize=size),
        Section(b".strtab", STRTAB, 0, strings),
    ]


def rela(rows: Sequence[tuple[int, int, int, int]]) -> bytes:
    """Relocations of (offset, type, symbol, addend)."""
    return b"".join(pack("<QQq", at, number << 32 | kind, add) for at, kind, number, add in rows)


CALL = b"\xe8\0\0\0\0"
MCOUNT = b"\0mcount\0"


# --- objects --------------------------------------------------------------------------------------


def calls_in(section_name: bytes, function: bytes, count: int, more: Sequence[bytes] = ()) -> bytes:
    """An object of `count` calls in one function; `more` symbols stand beside it."""
    rows = [symbol(1, GLOBAL, 0, 0, 0), symbol(8, GLOBAL | FUNC, 1, 0, 5 * count), *more]
    calls = rela([(5 * number + 1, PLT32, 1, -4) for number in range(count)])
    return elf([
        Section(section_name, PROGBITS, AX, CALL * count),
        Section(b".rela", RELA, 0, calls, link=3, info=1, entsize=24),
        *symbols(rows, MCOUNT + function + b"\0", 4),
    ])  # fmt: skip


def a_long_function_name_and_many_sites() -> bytes:
    return calls_in(b".text", b"f" * 200_000, 5_000)


def a_long_section_name_and_many_sites() -> bytes:
    return calls_in(b".text." + b"f" * 200_000, b"f", 5_000)


def a_name_of_escapes_and_many_sites() -> bytes:
    return calls_in(b".text", b"\x1b" * 200_000, 5_000)


def many_aliases_and_many_sites() -> bytes:
    return calls_in(b".text", b"f", 8_000, [symbol(8, GLOBAL | FUNC, 1, 0, 5)] * 10_000)


def many_symbols_of_one_long_name() -> bytes:
    rows = [symbol(8, GLOBAL | FUNC, 1, 5 * number, 5) for number in range(5_000)]
    return calls_in(b".text", b"f" * 200_000, 5_000, rows)


def many_symbols_of_mcount_and_many_sections() -> bytes:
    count = 4_000
    texts = []
    for number in range(count):
        row = rela([(1, PLT32, 1 + number, -4)])
        texts.append(Section(b"t", PROGBITS, AX, CALL))
        texts.append(
            Section(b"r", RELA, 0, row, link=2 * count + 1, info=2 * number + 1, entsize=24)
        )
    rows = [symbol(1, GLOBAL, 0, 0, 0)] * count
    return elf([*texts, *symbols(rows, MCOUNT, 2 * count + 2)])


def doubtful_bytes_in_many_sections_and_many_symbols() -> bytes:
    count = 3_000
    texts = []
    for number in range(count):
        row = rela([(3, PC32, 1, -4)])
        texts.append(Section(b"t", PROGBITS, AX, b"\x90\x69\xe8\0\0\0\0\0"))
        texts.append(
            Section(b"r", RELA, 0, row, link=2 * count + 1, info=2 * number + 1, entsize=24)
        )
    rows = [symbol(1, GLOBAL, 0, 0, 0), *[symbol(1, GLOBAL | FUNC, 1, 7, 0)] * 20_000]
    return elf([*texts, *symbols(rows, MCOUNT, 2 * count + 2)])


def a_table_of_places_outside_a_section_of_a_long_name() -> bytes:
    entries = rela([(8 * number, X86_64_64, 2, 1 << 20) for number in range(10_000)])
    rows = [symbol(1, GLOBAL, 0, 0, 0), symbol(0, 3, 1, 0, 0)]
    return elf([
        Section(b".text." + b"f" * 200_000, PROGBITS, AX, CALL),
        Section(b"__mcount_loc", PROGBITS, ALLOC, bytes(80_000)),
        Section(b".rela__mcount_loc", RELA, 0, entries, link=4, info=2, entsize=24),
        *symbols(rows, MCOUNT, 5),
    ])  # fmt: skip


def many_warnings_with_a_long_section_name() -> bytes:
    """Calls in a form that cannot be recorded: each is warned of."""
    count = 5_000
    calls = rela([(8 * number, 31, 1, 0) for number in range(count)])  # R_X86_64_PLTOFF64
    return elf([
        Section(b".text." + b"f" * 200_000, PROGBITS, AX, bytes(8 * count)),
        Section(b".rela", RELA, 0, calls, link=3, info=1, entsize=24),
        *symbols([symbol(1, GLOBAL, 0, 0, 0)], MCOUNT, 4),
    ])  # fmt: skip


def nops_that_name_no_symbol() -> bytes:
    """Relocations of no symbol and no type where no NOP stands: nobody's."""
    count = 20_000
    calls = rela([(8 * number, 0, 1, 0) for number in range(count)])
    return elf([
        Section(b".text", PROGBITS, AX, bytes(8 * count)),
        Section(b".rela", RELA, 0, calls, link=3, info=1, entsize=24),
        *symbols([symbol(1, GLOBAL, 0, 0, 0)], MCOUNT, 4),
    ])  # fmt: skip


# --- archives -------------------------------------------------------------------------------------


def archive(members: Sequence[tuple[bytes, bytes]], long_names: bytes = b"") -> bytes:
    def member(name: bytes, content: bytes) -> bytes:
        header = b"%-16s%-12d%-6d%-6d%-8o%-10d`\n" % (name, 0, 0, 0, 0o644, len(content))
        return header + content + b"\n" * (len(content) % 2)

    names = [(b"//", long_names)] if long_names else []
    return b"!<arch>\n" + b"".join(member(*each) for each in [*names, *members])


def many_members_of_one_long_name() -> bytes:
    broken = b"\x7fELF\2\1\1" + bytes(57)
    return archive([(b"/0", broken)] * 4_000, b"n" * 200_000 + b"/\n")


def an_archive_of_many_warnings() -> bytes:
    warned = calls_in(b".foo.text", b"f", 1)
    return archive([(b"/0", warned)] * 1_000, b"n" * 200_000 + b"/\n")


# --- linked files ---------------------------------------------------------------------------------


def dynamic(*pairs: tuple[int, int], wide: bool = True) -> Section:
    content = b"".join(pack("<QQ" if wide else "<II", *pair) for pair in [*pairs, (0, 0)])
    return Section(b".dynamic", DYNAMIC, ALLOC, content)


def linked_with_table(
    table: bytes,
    *sections: Section,
    text: bytes,
    more_segments: Sequence[tuple[int, ...]] = (),
) -> bytes:
    """A program that defines mcount, at the first byte of its text, and has this table."""
    rows = [symbol(1, GLOBAL | FUNC, 1, BASE + FIRST, 1)]
    return elf(
        [
            Section(b".text", PROGBITS, AX, text),
            Section(b"__mcount_loc", PROGBITS, ALLOC, table),
            *symbols(rows, MCOUNT, 4),
            *sections,
        ],
        linked=True,
        more_segments=more_segments,
    )


FIRST = 176  # file offset of the first section's bytes, behind two program headers
WORD = 8


def addresses(count: int, step: int, start: int = FIRST + 16) -> bytes:
    return b"".join(pack("<Q", BASE + start + step * number) for number in range(count))


def a_table_of_foreign_sites() -> bytes:
    return linked_with_table(addresses(16_000, 8), text=bytes(16 + 8 * 16_000))


def relocations_of_every_word() -> bytes:
    """DT_RELR: each word stands for 63 relocations."""
    relr = pack("<Q", BASE) + b"\xff" * (1 << 20)
    text = b"\xc3" + bytes(31)
    rough = linked_with_table(addresses(1, 8), Section(b".relr", PROGBITS, ALLOC, relr),
                              dynamic((36, 0), (35, 0)), text=text)  # fmt: skip
    at = BASE + rough.index(relr)
    return linked_with_table(addresses(1, 8), Section(b".relr", PROGBITS, ALLOC, relr),
                             dynamic((36, at), (35, len(relr))), text=text)  # fmt: skip


DESCENDING = [(BASE + 8 * (20_000 - number), 8, 0, BASE) for number in range(20_000)]


def descending_relocations_and_many_tables() -> bytes:
    tables = [Section(b"__mcount_loc", PROGBITS, ALLOC, bytes(8)) for _ in range(4_000)]
    return with_relocations(DESCENDING, *tables)


def relocations_by_as_many_symbols() -> bytes:
    count = 60_000
    return with_relocations([(BASE + 8 * number, 1, number, 0) for number in range(count)])


def many_tables_and_a_large_got() -> bytes:
    """The loader fills each of the tables, which are of one word, as a whole."""
    tables = [Section(b"__mcount_loc", PROGBITS, ALLOC, bytes(8)) for _ in range(4_000)]
    got = Section(b".got", PROGBITS, ALLOC, bytes(8 * 40_000))
    words = 44_000 + 1_000
    rows = [(BASE + 8 * at, 8, 0, BASE) for at in range(words)]
    return with_relocations(rows, before=[*tables, got])


def descending_relocations_and_many_segments() -> bytes:
    segments = [(PT_LOAD, RX, 0, 0x10000000 + 4096 * number, 8) for number in range(4_000)]
    return with_relocations(DESCENDING, more_segments=segments)


def with_relocations(
    rows: Sequence[tuple[int, int, int, int]],
    *sections: Section,
    before: Sequence[Section] = (),
    more_segments: Sequence[tuple[int, ...]] = (),
) -> bytes:
    """With these dynamic relocations, as `rela` has them, and sections before and behind them."""
    slots = rela(rows)

    def made(at: int) -> bytes:
        more = (*before, Section(b".rela.dyn", PROGBITS, ALLOC, slots), *sections)
        end = dynamic((7, at), (8, len(slots)))
        text = b"\xc3" + bytes(31)
        return linked_with_table(b"", *more, end, text=text, more_segments=more_segments)

    return made(BASE + made(0).index(slots))


def linked_386(gots: int, stubs: int, entries: int) -> bytes:
    """An i386 program of many GOTs, stubs that count from one, and sites."""
    rows = [symbol(1, GLOBAL | FUNC, 1, 0, 1, wide=False)]
    text = b"\xc3" + bytes(15) + b"\xff\x93\0\0\0\0\x90\x90" * entries
    table = b"".join(pack("<I", BASE + 116 + 12 + 16 + 8 * number) for number in range(entries))
    return elf(
        [Section(b".text", PROGBITS, AX, text), Section(b"__mcount_loc", PROGBITS, ALLOC, table),
         *symbols(rows, MCOUNT, 4),
         Section(b".plt", PROGBITS, AX, b"\xff\xa3\0\0\0\0\x90\x90" * stubs),
         *[Section(b".got", PROGBITS, ALLOC, pack("<I", BASE + 128))] * gots],
        machine=EM_386, linked=True,
    )  # fmt: skip


def many_stubs_and_many_gots() -> bytes:
    return linked_386(gots=4_000, stubs=20_000, entries=1)


def many_got_bases() -> bytes:
    return linked_386(gots=600, stubs=1, entries=1)


def many_gots_and_many_sites() -> bytes:
    return linked_386(gots=1_000, stubs=1, entries=4_000)


# --- debug information ----------------------------------------------------------------------------

COMPRESSED = 0x800  # SHF_COMPRESSED


def with_debug(sites: int, *sections: Section) -> bytes:
    """A program whose table has so many entries, 8 bytes from one to the next."""
    return linked_with_table(addresses(sites, 8), *sections, text=bytes(16 + 8 * sites))


def debug(name: str, data: bytes, flags: int = 0) -> Section:
    return Section(f".debug_{name}".encode(), PROGBITS, flags, data)


def uleb(number: int) -> bytes:
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + uleb(rest) if rest else bytes([low])


def line_program(program: bytes, files: Sequence[int]) -> bytes:
    """DWARF 5; `files` are positions of names in .debug_line_str, and the folder's is the first."""
    folders = b"\1\1\x1f\1" + pack("<I", files[0])
    names = b"\1\1\x1f" + uleb(len(files)) + pack(f"<{len(files)}I", *files)
    opcodes = b"\1\1\1\xfb\x0e\x0d" + bytes((0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 1))
    header = opcodes + folders + names
    unit = pack("<HBBI", 5, 8, 0, len(header)) + header + program
    return pack("<I", len(unit)) + unit


def at_address(number: int) -> bytes:
    """DW_LNE_set_address to a site of `with_debug`, and DW_LNS_copy."""
    return b"\0\x09\2" + pack("<Q", BASE + FIRST + 16 + 8 * number) + b"\1"


def sequences_of_lines_without_end() -> bytes:
    sites = 20_000
    lines = line_program(b"".join(map(at_address, range(sites))), [0])
    return with_debug(sites, debug("line", lines), debug("line_str", b"x.c\0"))


def sites_in_files_of_one_long_name() -> bytes:
    sites = 5_000
    rows = [b"\4" + uleb(number) + at_address(number) for number in range(sites)]
    ends = b"\2\1\0\1\1"  # the next address, DW_LNE_end_sequence
    lines = line_program(b"".join(row + ends for row in rows), [*range(sites)])
    return with_debug(sites, debug("line", lines), debug("line_str", b"f" * 200_000 + b"\0"))


def unit(abbreviation: int, values: bytes) -> bytes:
    """A unit of DWARF 4 with one entry."""
    content = pack("<HIB", 4, abbreviation, 8) + b"\1" + values
    return pack("<I", len(content)) + content


def units_whose_abbreviations_overlap() -> bytes:
    kinds, units = 20_000, 2_000
    table = b"".join(uleb(kinds - number) + b"\x11\0\0\0" for number in range(kinds)) + b"\0"
    starts = [0]
    for number in range(units):
        starts.append(starts[-1] + len(uleb(kinds - number)) + 4)
    info = b"".join(unit(start, b"") for start in starts[:units])
    return with_debug(1, debug("line", b""), debug("info", info), debug("abbrev", table))


def units_of_one_long_list_of_ranges() -> bytes:
    table = b"\1\x11\0\x55\x17\0\0\0"  # DW_AT_ranges as a DW_FORM_sec_offset
    ranges = b"".join(pack("<QQ", BASE + at, BASE + at + 1) for at in range(20_000)) + bytes(16)
    info = unit(0, pack("<I", 16)) * 5_000
    return with_debug(
        1, debug("line", b""), debug("info", info), debug("abbrev", table), debug("ranges", ranges)
    )


def entries_whose_siblings_lead_back() -> bytes:
    table = b"\1\x11\1\0\0\2\x2e\1\1\x13\0\0\0"  # DW_AT_sibling as a DW_FORM_ref4
    info = unit(0, (b"\2" + pack("<I", 12)) * 20_000)
    return with_debug(1, debug("line", b""), debug("info", info), debug("abbrev", table))


def debug_information_that_is_a_bomb() -> bytes:
    """It claims to be small, and is zeros without end."""
    packed = pack("<IIQQ", 1, 0, 1 << 20, 1) + compress(bytes(1 << 28), 9)
    return with_debug(1, debug("line", packed, COMPRESSED))


OBJECTS = (
    a_long_function_name_and_many_sites, a_long_section_name_and_many_sites,
    a_name_of_escapes_and_many_sites, many_aliases_and_many_sites, many_symbols_of_one_long_name,
    many_symbols_of_mcount_and_many_sections, doubtful_bytes_in_many_sections_and_many_symbols,
    a_table_of_places_outside_a_section_of_a_long_name, many_warnings_with_a_long_section_name,
    nops_that_name_no_symbol, many_members_of_one_long_name, an_archive_of_many_warnings,
)  # fmt: skip
LINKED = (
    a_table_of_foreign_sites, relocations_of_every_word, descending_relocations_and_many_tables,
    descending_relocations_and_many_segments, many_stubs_and_many_gots, many_got_bases,
    many_gots_and_many_sites, relocations_by_as_many_symbols, many_tables_and_a_large_got,
)  # fmt: skip
DEBUG = (
    sequences_of_lines_without_end, sites_in_files_of_one_long_name,
    units_whose_abbreviations_overlap, units_of_one_long_list_of_ranges,
    entries_whose_siblings_lead_back, debug_information_that_is_a_bomb,
)  # fmt: skip


def commands() -> Iterator[tuple[list[str], Callable[[], bytes]]]:
    """What to run on which input."""
    for made in OBJECTS:
        yield ["recordmcount", "-w"], made
        yield ["recordmcount", "-n"], made
    for made in (*OBJECTS, *LINKED):
        yield ["recordmcount", "report"], made
        yield ["recordmcount", "report", "--json"], made
        yield ["recordmcount", "verify"], made
        yield ["recordmcount", "verify", "--format", "sarif"], made
        yield ["patcher", "status"], made
        yield ["patcher", "nop", "--functions", "f*"], made
        yield ["patcher", "nop", "-n", "--json"], made
    for made in DEBUG:
        yield ["recordmcount", "report", "--lines", "--untraceable"], made
