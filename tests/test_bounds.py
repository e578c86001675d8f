"""What a small file may cost at most, whatever it says: memory and words in proportion to its size.

The files are those of tests/support/worst_inputs.py, and each multiplies two things. Whatever takes
more than linear time on one of them is ended by the limit on its processor time.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import pytest

from tests.support import worst_inputs
from tests.support.command import INSTALLED, ROOT, run
from tests.support.elf_builder import STT_FUNC, X86_64, Symbol, build
from tests.support.objects import caller, text

MIB = 1 << 20
# Times the size of the file, and so much more; as recordmcount.elf.object has it.
TIMES = 10
MORE_MEMORY, MORE_WORDS = 64 * MIB, 1 << 16
# Seconds of processor time: these files take less than one, and what is quadratic takes minutes.
PATIENCE = 20

# Run from a small process: the system counts in what the one had that a process was forked from.
MEASURE = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_CPU, (int(sys.argv[1]),) * 2)
to_stdout = [(os.POSIX_SPAWN_DUP2, int(sys.argv[2]), 1)]
child = os.posix_spawn(sys.argv[3], sys.argv[3:], os.environ, file_actions=to_stdout)
_, status, used = os.wait4(child, 0)
print(os.waitstatus_to_exitcode(status), used.ru_maxrss)
"""

CASES = [
    pytest.param(words, made, id=f"{' '.join(words)}-{made.__name__}")
    for words, made in worst_inputs.commands()
]


@lru_cache(maxsize=4)  # one comes after the other, with each of its commands
def contents(made: Callable[[], bytes]) -> bytes:
    return made()


@pytest.mark.slow
@pytest.mark.parametrize(("words", "made"), CASES)
def test_a_file_costs_no_more_than_in_proportion_to_its_size(
    words: list[str], made: Callable[[], bytes], tmp_path: Path
) -> None:
    path, out, err = tmp_path / "x.o", tmp_path / "out", tmp_path / "err"
    path.write_bytes(contents(made))
    size = path.stat().st_size
    with out.open("wb") as stdout, err.open("wb") as stderr:
        measured = [sys.executable, "-I", "-S", "-c", MEASURE, str(PATIENCE), str(stdout.fileno())]
        told = subprocess.run(
            [*measured, sys.executable, "-S", "-m", *words, str(path)],
            cwd=ROOT, check=True, stdout=subprocess.PIPE, stderr=stderr,
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{INSTALLED}"},
            pass_fds=[stdout.fileno()],
        ).stdout.split()  # fmt: skip
    status, memory = map(int, told)
    assert status in (0, 1)
    assert b"Traceback" not in err.read_bytes()
    assert out.stat().st_size + err.stat().st_size <= TIMES * size + MORE_WORDS
    assert memory * 1024 <= TIMES * size + MORE_MEMORY


def test_a_list_without_end_is_none(tmp_path: Path) -> None:
    path = caller().write(tmp_path / "x.o")
    status, stdout, stderr = run("recordmcount", path, "@/dev/zero")
    assert (status, stdout) == (1, "")
    assert stderr == f"/dev/zero: no list of files: more than {1 << 26} bytes\n"
    assert path.read_bytes() == caller().data


def test_what_is_too_much_to_tell_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.o"
    path.write_bytes(worst_inputs.a_long_function_name_and_many_sites())
    done = run("recordmcount", "report", path)
    assert done == (1, "", f"{path}: more than 10 times its size would be told of it\n")


def test_a_sound_file_of_long_names_and_many_sites_is_told_of(tmp_path: Path) -> None:
    """Long names that are each told once are no reason to refuse a file."""
    names = [f"{'name_' * 60}{number}" for number in range(300)]
    symbols = [
        Symbol(name, ".text", value=6 * number, size=6, type=STT_FUNC)
        for number, name in enumerate(names)
    ]
    path = build(X86_64, [text(calls=300)], [*symbols, Symbol("__fentry__")]).write(
        tmp_path / "x.o"
    )
    for words in (["report"], ["report", "--json"], ["-n"]):
        done = run("recordmcount", *words, path)
        assert (done.status, done.stderr) == (0, "")
