"""Linked files and objects with a damaged structure: an answer or one line, and no stray byte.

Unlike tests/test_mutations.py this is about what reads and switches files: section and program
headers, dynamic tables, relocations, symbols, section groups and tables, whose words are replaced
by what is at an edge.
"""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from patcher.errors import PatchError
from patcher.files import switch
from patcher.files.switchable import Switchable
from patcher.memory.elffile import ElfFile
from recordmcount.errors import Error
from recordmcount.report.examine import examine
from recordmcount.sites.state import State
from tests.support.images import build

COUNT = 100  # of mutants of each file
# Names and types of the sections of a part; of the first one the headers themselves.
PARTS = {
    "headers": (),
    "dynamic": ("SHT_DYNAMIC",),
    "relocations": ("SHT_RELA", "SHT_REL"),
    "symbols": ("SHT_SYMTAB", "SHT_DYNSYM"),
    "tables": ("__mcount_loc", ".got", ".got.plt", ".plt", ".group"),
    "frames": (".eh_frame", ".eh_frame_hdr"),
}


def ranges(path: Path, part: str) -> list[range]:
    """The file offsets of a part of the structure, by pyelftools."""
    with path.open("rb") as file:
        elf = ELFFile(file)
        if part == "headers":
            head = elf.header
            sections = head["e_shnum"] * head["e_shentsize"]
            segments = head["e_phnum"] * head["e_phentsize"]
            return [
                range(16, head["e_ehsize"]),
                range(head["e_phoff"], head["e_phoff"] + segments),
                range(head["e_shoff"], head["e_shoff"] + sections),
            ]
        return [
            range(each["sh_offset"], each["sh_offset"] + each["sh_size"])
            for each in elf.iter_sections()
            if {each.name, each["sh_type"]}.intersection(PARTS[part])
        ]


def mutants(path: Path, part: str) -> Iterator[bytes]:
    contents = path.read_bytes()
    chance = random.Random(part)
    places = [place for each in ranges(path, part) for place in each]
    for _ in range(COUNT if places else 0):
        mutant = bytearray(contents)
        for _ in range(chance.choice((1, 1, 2, 4))):
            at, size = chance.choice(places), chance.choice((1, 2, 4, 8))
            edge = chance.choice((0, 1, 1 << 8 * size - 1, (1 << 8 * size) - 1, len(contents),
                                  chance.randrange(1 << 8 * size)))  # fmt: skip
            mutant[at : at + size] = (edge & (1 << 8 * size) - 1).to_bytes(size, "little")
        yield bytes(mutant[: len(contents)])


def check(path: Path) -> None:
    """Read the file, and switch its sites if all of them can be; only they may change."""
    before = path.read_bytes()
    told = [*examine(str(path))]
    try:
        with ElfFile(str(path)) as file:
            table = switch.read(file, ())
            plan = switch.plan(str(path), table, range(len(table.sites)), State.NOP)
            sites = {at for number in range(len(table.sites)) for at in extent(table, number)}
            switch.switch(file, plan, None, dry_run=False)
    except (Error, PatchError):
        assert path.read_bytes() == before
        return
    assert told
    assert not isinstance(told[0], Error)
    after = path.read_bytes()
    assert len(after) == len(before)
    changed = {at for at, (old, new) in enumerate(zip(before, after, strict=True)) if old != new}
    if table.sites.in_object is False:
        assert changed <= sites


def extent(table: Switchable, number: int) -> range:
    """The file offsets of a site's bytes."""
    site = table.sites[number]
    return range(site.file_offset, site.file_offset + len(site.code))


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("kind", ["program", "library", "static", "i386", "object"])
def test_whatever_is_damaged_nothing_but_sites_is_written(
    kind: str, part: str, tmp_path: Path
) -> None:
    path = made(kind, tmp_path)
    for mutant in mutants(path, part):
        path.write_bytes(mutant)
        check(path)


def made(kind: str, folder: Path) -> Path:
    """A recorded file of a kind, whose sites can all be switched."""
    flags = {"i386": ("-m32", "-fno-pic"), "library": ("-fPIC",)}.get(kind, ("-fno-pic",))
    link = {"library": ("-shared",), "static": ("-static",), "i386": ("-m32", "-no-pie")}
    is_static = kind == "static"
    built = build(folder, flags=flags, link=link.get(kind, ("-no-pie",)), own_counter=is_static)
    return folder / "work.o" if kind == "object" else built.image
