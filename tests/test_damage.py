"""Files damaged anywhere: a verb answers in words, or in one line, within bounds.

20,000 of them are tried by `MUTANTS=20000 python -m pytest tests/test_damage.py`; without that
variable it is a sample. Every verb is run as people run it, its output included. What is damaged is
debug information, plain and compressed, unwind entries, ways to mcount, tables, objects, the
symbols that a kernel carries for itself, and containers.
"""

import os
import random
import resource
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from elftools.elf.elffile import ELFFile

from recordmcount.cli import main
from tests.support import images, kernel
from tests.support.command import ROOT, redirected, run
from tests.support.compressed import COMPRESSORS

COUNT = int(os.environ.get("MUTANTS", "1500"))  # of all files together
SECONDS = 10  # of processor time for a mutant: sound files of these sizes take a twentieth
MEMORY = 1 << 30  # bytes of address space beyond what the interpreter has
TIMES, MORE = 60, 1 << 16  # characters that may be told of a file; HTML and CSV repeat names

DEBUG = (
    ".debug_info", ".debug_abbrev", ".debug_line", ".debug_str", ".debug_line_str", ".debug_addr",
    ".debug_ranges", ".debug_rnglists", ".debug_str_offsets", ".gnu_debuglink",
    ".rela.debug_info", ".rela.debug_line",
)  # fmt: skip
WAYS = (
    ".plt", ".plt.sec", ".plt.got", ".got", ".got.plt", ".eh_frame", ".eh_frame_hdr", ".dynamic",
    ".dynsym", ".rela.dyn", ".rela.plt", ".rel.dyn", ".rel.plt", ".symtab", ".strtab", ".text",
    "__mcount_loc", ".rela__mcount_loc",
)  # fmt: skip
OF_OBJECT = (".symtab", ".strtab", ".text", ".rela.text", "__mcount_loc", ".rela__mcount_loc")

# Beside a mutant there are the sound file, and the mutant before it.
SOUND, BEFORE = "sound", "before"


class Ask(NamedTuple):
    """What is asked of a mutant: the words of a command, and which file is `beside` it, if any."""

    words: tuple[str, ...]
    beside: str = ""


TOLD = Ask(("report", "--lines", "--untraceable"))
VERBS = (
    TOLD,
    *(Ask((*TOLD.words, "--format", how)) for how in ("json", "html", "csv")),
)
READING = ("report", "verify", "diff")
POST_LINK = tuple(
    Ask(("--image", *more)) for more in (("-n",), ("--alloc", "-n"), (), ("--alloc",))
)
COMPARED = (
    *(Ask(("verify", "--format", how)) for how in ("text", "json", "sarif", "github")),
    *(Ask(("diff", *how), beside) for beside in (SOUND, BEFORE) for how in ((), ("--json",))),
    Ask(("report", "--unrecorded")),
)


class Specimen(NamedTuple):
    """A sound file: where it is damaged, what is asked of it, and what becomes of the damaged."""

    path: Path
    parts: tuple[str, ...]
    asked: tuple[Ask, ...]
    finish: Callable[[bytes], bytes] = bytes


def compiled(folder: Path, *options: str, compiler: str = "gcc", record: bool = False) -> Path:
    link = ["-shared"] if "-fPIC" in options else ["-pie"] if "-fpie" in options else ["-no-pie"]
    built = images.build(folder, compiler=compiler, flags=["-O2", *options], link=link)
    if not record:  # as one that was linked before anybody thought of a table
        images.tool("objcopy", "-R", "__mcount_loc", built.image)
    return built.image


def recompressed(folder: Path, how: str) -> Path:
    path = compiled(folder, "-g", "-fpie")
    images.tool("objcopy", f"--compress-debug-sections={how}", path)
    return path


def an_object(folder: Path) -> Path:
    return images.compile_object(folder, "x", images.WORK, "gcc", "-O2", "-pg", "-mfentry", "-g")


def a_recorded(folder: Path) -> Path:
    path = an_object(folder)
    assert run("recordmcount", path) == (0, "", "")
    return path


def a_kernel(folder: Path) -> Path:
    """A kernel as it is in an image: without a symbol table of its own."""
    path = kernel.vmlinux(folder, kernel.X86_64, kernel.ORDERS["6.1"])
    images.tool("strip", path)
    return path


LINKED: dict[str, Callable[[Path], Path]] = {
    "gcc": lambda folder: compiled(folder, "-g", "-gdwarf-5", "-fpie"),
    "gcc-4": lambda folder: compiled(folder, "-g", "-gdwarf-4", "-fno-pic", "-ffunction-sections"),
    "library": lambda folder: compiled(folder, "-g", "-fPIC"),
    "zlib": lambda folder: recompressed(folder, "zlib"),
}


def specimens() -> dict[str, Callable[[Path], Specimen]]:
    """Makers of specimens, by what they are."""

    def debug(make: Callable[[Path], Path], parts: tuple[str, ...]) -> Callable[[Path], Specimen]:
        return lambda folder: Specimen(make(folder), parts, (*VERBS, *COMPARED))

    def ways(make: Callable[[Path], Path]) -> Callable[[Path], Specimen]:
        return lambda folder: Specimen(make(folder), WAYS, (*POST_LINK, TOLD, *COMPARED))

    made = {f"debug-{name}": debug(make, DEBUG) for name, make in LINKED.items()}
    made["debug-object"] = debug(an_object, (*DEBUG, ".symtab"))
    made |= {f"ways-{name}": ways(make) for name, make in LINKED.items() if name != "zlib"}
    made["table-object"] = lambda folder: Specimen(a_recorded(folder), OF_OBJECT, COMPARED)
    made["table-headers"] = lambda folder: Specimen(a_recorded(folder), (), COMPARED)
    for name in ("-fno-pic", "-fpie", "-fPIC"):
        made[f"table{name}"] = lambda folder, name=name: Specimen(  # type: ignore[misc]
            compiled(folder, name, record=True), WAYS, COMPARED
        )
    told = (TOLD, *COMPARED)
    made["kernel"] = lambda folder: Specimen(a_kernel(folder), (".rodata", ".data"), told)
    for name, compress in COMPRESSORS.items():
        made[f"kernel-{name}"] = lambda folder, compress=compress: Specimen(  # type: ignore[misc]
            a_kernel(folder), (), told, lambda data: kernel.bzimage(compress(data))
        )
        made[f"object-{name}"] = lambda folder, compress=compress: Specimen(  # type: ignore[misc]
            a_recorded(folder), (), told, compress
        )
    return made


SPECIMENS = specimens()


def damaged(specimen: Specimen, chance: random.Random) -> Iterator[bytes]:
    """Give files without end in which some bytes are others; of one in five the end is missing."""
    sound = specimen.path.read_bytes()
    places = list(ranges(specimen.path, specimen.parts)) if specimen.parts else []
    whole = sound if places else specimen.finish(sound)
    while True:
        mutant = bytearray(whole)
        for _ in range(chance.choice((1, 1, 2, 4))):
            # Headers, and what is decoded first, are at the start.
            place = chance.choice(places or [range(len(whole)), range(min(256, len(whole)))])
            at = chance.choice((place[0] + min(chance.randrange(64), len(place) - 1),
                                chance.choice(place)))  # fmt: skip
            size = chance.choice((1, 1, 2, 4, 8))
            edge = chance.choice((0, 1, 0x7F, 1 << 8 * size - 1, (1 << 8 * size) - 1, len(whole),
                                  chance.randrange(1 << 8 * size)))  # fmt: skip
            mutant[at : at + size] = (edge & (1 << 8 * size) - 1).to_bytes(size, "little")
        del mutant[len(whole) :]
        if not places and not chance.randrange(5):
            del mutant[chance.randrange(len(mutant)) :]
        yield specimen.finish(bytes(mutant)) if places else bytes(mutant)


def ranges(path: Path, names: tuple[str, ...]) -> Iterator[range]:
    """The file offsets of sections, by pyelftools."""
    with path.open("rb") as stream:
        for section in ELFFile(stream).iter_sections():
            if section.name in names and section["sh_size"]:
                yield range(section["sh_offset"], section["sh_offset"] + section["sh_size"])


# --- in a process of its own ----------------------------------------------------------------------


def work(folder: Path, name: str, count: int) -> None:
    """Damage a specimen so often; prints what went wrong, and exits with status 1 then."""
    specimen = SPECIMENS[name](folder)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    signal.signal(signal.SIGVTALRM, too_slow)
    chance = random.Random(name)
    path = folder / "mutant"
    sound = specimen.finish(specimen.path.read_bytes())
    beside = {SOUND: sound, BEFORE: sound}
    for number, mutant in zip(range(count), damaged(specimen, chance), strict=False):
        path.write_bytes(mutant)
        asked = specimen.asked[number % len(specimen.asked)]
        try:
            run_one(path, asked, mutant, beside.get(asked.beside), specimen)
        except BaseException:  # noqa: BLE001 - also of the timer, and of exit()
            kept = folder.parent / f"{name}-{number}"
            kept.write_bytes(mutant)
            print(f"{kept} {asked}\n{traceback.format_exc()}", file=sys.__stderr__)
            if asked.beside == BEFORE:
                kept.with_name(f"{kept.name}-{BEFORE}").write_bytes(beside[BEFORE])
            sys.exit(1)
        beside[BEFORE] = mutant


def too_slow(_signal: int, _frame: object) -> None:
    raise AssertionError(f"more than {SECONDS} s of processor time")


def run_one(
    path: Path, asked: Ask, mutant: bytes, content: bytes | None, specimen: Specimen
) -> None:
    """Run a command as people do, and look at all that it says and leaves.

    `content` is that of the file beside the mutant, if there is one.
    """
    other = path.with_name(f"{path.name}-{asked.beside}")
    size = len(mutant) + len(content or b"")
    words = [*asked.words, *(["-j1"] if asked.words[0] == "--image" else [])]
    if content is not None:
        other.write_bytes(content)
        words.append(str(other))
    with path.with_name("out").open("w+b") as out, path.with_name("err").open("w+b") as err:
        with redirected(out.fileno(), err.fileno()):
            signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
            status = main([*words, str(path)])
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        said = path.with_name("err").read_text(errors="surrogateescape").splitlines()
        assert out.seek(0, os.SEEK_END) <= TIMES * size + MORE
    assert all(str(path) in line for line in said), said
    assert content is None or other.read_bytes() == content
    after = path.read_bytes()
    look(asked.words[0], status, said)
    if status or asked.words[0] in READING or "-n" in words:
        assert after == mutant
    else:
        written(mutant, after, specimen.path)


def look(verb: str, status: int, said: list[str]) -> None:
    """Look at how a verb ended, and how many lines it said on stderr: one for a file, if any."""
    assert status in ((0, 1, 2) if verb == "diff" else (0, 1))
    if verb == "diff":
        assert len(said) in ((1, 2) if status == 2 else (0,)), said
    elif verb == "verify":
        assert len(said) <= status, said
    elif verb == "report":
        assert len(said) == status, said
    else:
        assert len(said) <= 3, said


def written(before: bytes, after: bytes, sound: Path) -> None:
    """A post-link step changes headers, dynamic tags and symbols, and nothing else that was there.

    Where these are is told by the sound file, whose headers were not damaged.
    """
    with sound.open("rb") as stream:
        elf = ELFFile(stream)
        headers = min(each["sh_offset"] for each in elf.iter_sections() if each["sh_offset"])
    free = [range(headers)]  # of the file and of segments, and room behind them
    free += ranges(sound, (".dynamic", ".symtab", ".strtab"))
    old, new = bytearray(before), bytearray(after[: len(before)])
    for each in free:
        old[each.start : each.stop] = new[each.start : each.stop] = bytes(len(each))
    assert [at for at, byte in enumerate(old) if byte != new[at]] == []


# --- and in CI ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", SPECIMENS)
def test_whatever_is_damaged_there_is_an_answer_or_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    count = -(-COUNT // len(SPECIMENS))
    words = [sys.executable, "-m", "tests.test_damage", str(tmp_path / "work"), name, str(count)]
    done = subprocess.run(words, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


if __name__ == "__main__":
    work(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
