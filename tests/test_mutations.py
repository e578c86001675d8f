"""Objects cut short or changed anywhere: refused in one line, or recorded with nothing lost.

Some 40,000 of them: every length, every byte, every header field with every edge value, and many
fields at once. The command runs with little memory; the sizes of the files are a few KiB.
"""

import random
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from struct import Struct

import pytest

from recordmcount.asked import Options
from recordmcount.record.file import record
from tests.support.command import RECORDMCOUNT
from tests.support.elf_builder import SHT_GROUP, SHT_REL, SHT_RELA, SHT_SYMTAB_SHNDX, Elf
from tests.support.second_opinion import View, check_recorded, check_recorded_archive
from tests.support.specimens import ELVES, SHT_LLVM_ADDRSIG, archive

pytestmark = pytest.mark.slow

MEMORY = 64 << 20  # bytes, the interpreter included, besides ten times the file
CPU_SECONDS = 20  # for a thousand small files or a large one: far beyond it is a hang

BUILT = {name: make() for name, make in ELVES.items()}
FILES = {name: elf.data for name, elf in BUILT.items()} | {"archive": archive()}

each_file = pytest.mark.parametrize("sound", FILES.values(), ids=FILES)
each_elf = pytest.mark.parametrize("elf", BUILT.values(), ids=BUILT)


def record_all(folder: Path, files: Iterable[bytes]) -> None:
    """Record `files` in one run of the command and check what became of each."""
    paths = []
    contents = []
    for number, content in enumerate(files):
        paths.append(folder / f"{number}.o")
        contents.append(content)
        paths[-1].write_bytes(content)
    listed = folder / "list"
    listed.write_text("".join(f"{path}\n" for path in paths))
    memory = MEMORY + 10 * max(map(len, contents))
    limits = ["prlimit", f"--as={memory}", f"--cpu={CPU_SECONDS}"]
    done = subprocess.run(
        [*limits, *RECORDMCOUNT, "-j1", f"@{listed}"],
        check=False,
        capture_output=True,
        text=True,
        errors="backslashreplace",
    )
    _, traceback, crash = done.stderr.partition("Traceback")
    assert not traceback, "\n".join(crash.splitlines()[-8:])
    assert done.returncode in (0, 1), done.returncode
    assert done.stdout == ""
    said: dict[Path, list[str]] = defaultdict(list)
    for line in done.stderr.splitlines():
        about = re.findall(re.escape(str(folder)) + r"/\d+\.o", line)
        assert len(about) == 1, f"about which file? {line}"
        said[Path(about[0])].append(line)
    for path, content in zip(paths, contents, strict=True):
        check(path, content, said[path])
    assert done.returncode == any(f"{path}: failed" in said[path] for path in paths)


def check(path: Path, old: bytes, lines: list[str]) -> None:
    """Whether a file that was `old` is untouched or recorded, and rightly so."""
    new = path.read_bytes()
    lines = [line for line in lines if ": warning: " not in line]
    if lines and lines[-1] == f"{path}: failed":
        # With what it is and what to do, behind the words of the kernel's tool.
        assert len(lines) == 2 or (len(lines) == 3 and lines[1].startswith(f"{path}: ")), lines
        assert new == old, f"changed, although: {lines}"
    elif new != old:
        assert lines == []
        (check_recorded_archive if old.startswith(b"!<arch>") else check_recorded)(old, new)
    elif lines:
        assert lines == [f"warning: __mcount_loc already exists: {path}"]
    elif old.startswith(b"\x7fELF"):
        assert not View(old).calls(), "calls were lost without a word"


@each_file
def test_sound_ones_are_recorded(sound: bytes, tmp_path: Path) -> None:
    """As a test of the tests: without a mutation nothing is refused."""
    record_all(tmp_path, [sound])
    assert (tmp_path / "0.o").read_bytes() != sound


@each_file
def test_cut_short_at_any_byte(sound: bytes, tmp_path: Path) -> None:
    record_all(tmp_path, (sound[:size] for size in range(len(sound))))


@each_file
def test_any_byte_changed(sound: bytes, tmp_path: Path) -> None:
    chance = random.Random(len(sound))

    def changed() -> Iterator[bytes]:
        for at in range(len(sound)):
            mutant = bytearray(sound)
            mutant[at] ^= chance.randrange(1, 256)
            yield bytes(mutant)

    record_all(tmp_path, changed())


@each_elf
def test_any_header_field_at_any_edge(elf: Elf, tmp_path: Path) -> None:
    def changed() -> Iterator[bytes]:
        for field in elf.fields():
            for value in edges(elf, field):
                yield elf.patch(field, value)

    record_all(tmp_path, changed())


def edges(elf: Elf, field: str) -> list[int]:
    """Other values for a field: the smallest, the greatest, its neighbours, the file's bounds."""
    value, bits = elf.value(field), 8 * elf.locate(field).size
    file = len(elf.data)
    tried = (0, 1, value - 1, value + 1, file - 1, file, file + 1, 1 << (bits - 1), (1 << bits) - 1)
    return sorted({other for other in tried if 0 <= other < 1 << bits} - {value})


def test_many_header_fields_changed(tmp_path: Path) -> None:
    chance, path = random.Random(0), tmp_path / "mutant.o"
    fields = {name: list(elf.fields()) for name, elf in BUILT.items()}
    for _ in range(2000):
        name, elf = chance.choice(list(BUILT.items()))
        values = {}
        for field in chance.choices(fields[name], k=chance.randint(2, 6)):
            anything = chance.getrandbits(8 * elf.locate(field).size)
            values[field] = chance.choice((chance.choice(edges(elf, field)), anything))
        path.write_bytes(mutant := elf.patch_all(values))
        options = Options(gc_sections=chance.random() < 0.5, pic=chance.random() < 0.5)
        check(path, mutant, record(str(path), options).err)


@pytest.mark.parametrize("kind", [SHT_GROUP, SHT_REL, SHT_RELA, SHT_SYMTAB_SHNDX, SHT_LLVM_ADDRSIG])
@pytest.mark.parametrize("name", ["comdat", "no-base-symbol"])
def test_contents_that_many_sections_share_are_not_read_many_times(
    name: str, kind: int, tmp_path: Path
) -> None:
    """Where headers are cheap and what they cover is large, work must not be their product."""
    elf = BUILT[name]
    size, copies = 24 * 20_000, 2_000
    at, count = elf.value("e_shoff"), elf.value("e_shnum")
    headers = elf.data[at : at + 64 * count]
    shared = Struct("<IIQQQQIIQQ").pack(
        0, kind, 0, 0, len(elf.data), size, elf.section_index(".symtab"), 0, 8, 24
    )
    moved = elf.patch_all({"e_shoff": len(elf.data) + size, "e_shnum": count + copies})
    record_all(tmp_path, [moved + bytes(size) + headers + shared * copies])
