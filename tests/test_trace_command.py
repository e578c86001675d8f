"""`patcher trace -- COMMAND`: traced from before its first constructor, and itself in all else."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support import command, images, live
from tests.support.command import ROOT, Finished
from tests.support.live import KINDS
from tests.support.processes import started

pytestmark = pytest.mark.process

# Says how many calls there were in all, those of its constructor too, by an own count.
COUNTS = """
QUIET static void add(void) { __asm__ volatile("" ::: "memory"); }
static unsigned long made;
int counted(int x);
__attribute__((noinline)) int counted(int x) { made++; return x + 1; }
QUIET __attribute__((constructor)) static void early(void) { counted(1); }
QUIET int main(int count, char **words) {
    add();
    for (int number = 0; number < 1000; number++) counted(number);
    if (count > 1 && words[1][0] == 's') raise(SIGTERM);
    if (count > 1 && words[1][0] == 'i') { char line[9]; puts(fgets(line, 9, stdin)); }
    printf("%lu\\n", made);
    return count > 1 ? atoi(words[1]) : 0;
}
"""


def traced(*words: str | Path, **variables: str) -> Finished:
    return command.run("patcher", "trace", *words, cwd=None, **variables)


def build(folder: Path, kind: str = "PIE") -> Path:
    flags, link = KINDS[kind]
    program = live.build(folder, COUNTS, flags=flags, link=link)
    assert command.run("patcher", "nop", "-q", program).status == 0
    return program


def count_of(function: str, told: str) -> int:
    (found,) = re.findall(rf"^ *(\d+)  {function}$", told, re.MULTILINE)
    return int(found)


@pytest.mark.parametrize("kind", ["PIE", "executable", "static", "static PIE"])
def test_no_call_is_missing_not_even_of_a_constructor(kind: str, tmp_path: Path) -> None:
    done = traced("--count", "--", build(tmp_path, kind))
    assert (done.status, done.stdout.splitlines()[0]) == (0, "1001")
    assert count_of("counted", done.stdout) == 1001


def test_without_restartable_sequences_none_is_missing_either(tmp_path: Path) -> None:
    done = traced("--count", "--", build(tmp_path), GLIBC_TUNABLES="glibc.pthread.rseq=0")
    assert count_of("counted", done.stdout) == 1001


WITHOUT_LIBRARY = """
#define QUIET __attribute__((no_instrument_function))
__attribute__((noinline)) int counted(int x) { __asm__ volatile(""); return x + 1; }
QUIET __attribute__((constructor)) static void early(void) { counted(1); }
QUIET int main(void) { for (int number = 0; number < 1000; number++) counted(number); return 0; }
QUIET __attribute__((naked)) void __fentry__(void) { __asm__("ret"); }
"""


@pytest.mark.parametrize("link", [["-static"], ["-pie"]])
def test_with_another_c_library_none_is_missing(link: Sequence[str], tmp_path: Path) -> None:
    path = tmp_path / "target.c"
    path.write_text(WITHOUT_LIBRARY)
    images.tool("musl-gcc", "-O1", "-fPIE", "-pg", "-mfentry", "-c", path, "-o", tmp_path / "x.o")
    assert command.run("recordmcount", tmp_path / "x.o").status == 0
    images.tool("musl-gcc", *link, tmp_path / "x.o", "-o", tmp_path / "x")
    done = traced("--count", "--functions", "counted", "--", tmp_path / "x")
    assert (done.status, count_of("counted", done.stdout)) == (0, 1001)


@pytest.mark.parametrize(("word", "status"), [("3", 3), ("s", 128 + signal.SIGTERM)])
def test_its_exit_status_is_that_of_the_command(word: str, status: int, tmp_path: Path) -> None:
    assert traced("-q", "--count", "--", build(tmp_path), word).status == status


def test_it_has_the_streams_of_patcher(tmp_path: Path) -> None:
    options = ["-q", "-o", str(tmp_path / "o")]
    done = subprocess.run(
        [sys.executable, "-m", "patcher", "trace", *options, build(tmp_path), "i"],
        input="hello\n",
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert (done.stdout, done.stderr) == ("hello\n\n1001\n", "")


def test_the_program_and_its_words_are_as_without_patcher(tmp_path: Path) -> None:
    program = live.build(tmp_path, """
        int traced(int x) { return x; }
        QUIET int main(int count, char **words) {
            for (int n = 0; n < count; n++) puts(words[n]);
            traced(1);
            sigset_t blocked;
            sigprocmask(SIG_BLOCK, NULL, &blocked);
            printf("%d%d%d\\n", sigismember(&blocked, SIGINT), sigismember(&blocked, SIGTERM),
                   signal(SIGPIPE, SIG_DFL) == SIG_DFL);
            return 0;
        }
    """)  # fmt: skip
    done = traced("-q", "-o", tmp_path / "o", "--", program, "--count", "a b")
    assert done.stdout == f"{program}\n--count\na b\n001\n"


@pytest.mark.parametrize(("words", "status", "said"), [
    (["./nothing-here"], 127, "./nothing-here: No such file or directory"),
    (["nothing-here"], 127, "nothing-here: command not found"),
    (["/"], 126, "/: cannot be executed: it is a folder"),
])  # fmt: skip
def test_what_cannot_be_executed_is_told_as_shells_do(
    words: list[str], status: int, said: str
) -> None:
    assert traced("--", *words) == (status, "", f"{said}\n")


def test_a_command_without_sites_does_not_run(tmp_path: Path) -> None:
    done = traced("--", "/bin/echo", "it ran")
    assert (done.status, done.stdout) == (126, "")
    assert "no live module has a table of sites" in done.stderr


def test_a_command_goes_on_though_its_trace_cannot_be_written(tmp_path: Path) -> None:
    done = traced("-o", "/dev/full", "--format", "folded", "--", build(tmp_path), "3")
    assert (done.status, done.stdout) == (3, "1001\n")
    assert done.stderr.splitlines()[-1] == "/dev/full: No space left on device"


def test_a_signal_ends_the_trace_and_the_command_goes_on(tmp_path: Path) -> None:
    main = 'QUIET int main(void) { ready(); until_told(); printf("%d\\n", work(3)); return 7; }'
    program = live.build(tmp_path, main)
    words = [sys.executable, "-m", "patcher", "trace", "--count", "--", program]
    with started(*map(str, words), PYTHONPATH=str(ROOT)) as patcher:
        os.kill(patcher.pid, signal.SIGTERM)
        time.sleep(0.5)
        assert patcher.poll() is None  # it waits for the command
        out, _ = patcher.communicate("\n")
    assert patcher.returncode == 7
    assert "13\n" in out


def test_a_command_in_a_pid_namespace_without_its_own_proc_is_refused(tmp_path: Path) -> None:
    own = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]  # who may make one
    words = [sys.executable, "-m", "patcher", "trace", "touch", str(tmp_path / "made")]
    done = subprocess.run(
        ["unshare", *own, "--pid", "--fork", *words],
        check=False, capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (126, "")
    assert done.stderr.startswith("touch: /proc is that of another PID namespace")
    assert not (tmp_path / "made").exists()
