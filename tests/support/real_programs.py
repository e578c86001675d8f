"""Programs that nobody here wrote, built by their own Makefiles: Lua and Zstandard.

Instrumented, every object is recorded when it is compiled, and at their end the programs say on
standard error how many calls of __fentry__ they made. What gcc makes is kept by ccache.
"""

import os
import random
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from patcher.process.mending import CarryOut
from patcher.process.target import Target
from recordmcount.sites.state import State
from tests.support import building, images, live, storm
from tests.support.command import RECORDMCOUNT, ROOT
from tests.support.linked import Image
from tests.support.texts import check, texts
from tests.support.traced import memory, tracing

SOURCES = ROOT / ".cache" / "sources"  # tools/sources says what is in there
INSTRUMENTED = "-pg -mfentry"
COUNTER = """
#include <stdio.h>
static volatile unsigned long calls __attribute__((used));
__attribute__((naked)) void __fentry__(void) { __asm__("lock incq calls(%rip); ret"); }
__attribute__((destructor)) static void tell(void) { fprintf(stderr, "%lu calls\\n", calls); }
"""
CALLS = re.compile(rb"(\d+) calls\n")
TRACED_DATA = 1 << 14  # bytes of a ring: most events are lost, and reading takes no time
SCRIPT = ROOT / "fixtures" / "programs" / "rounds.lua"


# --- building -------------------------------------------------------------------------------------


def lua(folder: Path, flags: str = INSTRUMENTED) -> Path:
    """Build Lua's interpreter, with gcc's `flags` besides -O2, in the new `folder`."""
    counter = _copy("lua", folder)
    words = [f"MYCFLAGS=-DLUA_USE_POSIX {flags}", f"MYLIBS={counter}", "lua"]
    _make(folder / "src", flags, *words)
    return folder / "src" / "lua"


def zstd(folder: Path, flags: str = INSTRUMENTED) -> Path:
    """Build zstd, which compresses in threads, with gcc's `flags` besides -O2."""
    counter = _copy("zstd", folder)
    # Other formats are known to it if their libraries are installed.
    alone = ["HAVE_ZLIB=0", "HAVE_LZMA=0", "HAVE_LZ4=0"]
    _make(folder / "programs", flags, f"CFLAGS=-O2 {flags}", f"LDFLAGS={counter}", *alone, "zstd")
    return folder / "programs" / "zstd"


def _copy(name: str, folder: Path) -> Path:
    """Copy the sources into `folder`; returns an object that counts calls."""
    source = SOURCES / "upstream" / name
    if not source.is_dir():
        pytest.fail(f"{source} is missing: run tools/sources")
    shutil.copytree(source, folder)
    return images.compile_object(folder, "counter", COUNTER, "gcc", "-O2")


def _make(folder: Path, flags: str, *words: str) -> None:
    launcher = f"{building.GLUE}/compile-and-record " if flags == INSTRUMENTED else ""
    jobs = len(os.sched_getaffinity(0))
    building.run(
        "make", "-s", f"-j{jobs}", f"CC={launcher}ccache gcc", *words, cwd=folder,
        CCACHE_DIR=str(SOURCES / "ccache"), RECORDMCOUNT=shlex.join(RECORDMCOUNT),
    )  # fmt: skip


BUILD = {"lua": lua, "zstd": zstd}


# --- running --------------------------------------------------------------------------------------


class Job(NamedTuple):
    """The words of a command, and the pieces that it is given on its standard input."""

    words: Sequence[str | Path]
    given: Sequence[bytes]


def script(lua: Path, count: int) -> Job:
    """A long script, in so many pieces."""
    return Job((lua, SCRIPT), [b"\n" * 12] * count)


def compression(zstd: Path, count: int) -> Job:
    """The compression of so many pieces of text in two threads, each of a megabyte at once."""
    return Job((zstd, "-q", "-6", "-T2", "-B1MiB", "-c"), list(text(count)))


def decompression(zstd: Path, content: bytes) -> Job:
    """The way back, in pieces that are larger than a pipe."""
    size = 1 << 17
    pieces = [content[start : start + size] for start in range(0, len(content), size)]
    return Job((zstd, "-q", "-d", "-c"), pieces)


def text(count: int) -> Iterator[bytes]:
    """Pieces of a text of which no part is like another, and that can be compressed."""
    seeds = random.Random(2012)
    words = [seeds.randbytes(seeds.randrange(2, 9)) for _ in range(4096)]
    for _ in range(count):
        yield b" ".join(seeds.choices(words, k=1 << 15))


def alone(job: Job) -> tuple[bytes, int]:
    """What the program says if nobody touches it, and how many calls it makes."""
    given = b"".join(job.given)
    done = subprocess.run(job.words, input=given, capture_output=True, check=True)
    return done.stdout, count(done.stderr)


def switched(job: Job, folder: Path, how: CarryOut) -> tuple[bytes, int]:
    """What it says, and how many calls it makes, if all sites are switched between all pieces.

    At last, while it runs, all text of the process is compared with its files.
    """
    program = Path(job.words[0])
    sites = len(Image(program).table)
    out, pipe = folder / "out", subprocess.PIPE
    with (
        out.open("wb") as stream,
        subprocess.Popen(job.words, stdin=pipe, stdout=stream, stderr=pipe) as process,
    ):
        assert process.stdin
        for number, piece in enumerate(job.given):
            process.stdin.write(piece)
            process.stdin.flush()
            state = (State.NOP, State.CALL)[number % 2]
            assert storm.toggle(process.pid, state, how) == sites
        _switch_by_command(process.pid, program, sites)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    return out.read_bytes(), count(said)


def traced(job: Job, folder: Path) -> tuple[bytes, int]:
    """What it says, and how many events and counts there were, if it is traced between all pieces.

    All sites are NOPs before. At last the process must have what it had, but for the pages that
    stay, of which there are no more than after the first trace.
    """
    out, pipe, seen = folder / "out", subprocess.PIPE, 0
    with (
        out.open("wb") as stream,
        subprocess.Popen(job.words, stdin=pipe, stdout=stream, stderr=pipe) as process,
    ):
        assert process.stdin
        storm.toggle(process.pid, State.NOP)
        before, regions = memory(process.pid), set()
        for number, piece in enumerate(job.given):
            with tracing(process.pid, counts=number % 2 == 1, data=TRACED_DATA) as trace:
                process.stdin.write(piece)
                process.stdin.flush()
                trace.end()
                seen += sum(trace.counts().values()) if number % 2 else trace.read(is_last=True)
            if number % 20 < 2:
                after = memory(process.pid)
                assert (after.text, after.descriptors) == (before.text, before.descriptors)
                assert not [each for each in after.mappings if "patcher" in each]
                regions.add(tuple(after.regions))
        assert [len(each) for each in regions] == [1]
        storm.toggle(process.pid, State.CALL)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    return out.read_bytes(), seen


def _switch_by_command(pid: int, program: Path, sites: int) -> None:
    known = texts([program])
    live.patch("call", pid)
    for verb in ("nop", "call", "nop", "call"):
        said = live.patch(verb, pid)
        assert said == f"{program}: {sites} sites turned to {verb}, 0 already\n"
        with Target(pid, 30) as target:
            assert check(target, known) == {str(program): State(verb)}


def count(said: bytes) -> int:
    """How many calls of __fentry__ a program says that it made; it must say nothing else."""
    found = CALLS.fullmatch(said)
    assert found, said
    return int(found[1])
