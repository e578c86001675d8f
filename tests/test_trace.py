"""`patcher trace`: what is told of a running process, and that it is left as it was found."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from patcher.process import ptrace
from tests.support import command, live, storm
from tests.support.live import CALLS, ask
from tests.support.processes import build_program, finish, started
from tests.support.traced import Memory, memory, tracing

RESULT = 2 * 3 + 1 + 2 * 3  # of work(3)
TOLD = [("work", "main"), ("more", "work"), ("twice", "more"), ("twice", "work")]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return live.build(tmp_path_factory.mktemp("program"))


def trace(pid: int, *options: str) -> command.Finished:
    return command.run("patcher", "trace", "--pid", str(pid), *options)


def refused(pid: int, *options: str) -> str:
    """Run `patcher trace`, which must refuse in one line."""
    done = trace(pid, *options)
    assert (done.status, done.stdout) == (1, ""), done
    (line,) = done.stderr.splitlines()
    return line


@contextmanager
def untouched(pid: int) -> Iterator[None]:
    """Whatever happens, the process has afterwards what it had."""
    before = memory(pid)
    yield
    assert memory(pid) == before


def without_regions(looked: Memory) -> Memory:
    return looked._replace(regions=())


# --- what is told, and what is left ---------------------------------------------------------------

NO_CALL = {"i386", "large code model"}  # that could be traced


@pytest.mark.parametrize("kind", [each for each in live.KINDS if each not in NO_CALL])
def test_calls_are_told_and_the_process_is_as_before(kind: str, tmp_path: Path) -> None:
    flags, link = live.KINDS[kind]
    with started(live.build(tmp_path, flags=flags, link=link)) as process:
        before = memory(process.pid)
        assert ask(process) == (RESULT, CALLS)
        with tracing(process.pid) as traced:
            assert ask(process) == (RESULT, 0)
            assert traced.stop() == "3 sites are what they were"
            assert traced.told() == TOLD
        assert {event.tid for event in traced.events} == {process.pid}
        assert ask(process) == (RESULT, CALLS)
        after = memory(process.pid)
        assert without_regions(after) == before
        assert len(after.regions) == 1
        finish(process)


@pytest.mark.parametrize("state", ["call", "nop"])
def test_sites_become_what_they_were(state: str, tmp_path: Path) -> None:
    program = live.build(tmp_path)
    assert command.run("patcher", state, program).status == 0
    with started(program) as process:
        before = memory(process.pid)
        for counts in (False, True):
            with tracing(process.pid, counts=counts) as traced:
                assert ask(process) == (RESULT, 0)
                traced.end()
            assert without_regions(memory(process.pid)) == before
        assert ask(process) == (RESULT, CALLS if state == "call" else 0)


def test_calls_are_counted(program: Path) -> None:
    with started(program) as process, tracing(process.pid, counts=True) as traced:
        for _ in range(10):
            ask(process)
        assert traced.counts() == {"twice": 20, "more": 10, "work": 10}


def test_libraries_far_apart_have_a_region_each_however_often_they_are_traced(
    tmp_path: Path,
) -> None:
    built = storm.build(tmp_path, 50, threads=2, pause=1000)
    with started(built.program) as process:
        before = memory(process.pid)
        regions = set()
        for number in range(30):
            with tracing(process.pid, counts=number % 2 == 1) as traced:
                traced.end()
            after = memory(process.pid)
            assert (after.text, after.descriptors) == (before.text, before.descriptors)
            regions.add(tuple(after.regions))
        assert len(regions) == 1
        assert len(*regions) == 2
        finish(process)


def test_what_cannot_be_traced_is_said(tmp_path: Path) -> None:
    flags, link = live.KINDS["large code model"]
    with started(live.build(tmp_path, flags=flags, link=link)) as process, untouched(process.pid):
        done = trace(process.pid)
        warning, refusal = done.stderr.splitlines()
        assert "3 sites are left out, as they have" in warning
        assert "no site that can be traced" in refusal


def test_a_process_without_sites_is_refused(tmp_path: Path) -> None:
    quiet = build_program(tmp_path, "int main(void) { ready(); until_told(); }")
    with started(quiet) as process, untouched(process.pid):
        assert "no" in refused(process.pid)


def test_32_bit_code_is_refused(tmp_path: Path) -> None:
    flags, link = live.KINDS["i386"]
    with started(live.build(tmp_path, flags=flags, link=link)) as process, untouched(process.pid):
        assert "32-bit" in refused(process.pid)


# --- who else is there ----------------------------------------------------------------------------


def test_one_that_is_traced_is_not_traced_by_another_who_is_told_by_whom(program: Path) -> None:
    with started(program) as process:
        with tracing(process.pid) as traced:
            for options in ((), ("--count",), ("--detach",)):
                assert f"is traced by patcher, process {os.getpid()}" in refused(
                    process.pid, *options
                )
            assert ask(process) == (RESULT, 0)
            traced.stop()
            assert traced.told() == TOLD
        assert ask(process) == (RESULT, CALLS)


def test_status_tells_who_traces(program: Path) -> None:
    with started(program) as process:
        with tracing(process.pid):
            done = command.run("patcher", "status", "--pid", str(process.pid))
            assert done.stdout.count(f": traced by patcher, process {os.getpid()} ") == 1
        done = command.run("patcher", "status", "--pid", str(process.pid))
        assert "trace" not in done.stdout


@pytest.mark.parametrize("verb", ["nop", "call"])
def test_sites_that_are_traced_are_not_switched(verb: str, program: Path) -> None:
    with started(program) as process:
        with tracing(process.pid) as traced:
            done = command.run("patcher", verb, "--pid", str(process.pid))
            assert done.status == 1
            assert f": traced by patcher, process {os.getpid()} " in done.stderr
            traced.stop()
        assert ask(process) == (RESULT, CALLS)


def test_one_that_a_debugger_traces_is_refused(program: Path) -> None:
    with started(program) as process:
        read, write = os.pipe()
        debugger = os.fork()
        if not debugger:
            ptrace.seize(process.pid)
            os.write(write, b"x")
            signal.pause()
        os.read(read, 1)
        with untouched(process.pid):
            assert f"is traced by process {debugger}" in refused(process.pid)
        os.kill(debugger, signal.SIGKILL)
        os.waitpid(debugger, 0)
        assert ask(process) == (RESULT, CALLS)


# --- children -------------------------------------------------------------------------------------

CHILDREN = """
#include <spawn.h>
extern char **environ;
QUIET static int status_of(pid_t child) {
    int status;
    if (waitpid(child, &status, 0) != child || !WIFEXITED(status)) return -1;
    return WEXITSTATUS(status);
}
QUIET int main(int count, char **words) {
    if (words[1]) return work(3);
    ready();
    while (answer()) {
        pid_t child = fork();
        if (!child) _exit(work(3));
        int forked = status_of(child);
        child = vfork();
        if (!child) _exit(9);
        int vforked = status_of(child);
        char *again[] = { words[0], "again", NULL };
        if (posix_spawn(&child, words[0], NULL, NULL, again, environ)) return 1;
        int spawned = status_of(child), by_shell = system("exit 7");
        printf("%d %d %d %d\\n", forked, vforked, spawned, WEXITSTATUS(by_shell));
        fflush(stdout);
    }
    return 0;
}
"""


def test_children_of_all_kinds_do_what_they_do_and_tell_nothing(tmp_path: Path) -> None:
    with started(live.build(tmp_path, CHILDREN)) as process:
        assert process.stdout
        for number in range(6):
            with tracing(process.pid, counts=number % 2 == 1) as traced:
                assert ask(process) == (RESULT, 0)
                assert process.stdout.readline() == f"{RESULT} 9 {RESULT} 7\n"
                if number % 2:
                    assert sum(traced.counts().values()) == len(TOLD)
                else:
                    traced.stop()
                    assert traced.told() == TOLD
        finish(process)


FORKED = """
QUIET int main(void) {
    ready();
    while (answer()) {
        int told[2];
        if (pipe(told)) return 1;
        pid_t child = fork();
        if (!child) {
            char byte;
            unsigned long before = calls;
            while (read(told[0], &byte, 1) < 0) {}
            int result = work(3);
            printf("%d %lu\\n", result, calls - before);
            return 0;
        }
        printf("%d\\n", child);
        fflush(stdout);
        answer();
        write(told[1], "x", 1);
        if (waitpid(child, NULL, 0) != child) return 1;
    }
    return 0;
}
"""


def test_a_child_that_has_inherited_sites_is_brought_back_by_itself(tmp_path: Path) -> None:
    """Until then its gate is closed: what it calls does nothing, and no memory is for events."""
    with started(live.build(tmp_path, FORKED)) as process, tracing(process.pid) as traced:
        assert process.stdout
        for calls, act in ((0, len), (CALLS, _detach), (CALLS, _trace_for_a_moment)):
            assert ask(process) == (RESULT, 0)
            child = int(process.stdout.readline())
            assert not [each for each in memory(child).mappings if "memfd" in each]
            act(str(child))
            assert ask(process) == (RESULT, 0)
            assert process.stdout.readline() == f"{RESULT} {calls}\n"
        traced.stop()
        assert traced.told() == [("work", "answer"), *TOLD[1:]] * 6


def _detach(pid: str) -> None:
    done = command.run("patcher", "trace", "--pid", pid, "--detach")
    assert (done.status, done.stderr) == (0, "")
    assert done.stdout.endswith(": 3 sites are what they were\n")


def _trace_for_a_moment(pid: str) -> None:
    with tracing(int(pid)) as traced:
        assert "nobody ended" in traced.said[0]
