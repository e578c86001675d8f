"""What changes in a process while it is traced: libraries come and go, children are born."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from patcher.process.target import Target
from patcher.trace import installation, switching
from tests.support import command, live
from tests.support.command import ROOT
from tests.support.processes import started
from tests.support.traced import memory, tracing

pytestmark = pytest.mark.process

# Opens a library, calls a function of it 20 times in two seconds, closes it; so several times.
OPENS = """
#include <dlfcn.h>
QUIET int main(int count, char **words) {
    ready();
    until_told();
    for (int round = 1; round < count; round++) {
        void *library = dlopen(words[round], RTLD_NOW);
        int (*inside)(int) = (int (*)(int))dlsym(library, "inside");
        for (int number = 0; number < 20; number++) { inside(number); usleep(100000); }
        dlclose(library);
    }
    return 0;
}
"""
# A child calls what its parent does not, for two seconds; then it executes another program.
BEARS = """
__attribute__((noinline)) int of_child(int x) { __asm__ volatile(""); return x + 1; }
QUIET int main(void) {
    ready();
    until_told();
    if (!fork()) {
        for (int number = 0; number < 20; number++) { of_child(number); usleep(100000); }
        execl("/bin/true", "true", NULL);
    }
    while (wait(NULL) > 0) {}
    return 0;
}
"""


def wait_until_traced(
    process: subprocess.Popen[str], patcher: subprocess.Popen[str] | subprocess.Popen[bytes]
) -> None:
    with Target(process.pid, 10, to_read=True) as target:
        while not any(module.traced for module in target.settled_modules()):
            assert patcher.poll() is None
            time.sleep(0.01)


@contextmanager
def traced(process: subprocess.Popen[str], output: Path, *options: str) -> Iterator[None]:
    """Have it traced from now on until it ends; what it was made for begins in the `with`."""
    words = [sys.executable, "-m", "patcher", "trace", "-q", "--pid", str(process.pid)]
    patcher = subprocess.Popen([*words, "-o", output, *options], cwd=ROOT)
    wait_until_traced(process, patcher)
    yield
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.wait() == 0
    assert patcher.wait() == 0


def functions(output: Path) -> list[str]:
    return re.findall(r": (\w+) <-", output.read_text())


def test_a_library_is_traced_soon_after_it_was_opened_and_again_where_it_was(
    tmp_path: Path,
) -> None:
    library = live.library(tmp_path, "one", "int inside(int x) { return x + 1; }")
    program = live.build(tmp_path, OPENS, link=["-ldl"])
    assert command.run("patcher", "nop", "-q", program, library).status == 0
    with (
        started(program, str(library), str(library)) as process,
        traced(process, tmp_path / "o"),
    ):
        pass
    assert 20 < functions(tmp_path / "o").count("inside") <= 40


# Opens a library, and closes it when it is told to.
CLOSES = """
#include <dlfcn.h>
QUIET int main(int count, char **words) {
    void *library = dlopen(words[1], RTLD_NOW);
    ready();
    until_told();
    dlclose(library);
    ready();
    for (;;) { work(1); usleep(1000); }
}
"""


@pytest.mark.parametrize("counts", [False, True])
def test_a_library_that_goes_before_it_is_switched_does_not_end_a_trace(
    counts: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = live.library(tmp_path, "one", "int inside(int x) { return x + 1; }")
    program = live.build(tmp_path, CLOSES, link=["-ldl"])
    switched: list[tuple[Any, ...]] = []

    with started(program, str(library)) as process:
        before = memory(process.pid)

        def close_first(*arguments: Any) -> None:
            if not switched:
                assert process.stdin
                assert process.stdout
                process.stdin.write("\n")
                process.stdin.flush()
                process.stdout.readline()
            switched.append(arguments)
            switching.switch(*arguments)

        monkeypatch.setattr(installation, "switch", close_first)
        with tracing(process.pid, counts=counts) as trace:
            assert len(switched) == 2
            names = {trace.names.function(address) for address in trace.session.sites}
            assert "work" in names
            assert "inside" not in names
        after = memory(process.pid)
        assert after.text == {address: before.text[address] for address in after.text}
        assert after.descriptors == before.descriptors
        assert not any("memfd" in each for each in after.mappings)


@pytest.mark.parametrize(
    ("option", "least", "most"), [("--follow-fork", 10, 20), ("--parts", 0, 0)]
)
def test_a_child_is_traced_if_that_is_asked_for(
    option: str, least: int, most: int, tmp_path: Path
) -> None:
    program = live.build(tmp_path, BEARS)
    assert command.run("patcher", "nop", "-q", program).status == 0
    with started(program) as process, traced(process, tmp_path / "o", option):
        pass
    assert least <= functions(tmp_path / "o").count("of_child") <= most


def test_a_program_that_executes_another_one_is_told_of(tmp_path: Path) -> None:
    main = """
        QUIET int main(void) { ready(); until_told(); execl("/bin/sleep", "sleep", "9", NULL); }
    """
    program = live.build(tmp_path, main)
    with started(program) as process:
        words = [sys.executable, "-m", "patcher", "trace", "--pid", str(process.pid)]
        patcher = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        while not command.run("patcher", "status", "--pid", str(process.pid)).stdout.count(
            "traced"
        ):
            assert patcher.poll() is None
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        _, said = patcher.communicate()
        process.send_signal(signal.SIGKILL)
    assert patcher.returncode == 0
    assert b"executes another program" in said
