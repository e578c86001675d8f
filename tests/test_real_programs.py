"""Programs that nobody here wrote do what they did, while their sites are switched all the time."""

import functools
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from patcher.process.mending import CarryOut
from patcher.process.switch import by_breakpoints, in_a_halt
from tests.support import real_programs
from tests.support.command import ROOT
from tests.support.linked import Image
from tests.support.real_programs import (
    alone,
    compression,
    count,
    decompression,
    script,
    switched,
    traced,
)

pytestmark = [pytest.mark.matrix, pytest.mark.xdist_group("real programs")]

CALL = re.compile(r"^ *([0-9a-f]+):\t.*\bcall +[0-9a-f]+ <__fentry__>$", re.MULTILINE)
each_program = pytest.mark.parametrize("name", real_programs.BUILD)
# How sites are switched, and how often; with breakpoints it takes longer.
each_method = pytest.mark.parametrize(
    ("how", "times"), [(in_a_halt, 200), (by_breakpoints, 50)], ids=["halts", "breakpoints"]
)

Built = Callable[[str], Path]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A function: the name of a program -> the program, which is built once."""
    folder = tmp_path_factory.mktemp("programs")
    return functools.cache(lambda name: real_programs.BUILD[name](folder / name))


def unlike(result: bytes, wanted: bytes) -> str:
    """Where two results differ, which are too long to be shown; empty if they do not."""
    if result == wanted:
        return ""
    both = enumerate(zip(result, wanted, strict=False))
    first = next((at for at, (one, other) in both if one != other), "none")
    return f"{len(result)} bytes, not {len(wanted)}; the first that is another: {first}"


# --- what is built --------------------------------------------------------------------------------


@each_program
def test_every_call_is_recorded(name: str, built: Built) -> None:
    program = built(name)
    words: list[str | Path] = ["objdump", "-d", "--no-show-raw-insn", program]
    code = subprocess.run(words, capture_output=True, check=True, text=True).stdout
    calls = [int(address, 16) for address in CALL.findall(code)]
    assert sorted(Image(program).table) == calls
    assert len(calls) > 500


# --- switched while they run ----------------------------------------------------------------------


@each_method
def test_a_long_script_gives_what_it_gives_alone(
    how: CarryOut, times: int, built: Built, tmp_path: Path
) -> None:
    job = script(built("lua"), times)
    result, calls = switched(job, tmp_path, how)
    wanted, all_calls = alone(job)
    assert not unlike(result, wanted)
    assert len(result.splitlines()) == 12 * times
    assert 0 < calls < all_calls


@each_method
def test_a_long_compression_in_threads_gives_what_it_gives_alone_and_so_does_the_way_back(
    how: CarryOut, times: int, built: Built, tmp_path: Path
) -> None:
    job = compression(built("zstd"), times)
    result, calls = switched(job, tmp_path, how)
    wanted, all_calls = alone(job)
    assert not unlike(result, wanted)
    assert 0 < calls < all_calls
    back, calls = switched(decompression(built("zstd"), result), tmp_path, how)
    assert not unlike(back, b"".join(job.given))
    assert calls


# --- traced while they run ------------------------------------------------------------------------


def test_a_long_script_that_is_traced_and_counted_gives_what_it_gives_alone(
    built: Built, tmp_path: Path
) -> None:
    job = script(built("lua"), 24)
    result, seen = traced(job, tmp_path)
    assert not unlike(result, alone(job)[0])
    assert seen


def test_a_long_compression_that_is_traced_and_counted_gives_what_it_gives_alone(
    built: Built, tmp_path: Path
) -> None:
    job = compression(built("zstd"), 24)
    result, seen = traced(job, tmp_path)
    assert not unlike(result, alone(job)[0])
    assert seen


# --- started with their sites off -----------------------------------------------------------------


@each_program
def test_started_by_patcher_they_do_the_same_without_a_call(
    name: str, built: Built, tmp_path: Path
) -> None:
    job = {"lua": script, "zstd": compression}[name](built(name), 30)
    wanted, calls = alone(job)
    run = [sys.executable, "-m", "patcher", "run", "--", *job.words]
    given = b"".join(job.given)
    done = subprocess.run(run, cwd=ROOT, input=given, capture_output=True, check=True)
    assert not unlike(done.stdout, wanted)
    assert calls
    assert count(done.stderr) == 0
