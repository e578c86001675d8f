"""What can be wrong with a table: one rule for each kind of finding, and what to do about it.

The ids are for scripts, and stay. Whoever adds a rule adds it to verify.schema.json, too.
"""

from __future__ import annotations

from typing import NamedTuple

_AGAIN = (
    "remove the table with `objcopy -R __mcount_loc`, and record the object again with recordmcount"
)
_AGAIN_FIRST = f"{_AGAIN[0].upper()}{_AGAIN[1:]}"
_OBJECTS = "record its objects again with recordmcount, and link them"


class Rule(NamedTuple):
    """A kind of finding: its id, what is wrong in general, and how it is mended."""

    id: str
    what: str
    fix: str


ENTRY_OFF = Rule(
    "entry-off",
    "an entry names a place some bytes off a site's first",
    f"Of an object: {_AGAIN}. Of a linked file: {_OBJECTS}. The kernel's C tool and "
    "recordmcount.pl write such entries for PIC calls and those of the large code model: there the "
    "relocation is more than one byte into the instruction.",
)
NO_SITE = Rule(
    "no-site",
    "an entry names what is neither a call of mcount nor a NOP in place of one",
    f"Find out who wrote over the site, or build the file again. Of an object: {_AGAIN}. If the "
    "function that is called there is this program's mcount, say --symbol NAME.",
)
NOP_WITH_RELOCATION = Rule(
    "nop-with-relocation",
    "a NOP stands at an entry, and the relocation of a call is still there: who applies it writes "
    "over the NOP",
    "Build the object again, and turn its calls off with `patcher nop`, which changes both.",
)
MISSING_ENTRY = Rule(
    "missing-entry",
    "a site has no entry",
    f"Of an object: {_AGAIN}. Of a linked file: {_OBJECTS}; all that are linked, libraries too. "
    "Where the linker collects sections (--gc-sections), `recordmcount --gc-sections` keeps "
    "entries with their code.",
)
CALL_LEFT = Rule(
    "call-left",
    "a call that is not to be recorded was not turned into a NOP: nobody can turn it off",
    f"Of an object: {_AGAIN}, which turns it into a NOP; --all-sections gives it an entry where no "
    "kernel's rules count. The kernel's C tool leaves PIC calls and those of i386, and "
    "recordmcount.pl all.",
)
NO_TABLE = Rule(
    "no-table",
    "there are calls of mcount, and no table",
    "Of an object: record it with recordmcount. Of a linked file: record its objects before the "
    "link, or the file itself with `recordmcount --image`.",
)
REPEATED_ENTRY = Rule(
    "repeated-entry",
    "several entries name one place",
    f"See that no object is linked, or recorded by two tools, twice. Of an object: {_AGAIN}.",
)
OVERRIDDEN_FUNCTION = Rule(
    "overridden-function",
    "an entry names a site in code that no symbol names any more, as that of a weak function that "
    "another definition overrides",
    "The code is dead, and so is the entry. Compile the weak definition with -ffunction-sections, "
    "record its object with `recordmcount --gc-sections`, and link with --gc-sections (GNU "
    "ld: and -z start-stop-gc): both go.",
)
UNTRACED_SECTION = Rule(
    "untraced-section",
    "an entry names code in a section that a kernel discards, or where its tracer must not be",
    f"{_AGAIN_FIRST}, which turns such calls into NOPs. --all-sections says that the object "
    "is not under a kernel's rules.",
)
NOT_CODE = Rule(
    "not-code",
    "an entry names a place that is not in the code",
    f"Of an object: {_AGAIN}. Of a linked file: {_OBJECTS}.",
)
NOT_RELOCATED = Rule(
    "not-relocated",
    "a word of the table is no address, or nothing makes it one when the file is loaded",
    f"Of an object: {_AGAIN}. Of a linked file: record its objects with --pic, and link them "
    "again.",
)
GROUP = Rule(
    "group",
    "entries name code in a section group, and their table is not of the group: where two objects "
    "share the code, they do not link",
    f"{_AGAIN_FIRST}, which puts the table into the group.",
)
TABLE_SIZE = Rule(
    "table-size",
    "the table ends inside of an entry",
    "See who cut it, or joined it from 32-bit and 64-bit objects, and build the file again.",
)
TABLE_ALIGNMENT = Rule(
    "table-alignment",
    "the entries are not aligned to their size",
    f"Align the table in the linker script, or {_OBJECTS}: gcc's own -mrecord-mcount does not "
    "align its tables.",
)

RULES = (
    ENTRY_OFF, NO_SITE, NOP_WITH_RELOCATION, MISSING_ENTRY, CALL_LEFT, NO_TABLE, REPEATED_ENTRY,
    OVERRIDDEN_FUNCTION, UNTRACED_SECTION, NOT_CODE, NOT_RELOCATED, GROUP, TABLE_SIZE,
    TABLE_ALIGNMENT,
)  # fmt: skip
BY_ID = {rule.id: rule for rule in RULES}
