"""Verify files, and make some whose tables are wrong in one place."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema

from recordmcount.report.json import schema
from tests.support import images
from tests.support.command import ROOT, call
from tests.support.elf_builder import (
    I386,
    SHF_ALLOC,
    STB_LOCAL,
    STT_FUNC,
    X32,
    X86_64,
    Elf,
    Relocation,
    Section,
    Symbol,
    Target,
    build,
    section_symbol,
)
from tests.support.objects import text

SCHEMA = schema(ROOT / "recordmcount" / "verify" / "verify.schema.json")
WORD = {X86_64: 1, I386: 1, X32: 10}  # the relocation of a word: R_X86_64_64, R_386_32, ..._32


def verify(*words: str | Path) -> dict[str, Any]:
    """What `verify --json` tells, which must fit the schema and the exit status."""
    status, stdout, _ = call("recordmcount", "verify", "--json", *words)
    told = json.loads(stdout)
    jsonschema.validate(told, SCHEMA)
    found = [finding for file in told["files"] for finding in file["findings"]]
    assert status == (1 if found or told["errors"] else 0)
    assert {finding["rule"] for finding in found} == set(told["rules"])
    return told  # type: ignore[no-any-return]


def findings(path: Path, *words: str) -> list[tuple[str, str | None, int | None, str | None]]:
    """(rule, section, offset or address, function) of all that is wrong with one file."""
    told = verify(*words, path)
    assert told["errors"] == []
    (file,) = told["files"]
    return [
        (
            each["rule"], each["section"], each.get("offset", each.get("address")),
            each["function"],
        )
        for each in file["findings"]
    ]  # fmt: skip


def table(
    entries: Sequence[tuple[str | int, int]],
    target: Target = X86_64,
    *,
    kind: int | None = None,
    rest: bytes = b"",
    flags: int = SHF_ALLOC,
) -> Section:
    """A __mcount_loc of (symbol, addend) rows; `kind` is the type of their relocations."""
    word = 8 if target is X86_64 else 4
    kind = WORD[target] if kind is None else kind
    return Section(
        "__mcount_loc", flags=flags, data=bytes(word * len(entries)) + rest,
        relocations=[
            Relocation(word * number, kind, symbol, addend)
            for number, (symbol, addend) in enumerate(entries)
        ],
    )  # fmt: skip


def functions(
    *entries: tuple[str | int, int],
    section: str = ".text",
    more: Sequence[Section] = (),
    target: Target = X86_64,
    **of_table: object,
) -> Elf:
    """Three functions of 6 bytes that call first, f, g and h, and a table."""
    symbols = [
        section_symbol(section),
        *(section_symbol(one.name) for one in more),
        Symbol("f", section, 0, 6, type=STT_FUNC, bind=STB_LOCAL),
        *(Symbol(name, section, 6 * at, 6, type=STT_FUNC) for at, name in ((1, "g"), (2, "h"))),
        Symbol("__fentry__"),
    ]
    made = table(entries, target, **of_table)  # type: ignore[arg-type]
    return build(target, [text(section, 3), *more, made], symbols)


def entries(*offsets: int, section: str = ".text") -> list[tuple[str | int, int]]:
    return [(section, offset) for offset in offsets]


def linked(folder: Path, *link: str) -> Path:
    """A program of four functions that are recorded, with a table of absolute addresses."""
    return images.build(folder, link=("-no-pie", *link), own_counter=True).program


def words(path: Path) -> tuple[int, list[int]]:
    """(file offset of the table, its words) of such a program."""
    offset, _, size = images.section(path, "__mcount_loc")
    content = path.read_bytes()[offset : offset + size]
    return offset, [int.from_bytes(content[at : at + 8], "little") for at in range(0, size, 8)]


def with_words(path: Path, *new: int) -> Path:
    offset, _ = words(path)
    images.write(path, offset, b"".join(word.to_bytes(8, "little") for word in new))
    return path
