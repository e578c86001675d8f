"""`patcher trace`: what is told of a running process, and that it is left as it was found."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from patcher.process import ptrace
from tests.support import command, live, storm
from tests.support.command import ROOT
from tests.support.live import CALLS, ask
from tests.support.processes import build_program, finish, started, state
from tests.support.traced import Memory, memory, tracing

pytestmark = pytest.mark.process

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
        for number in range(12):
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


# --- what is in the way ---------------------------------------------------------------------------

LIMITS = """
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/resource.h>
#define DENY(what) { \\
    struct sock_filter code[] = { \\
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)), \\
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mmap, 0, 1), BPF_STMT(BPF_RET | BPF_K, what), \\
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW) }; \\
    struct sock_fprog program = { 4, code }; \\
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); \\
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program)) return 1; }
QUIET int main(int count, char **words) {
    struct rlimit files = { 16, 16 }, memory = { 1 << 23, 1 << 23 };
    puts("");  /* which asks for a buffer */
    if (!strcmp(words[1], "files")) {
        setrlimit(RLIMIT_NOFILE, &files);
        while (dup(0) >= 0) {}
    }
    if (!strcmp(words[1], "memory")) setrlimit(RLIMIT_AS, &memory);
    if (!strcmp(words[1], "deny")) DENY(SECCOMP_RET_ERRNO | EPERM)
    if (!strcmp(words[1], "kill")) DENY(SECCOMP_RET_KILL_PROCESS)
    if (!strcmp(words[1], "worker")) begin_worker();
    ready();
    while (answer()) {}
    return 0;
}
"""
WORKER = """
#include <linux/io_uring.h>
/* A thread of the kernel's reads from a pipe into which nobody writes. */
QUIET static void begin_worker(void) {
    struct io_uring_params asked = { 0 };
    static char buffer[8];
    int ring = syscall(SYS_io_uring_setup, 8, &asked), ends[2], both = PROT_READ | PROT_WRITE;
    if (ring < 0 || pipe(ends)) abort();
    char *queue = mmap(0, asked.sq_off.array + asked.sq_entries * 4, both, MAP_SHARED, ring,
                       IORING_OFF_SQ_RING);
    struct io_uring_sqe *entry = mmap(0, asked.sq_entries * sizeof *entry, both, MAP_SHARED, ring,
                                      IORING_OFF_SQES);
    *entry = (struct io_uring_sqe){ .opcode = IORING_OP_READ, .fd = ends[0], .len = 1,
                                    .addr = (unsigned long)buffer, .flags = IOSQE_ASYNC };
    *(unsigned *)(queue + asked.sq_off.tail) = 1;
    syscall(SYS_io_uring_enter, ring, 1, 0, 0, NULL, 0);
}
"""
REFUSED = {
    "files": "a descriptor for the rings: Too many open files; nothing was changed",
    "memory": "memory for the rings: Cannot allocate memory; nothing was changed",
    "deny": "its seccomp filter would refuse mmap (Operation not permitted); nothing was changed",
    "kill": "its seccomp filter would kill it for mmap; nothing was changed",
}


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return live.build(tmp_path_factory.mktemp("limited"), WORKER + LIMITS)


@contextmanager
def limited_by(program: Path, what: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [program, what], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:  # fmt: skip
        assert process.stdout
        assert [process.stdout.readline() for _ in range(2)] == ["\n", "ready\n"]
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("what", REFUSED)
def test_what_the_process_may_not_do_is_told_and_nothing_is_changed(
    what: str, limited: Path
) -> None:
    with limited_by(limited, what) as process:
        with untouched(process.pid):
            assert refused(process.pid, "--buffer", "16M").endswith(f": {REFUSED[what]}")
        assert ask(process) == (RESULT, CALLS)
        finish(process)


def test_threads_that_the_kernel_has_in_a_process_are_left_alone(limited: Path) -> None:
    with limited_by(limited, "worker") as process:
        assert len(os.listdir(f"/proc/{process.pid}/task")) == 2
        with tracing(process.pid) as traced:
            assert ask(process) == (RESULT, 0)
            traced.stop()
            assert traced.told() == TOLD
        finish(process)


def test_a_stopped_process_is_traced_from_when_it_goes_on(program: Path) -> None:
    with started(program) as process:
        os.kill(process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        with tracing(process.pid) as traced:
            while state(process.pid) in "tR":  # on its way
                pass
            assert state(process.pid) == "T"
            os.kill(process.pid, signal.SIGCONT)
            assert ask(process) == (RESULT, 0)
            os.kill(process.pid, signal.SIGSTOP)
            os.waitid(os.P_PID, process.pid, os.WSTOPPED)
            traced.stop()
            assert traced.told() == TOLD
        os.kill(process.pid, signal.SIGCONT)
        assert ask(process) == (RESULT, CALLS)


ENDING = """
QUIET int main(int count, char **words) {
    ready();
    answer();
    if (!strcmp(words[1], "exit")) return 3;
    if (!strcmp(words[1], "killed")) kill(getpid(), SIGKILL);
    execl("/bin/cat", "cat", NULL);
}
"""


@pytest.fixture(scope="module")
def ending(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return live.build(tmp_path_factory.mktemp("ending"), ENDING)


@pytest.mark.parametrize("how", ["exit", "killed", "execute"])
@pytest.mark.parametrize("options", [(), ("--count",), ("--flight-recorder",)], ids=" ".join)
def test_the_last_calls_are_told_of_a_process_that_ends(
    how: str, options: tuple[str, ...], ending: Path
) -> None:
    with started(ending, how) as process:
        with patcher_trace(process.pid, *options) as tracer:
            assert ask(process)[0] == RESULT
            said, told = tracer.communicate(timeout=60)
        assert tracer.returncode == 0
        assert ("has ended" in told) == (how != "execute"), told
        assert ("executes another program" in told) == (how == "execute"), told
        assert "Traceback" not in told
        lines = [line.split()[-2:] for line in said.splitlines() if not line.startswith("#")]
        if "--count" in options:
            assert lines[1:] == [["2", "twice"], ["1", "more"], ["1", "work"]]
        else:
            assert [(name, caller[2:]) for name, caller in lines] == [
                (name, "main" if caller == "answer" else caller) for name, caller in TOLD
            ]


@contextmanager
def patcher_trace(pid: int, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Run `patcher trace` from when sites are traced."""
    words = [sys.executable, "-m", "patcher", "trace", "--pid", str(pid), *options]
    pipe = subprocess.PIPE
    before = memory(pid).text
    with subprocess.Popen(words, cwd=ROOT, stdout=pipe, stderr=pipe, text=True) as tracer:
        while memory(pid).text == before:
            assert tracer.poll() is None
            time.sleep(0.01)
        yield tracer
