"""`recordmcount report`: the call sites of objects, libraries and linked files as text and JSON.

Every file becomes a `FileReport`, whatever it is; text and JSON are two ways to print those. The
JSON is described by `report.schema.json` beside this file.
"""

import json
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from recordmcount import mcount_loc, x86
from recordmcount.arguments import Parser
from recordmcount.console import printable, say
from recordmcount.elf import archive, filetype, segments
from recordmcount.elf import object as elf
from recordmcount.elf.object import Object
from recordmcount.errors import FormatError, RecordError, UnrecognizedError
from recordmcount.sites import linked, relocatable
from recordmcount.sites.state import State

JSON_VERSION = 1
SCHEMA = Path(__file__).with_name("report.schema.json")

# An executable that can be loaded anywhere is a shared object that says so (since glibc 2.26).
DT_FLAGS_1, DF_1_PIE = 0x6FFFFFFB, 0x08000000

COLOURS = {State.CALL: "32", State.NOP: "2", State.FOREIGN: "31"}  # green, dim, red


@dataclass(frozen=True, slots=True)
class Row:
    """One site. `position` is a section offset in objects, else a link-time virtual address.

    `function_offset` is the distance in bytes to the first byte of `function`, 0 without one.
    `kind` is the form of the call and `reason` what is wrong with the site; both may be empty.
    """

    function: str | None
    function_offset: int
    section: str
    position: int
    kind: str
    code: bytes
    state: State
    recorded: bool
    reason: str


@dataclass(frozen=True, slots=True)
class FileReport:
    """One file, or one member of an archive.

    `type` is "object", "executable", "PIE" or "shared object"; `bits` 32 or 64; `machine`
    "x86-64", "x32" or "i386". `rows` are in the order of section and offset, or of address.
    `dead` counts table entries that name no place, `repeated` those beyond the first for one.
    """

    path: str
    type: str
    bits: int
    machine: str
    has_table: bool
    rows: tuple[Row, ...] = ()
    dead: int = 0
    repeated: int = 0

    @property
    def position(self) -> str:
        """What a row's position is: "offset" (in the section) or "address" (link-time)."""
        return "offset" if self.type == "object" else "address"


def main(words: Sequence[str]) -> int:
    """Run `recordmcount report` with these words; returns the exit status."""
    parser = _parser()
    try:
        options = parser.parse_args(words)
        if not (options.files or options.schema):
            parser.error("no files")
    except SystemExit as end:
        return int(end.code or 0)
    if options.schema:
        return 0 if say(1, [SCHEMA.read_text("utf-8").rstrip()]) else 1
    reports, errors = [], []
    for path in options.files:
        for result in examine(path, tuple(options.symbols)):
            if isinstance(result, FileReport):
                reports.append(result)
            else:
                errors.append(result)
                say(2, [str(result)])
    colour = os.isatty(1) and not os.environ.get("NO_COLOR")
    lines = [as_json(reports, errors)] if options.json else as_text(reports, colour=colour)
    written = say(1, lines)
    return 0 if written and not errors else 1


def _parser() -> Parser:
    parser = Parser(
        prog="recordmcount report",
        description="Show every call site of mcount and __fentry__: the calls in relocatable "
        "objects and static libraries, recorded or not, and the entries of the __mcount_loc table "
        "of executables and shared objects.",
        epilog="state: call, nop (a call that was turned off), foreign (neither, but the "
        "table names it, or it may be a call in a form that cannot be recorded). "
        "exit status: 0 done, 1 a file could not be read, 2 usage",
    )
    parser.add_argument("files", nargs="*", metavar="FILE")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--schema", action="store_true", help="print the JSON's schema")
    parser.add_argument(
        "--symbol", action="append", default=[], dest="symbols", metavar="NAME",
        help="a further function to look for, as in gcc's -mfentry-name; repeatable",
    )  # fmt: skip
    return parser


# --- files -> reports -----------------------------------------------------------------------------


def examine(path: str, names: tuple[str, ...] = ()) -> Iterator[FileReport | RecordError]:
    """The report of a file or, for an archive, of each object in it; or why there is none."""
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise FormatError(path, "not a regular file")
            content = _Content(status.st_size, lambda at, size: os.pread(file.fileno(), size, at))
            if content.read(0, 8) != filetype.ARCHIVE_MAGIC:
                yield _examine_object(path, content, names)
                return
            for name, member in archive.members(path, content.read(0, content.size)):
                if member.startswith((b"\x7fELF", *filetype.BITCODE_MAGIC)):
                    yield _examine_object(f"{path}({name})", _in_memory(member), names)
    except RecordError as error:
        yield error
    except IsADirectoryError:
        yield FormatError(path, "not a regular file")
    except OSError as error:
        yield RecordError(path, error.strerror or str(error))


class _Content(NamedTuple):
    """The bytes of a file or of a member: how many, and `read(offset, size)`."""

    size: int
    read: Callable[[int, int], bytes]


def _without_waiting(path: str, flags: int) -> int:
    """Open a FIFO as well, at once, to say that it is no regular file."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)


def _in_memory(content: bytes) -> _Content:
    return _Content(len(content), lambda at, size: content[at : at + size])


def _examine_object(
    path: str, content: _Content, names: tuple[str, ...]
) -> FileReport | RecordError:
    try:
        filetype.refuse_others(path, content.read(0, 8))
        return _report(Object(path, *content), names)
    except UnrecognizedError:  # in the words of the kernel's tool, which nobody here compares
        is_elf = content.read(0, 4) == b"\x7fELF"
        return FormatError(path, "not for x86" if is_elf else "not an ELF file")
    except RecordError as error:
        return error


def _report(obj: Object, names: tuple[str, ...]) -> FileReport:
    identity = (obj.path, *identify(obj))
    if obj.type == elf.ET_REL:
        filetype.refuse_slim_lto(obj)
        listing = relocatable.read(obj, names)
        rows = tuple(_row(site, site.offset, site.recorded) for site in listing.sites)
        return FileReport(*identity, listing.has_table, rows, listing.dead, listing.repeated)
    if obj.headers and not obj.named(mcount_loc.NAME):
        return FileReport(*identity, has_table=False)
    image = linked.read(obj, names)
    rows = tuple(_row(site, site.vaddr, recorded=True) for site in image.sites)
    return FileReport(*identity, True, rows, image.dead, image.repeated)


def _row(site: relocatable.Site | linked.Site, position: int, recorded: bool) -> Row:
    return Row(
        site.function, site.function_offset, site.section, position, site.form, site.code,
        site.state, recorded, site.reason,
    )  # fmt: skip


def identify(obj: Object) -> tuple[str, int, str]:
    """The `type`, `bits` and `machine` of a FileReport; FormatError for what has no such type."""
    bits = 64 if obj.layout.is_64 else 32
    machine = "i386" if obj.machine == x86.EM_386 else "x86-64" if bits == 64 else "x32"
    return _type(obj), bits, machine


def _type(obj: Object) -> str:
    if obj.type == elf.ET_REL:
        return "object"
    if obj.type == elf.ET_EXEC:
        return "executable"
    if obj.type == elf.ET_DYN:
        flags = segments.LoadView(obj).dynamic.get(DT_FLAGS_1, 0)
        return "PIE" if flags & DF_1_PIE else "shared object"
    raise FormatError(obj.path, "neither an object nor a linked file")


# --- reports -> text ------------------------------------------------------------------------------


def as_text(reports: Sequence[FileReport], *, colour: bool = False) -> Iterator[str]:
    """The lines of the text form: for each file a heading, aligned rows and a summary."""
    for number, report in enumerate(reports):
        if number:
            yield ""
        name = printable(report.path)
        yield f"{name}: {report.type}, ELF{report.bits} {report.machine}"
        yield from _table(report, colour)
        yield _summary(report)
    if len(reports) > 1:
        rows = [row for report in reports for row in report.rows]
        yield ""
        yield f"total: {len(reports)} files; {'; '.join(_counts(rows))}"


def _table(report: FileReport, colour: bool) -> Iterator[str]:
    """A heading and one line for each row; names stand last, where their length does no harm."""
    if not report.rows:
        return
    heading = (report.position, "state", "recorded", "kind", "bytes", "section", "function")
    lines = [heading, *map(_cells, report.rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    states = [None, *(row.state for row in report.rows)]
    for state, (position, *cells, function) in zip(states, lines, strict=True):
        padded = [cell.ljust(width) for cell, width in zip(cells, widths[1:-1], strict=True)]
        if colour and state:
            padded[0] = f"\033[{COLOURS[state]}m{padded[0]}\033[0m"
        yield "  ".join(("", position.rjust(widths[0]), *padded, function))


def _cells(row: Row) -> tuple[str, ...]:
    function = printable(row.function or "-")
    if row.function_offset:
        function += f"+{row.function_offset:#x}"
    if row.reason:
        function += f"  ({row.reason})"
    return (
        f"{row.position:#x}", row.state, "yes" if row.recorded else "no", row.kind or "-",
        row.code.hex(" ") or "-", printable(row.section), function,
    )  # fmt: skip


def _summary(report: FileReport) -> str:
    parts = _counts(report.rows) if report.rows or report.type == "object" else []
    if not report.has_table:
        parts.append(f"no {mcount_loc.NAME.decode()} table")
    elif not report.rows and not report.dead:
        parts.append("the table is empty")
    return "; ".join(parts + linked.odd_entries(report.dead, report.repeated))


def _counts(rows: Sequence[Row]) -> list[str]:
    """How many sites there are, how many have an entry, and how many entries name no site."""
    states = Counter(row.state for row in rows)
    recorded = sum(row.recorded for row in rows if row.state is not State.FOREIGN)
    number = states[State.CALL] + states[State.NOP]
    each = ", ".join(f"{states[it]} {it}" for it in (State.CALL, State.NOP) if states[it])
    sites = f"{number} site{'s' * (number > 1)}: {each}" if number else "no sites"
    parts = [sites, f"{recorded} recorded"] if number else [sites]
    if states[State.FOREIGN]:
        parts.append(f"{states[State.FOREIGN]} foreign")
    return parts


# --- reports -> JSON ------------------------------------------------------------------------------


def as_json(reports: Iterable[FileReport], errors: Iterable[RecordError]) -> str:
    """The JSON form, as `report.schema.json` has it."""
    document = {
        "version": JSON_VERSION,
        "files": [_json_file(report) for report in reports],
        "errors": [{"path": error.path, "message": str(error)} for error in errors],
    }
    return json.dumps(document, indent=2)


def _json_file(report: FileReport) -> dict[str, object]:
    return {
        "path": report.path,
        "type": report.type,
        "bits": report.bits,
        "machine": report.machine,
        "has_table": report.has_table,
        "dead_entries": report.dead,
        "repeated_entries": report.repeated,
        "sites": [_json_site(report.position, row) for row in report.rows],
    }


def _json_site(position: str, row: Row) -> dict[str, object]:
    return {
        "function": row.function,
        "function_offset": None if row.function is None else row.function_offset,
        "section": row.section,
        position: row.position,
        "kind": row.kind or None,
        "bytes": row.code.hex(),
        "state": row.state,
        "recorded": row.recorded,
        "reason": row.reason or None,
    }
