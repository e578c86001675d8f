"""The breakpoint method: sites of a process are switched, and its threads are never all halted."""

import ctypes
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import cycle
from pathlib import Path
from threading import Thread

import pytest

from patcher.errors import NoProcessError, PatchError, StateError, WriteError
from patcher.ftrace.mappings import Range
from patcher.modify import Batch
from patcher.process import breakpoints, waiting
from patcher.process.access import name_of
from patcher.process.guarded_memory import GuardedMemory
from patcher.process.mending import CarryOut
from patcher.process.proc import Proc
from patcher.process.switch import by_breakpoints, in_a_halt, make
from patcher.process.target import Target
from patcher.process.traced_threads import TracedThreads
from patcher.process.tracees import Tracees
from patcher.process.tracing import OPTIONS, Tracing
from recordmcount.sites.state import State
from recordmcount.x86_code import INT3
from tests.support import live, storm
from tests.support.command import ROOT
from tests.support.live import CALLS, ask, count, patch, refused
from tests.support.processes import BOUND, build_program, finish, started, until
from tests.support.storm import Storm

pytestmark = pytest.mark.process

RESULT = 2 * 3 + 1 + 2 * 3  # of work(3)
BREAKPOINT = ("--protocol", "breakpoint")
STATES = (State.NOP, State.CALL)
EVERYTHING = [Range(0, 1 << 47)]
TGKILL = 234  # the number of the system call


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return live.build(tmp_path_factory.mktemp("program"))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Storm:
    return storm.build(tmp_path_factory.mktemp("storm"), 100, threads=16, pause=1000)


@contextmanager
def traced(
    pid: int, int3: Callable[[int], int | None] = lambda _: None, timeout: float = 10
) -> Iterator[Tracing]:
    """The threads of a process, traced, all of whose mappings are code to be kept."""
    with Proc(pid) as proc:
        tracing = Tracing(proc, name_of(proc), timeout, EVERYTHING, int3)
        tracing.begin()
        try:
            yield tracing
        finally:
            tracing.end()


def switch(pid: int, state: State) -> None:
    with Target(pid, 10) as target:
        make(target, (), storm.all_sites, state, by_breakpoints)


def toggle_for_ever(target: Target) -> None:
    for state in cycle(STATES):
        make(target, (), storm.all_sites, state, by_breakpoints)


def tell(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdin
    process.stdin.write(f"{word}\n")
    process.stdin.flush()


def answer(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


# --- it does what is asked ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [each for each in live.KINDS if each != "large code model"])
def test_sites_go_off_and_come_back_byte_for_byte(kind: str, tmp_path: Path) -> None:
    flags, link = live.KINDS[kind]
    program = live.build(tmp_path, flags=flags, link=link)
    with started(program) as process, Target(process.pid, 2) as target:
        (module,) = target.modules()
        before = list(module.codes)
        assert patch("nop", process.pid, *BREAKPOINT) == (
            f"{program}: 3 sites turned to nop, 0 already\n"
        )
        assert ask(process) == (RESULT, 0)
        patch("call", process.pid, *BREAKPOINT)
        assert ask(process) == (RESULT, CALLS)
        (module,) = target.modules()
        assert list(module.codes) == before
        finish(process)


def test_all_sites_are_switched_while_all_threads_call_them(small: Storm) -> None:
    with started(small.program) as process:
        for number in range(16):
            state = STATES[number % 2]
            assert storm.toggle(process.pid, state, by_breakpoints) == small.sites
        finish(process)


def test_both_methods_may_follow_each_other(program: Path) -> None:
    with started(program) as process:
        patch("nop", process.pid, *BREAKPOINT)
        patch("call", process.pid, "--protocol", "stop", "--functions", "work")
        assert ask(process) == (RESULT, 1)
        patch("call", process.pid, *BREAKPOINT)
        assert ask(process) == (RESULT, CALLS)


def test_a_dry_run_tells_and_changes_nothing(program: Path) -> None:
    with started(program) as process:
        assert "twice" in patch("nop", process.pid, "-n", *BREAKPOINT)
        assert ask(process) == (RESULT, CALLS)


# --- whatever it does meanwhile -------------------------------------------------------------------


def test_threads_run_while_they_are_traced_and_signals_arrive(tmp_path: Path) -> None:
    source = """
    static volatile sig_atomic_t got;
    static void handle(int number) { got++; }
    int main(void) {
        signal(SIGUSR1, handle);
        ready();
        for (int number = 1; number <= 100; number++) {
            while (got < number) {}
            printf("%d\\n", number);
            fflush(stdout);
        }
        return 0;
    }
    """
    with started(build_program(tmp_path, source)) as process, traced(process.pid) as tracing:
        for number in range(1, 101):
            os.kill(process.pid, signal.SIGUSR1)
            assert answer(process) == str(number)
            if number % 10 == 0:
                tracing.sync()


# Each waits for a line, does what may change whose code that is, and says what came of it.
CALLS_THAT_WAIT = {
    "munmap": "munmap(code, 4096)",
    "mprotect": "mprotect(code, 4096, PROT_NONE)",
    "mmap over it": "mmap(code, 4096, PROT_NONE, PRIVATE | MAP_FIXED, -1, 0) != code",
    "mremap away": "mremap(code, 4096, 4096, MOVE, code + 8192) != code + 8192",
    "mremap onto it": "mremap(code + 8192, 4096, 4096, MOVE, code) != code",
    "madvise": "madvise(code, 4096, MADV_DONTNEED)",
    "fork": "!(child = fork()) ? (_exit(0), 0) : waitpid(child, NULL, 0) != child",
    "vfork": "!(child = vfork()) ? (_exit(0), 0) : waitpid(child, NULL, 0) != child",
    "thread": "pthread_create(&thread, NULL, nothing, NULL) || pthread_join(thread, NULL)",
    "sigaction": "signal(SIGTRAP, SIG_IGN) == SIG_ERR",
    "execve": 'execl("/bin/sh", "sh", "-c", "echo 0", NULL)',
}  # fmt: skip
CALLS_THAT_DO_NOT = {
    "mmap": "mmap(NULL, 4096, PROT_READ, PRIVATE, -1, 0) == MAP_FAILED",
    "sigaction": "signal(SIGUSR1, SIG_IGN) == SIG_ERR",
    "read": "close(open(\"/dev/null\", O_RDONLY))",
}  # fmt: skip
DOING = """
#define PRIVATE (MAP_PRIVATE | MAP_ANONYMOUS)
#define MOVE (MREMAP_MAYMOVE | MREMAP_FIXED)
static void *nothing(void *argument) { return argument; }
int main(void) {
    pid_t child;
    pthread_t thread;
    char *code = mmap(NULL, 5 * 4096, PROT_READ, PRIVATE, -1, 0);
    ready();
    until_told();
    int failed = (WHAT) != 0;
    printf("%d\\n", failed);
    fflush(stdout);
    (void)nothing, (void)child, (void)thread, (void)code;
    return 0;
}
"""


def whose(proc: Proc) -> tuple[object, ...]:
    """Whose code that is: all that the calls would change."""
    kept = [line for line in proc.read("maps").splitlines() if b" r--p 00000000 00:00 0" in line]
    assert kept
    return kept, proc.threads(), proc.status()["SigIgn"], proc.link("exe"), children(proc.pid)


def wait_until_it_stands(proc: Proc) -> None:
    """Wait until it is stopped by its tracer for longer than the moment that any call takes."""
    stood = 0
    deadline = time.monotonic() + 30
    while stood < 20:
        stood = stood + 1 if proc.stat().state == "t" else 0
        assert time.monotonic() < deadline
        time.sleep(0.001)


def children(pid: int) -> str:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text()


@pytest.mark.parametrize("flags", [(), ("-m32",)], ids=["x86-64", "i386"])
@pytest.mark.parametrize("name", CALLS_THAT_WAIT)
def test_what_would_change_the_code_waits_until_no_breakpoint_stands(
    name: str, flags: tuple[str, ...], tmp_path: Path
) -> None:
    source = DOING.replace("WHAT", CALLS_THAT_WAIT[name])
    with started(build_program(tmp_path, source, *flags)) as process:
        with traced(process.pid) as tracing, Proc(process.pid) as proc:
            before = whose(proc)
            tell(process, "do")
            wait_until_it_stands(proc)
            tracing.sync()
            assert whose(proc) == before
        assert answer(process) == "0"
        finish(process)


@pytest.mark.parametrize("name", CALLS_THAT_DO_NOT)
def test_all_else_does_not_wait(name: str, tmp_path: Path) -> None:
    source = DOING.replace("WHAT", CALLS_THAT_DO_NOT[name])
    with started(build_program(tmp_path, source)) as process, traced(process.pid):
        tell(process, "do")
        assert answer(process) == "0"
        finish(process)


# --- breakpoints ----------------------------------------------------------------------------------

STRIKE = """
static volatile int skipped = 1;
int main(void) {
    sigset_t trap;
    sigemptyset(&trap);
    sigaddset(&trap, SIGTRAP);
    BLOCK;
    ready();
    until_told();
    __asm__ volatile("int3\\n\\tmovl $0, %0" : "+m"(skipped));
    sigset_t now;
    pthread_sigmask(SIG_SETMASK, NULL, &trap);
    sigpending(&now);
    printf("%d %d %d\\n", skipped, sigismember(&trap, SIGTRAP), sigismember(&now, SIGTRAP));
    fflush(stdout);
    return 0;
}
"""


BLOCKED = "pthread_sigmask(SIG_BLOCK, &trap, NULL)"


@pytest.mark.parametrize(
    ("block", "told"),
    [("", "0 0 0"), (BLOCKED, "0 1 0"), (f"{BLOCKED}; raise(SIGTRAP)", "0 1 1")],
    ids=["unblocked", "blocked", "pending"],
)
def test_who_hits_a_breakpoint_goes_on_behind_it(block: str, told: str, tmp_path: Path) -> None:
    hits: list[int] = []

    def skip(address: int) -> int:
        hits.append(address)
        return 1

    with started(build_program(tmp_path, STRIKE.replace("BLOCK", block))) as process:
        with traced(process.pid, skip):
            tell(process, "strike")
            assert answer(process) == told
        assert len(hits) == 1
        finish(process)


TRACE = """
import sys
from patcher.process.guarded_memory import GuardedMemory
from patcher.process.proc import Proc
from patcher.process.traced_threads import TracedThreads
from patcher.process.tracees import Tracees
from patcher.process.tracing import OPTIONS, Tracing
tracing = Tracing(Proc(int(sys.argv[1])), "process", 10, [], lambda _: None)
tracing.begin()
print("ready", flush=True)
sys.stdin.read()
tracing.end()
"""


def test_a_breakpoint_of_somebody_else_is_left_to_him(tmp_path: Path) -> None:
    program = build_program(tmp_path, STRIKE.replace("BLOCK", ""))
    words = (sys.executable, "-c", TRACE)
    with started(program) as process, started(*words, str(process.pid), cwd=ROOT):
        tell(process, "strike")
        assert process.wait(BOUND) == -signal.SIGTRAP


@pytest.mark.parametrize("has_hit", [False, True])
def test_a_thread_that_has_hit_a_breakpoint_has_not_serialised_before_it_has_left_it(
    has_hit: bool, tmp_path: Path
) -> None:
    """Who is interrupted may have hit it before, and tells of that later only."""
    program = build_program(tmp_path, STRIKE.replace("BLOCK", ""))
    with started(program) as process, Proc(process.pid) as proc:
        tracees = Tracees(proc, name_of(proc), OPTIONS)
        (tid,) = tracees.seize_new()
        while waiting.look(tid) is None:
            pass
        if has_hit:  # the kernel leaves it pending for the thread, as this does
            ctypes.CDLL(None).syscall(TGKILL, process.pid, tid, signal.SIGTRAP)
        threads = TracedThreads(tracees, [], lambda _: None)
        threads.unsynced.add(tid)
        assert threads.look_at_all()
        assert threads.unsynced == ({tid} if has_hit else set())


LEADERLESS = """
#include <pthread.h>
#include <unistd.h>
static void *stay(void *none) { for (;;) pause(); return none; }
QUIET int main(void) {
    pthread_t thread;
    if (OTHERS) pthread_create(&thread, NULL, stay, NULL);
    ready();
    while (answer()) {}
    pthread_exit(NULL);
}
"""


@pytest.mark.parametrize("others", [0, 1])
def test_a_leader_that_ends_while_it_is_traced_is_there_no_more_once_all_have(
    others: int, tmp_path: Path
) -> None:
    """Only who traces it can make an end of it: for that its parent would wait."""
    program = live.build(tmp_path, LEADERLESS.replace("OTHERS", f"{others}"), link=["-pthread"])
    with started(program) as process, Proc(process.pid) as proc:
        tracees = Tracees(proc, name_of(proc), OPTIONS)
        threads = TracedThreads(tracees, [], lambda _: None)
        assert len(tracees.seize_new()) == 1 + others
        until(threads.look_at_all)
        assert process.stdin
        process.stdin.close()
        # Not by Popen.kill: to it a tracee of this process that has stopped is one that has ended.
        if not others:
            os.kill(process.pid, signal.SIGKILL)
        while not proc.has_thread_ended(proc.pid):
            _ = others and threads.look_at_all()
        threads.forget_ended()  # before it was looked whether it reports that
        os.kill(process.pid, signal.SIGKILL)
        until(lambda: not threads.look_at_all() and not Path(f"/proc/{process.pid}").exists())
        assert not tracees.seized


# --- patcher ends ---------------------------------------------------------------------------------

CAUGHT = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1]


def test_whatever_can_be_caught_ends_patcher_when_no_breakpoint_stands(small: Storm) -> None:
    seeds = random.Random(2012)
    with started(small.program) as process:
        for number in range(20):
            with storm.toggling(process.pid, by_breakpoints) as patcher:
                time.sleep(seeds.uniform(0, 0.3))
                patcher.send_signal(CAUGHT[number % len(CAUGHT)])
                patcher.wait()
            with Target(process.pid, 30) as target:
                for module in target.modules():
                    assert not module.where(range(len(module)), State.FOREIGN)
        for state in STATES:
            assert storm.toggle(process.pid, state, by_breakpoints) == small.sites
        finish(process)


# --- what fails, and what is refused --------------------------------------------------------------


def test_a_process_that_handles_or_ignores_sigtrap_is_left_alone(tmp_path: Path) -> None:
    for action in ("SIG_IGN", "exit"):
        main = (
            f"QUIET int main(void) {{ signal(SIGTRAP, {action}); ready(); while (answer()) {{}} }}"
        )
        with started(live.build(tmp_path, main)) as process:
            line = refused("nop", process.pid, *BREAKPOINT)
            assert f"it {'ignores' if action == 'SIG_IGN' else 'handles'} SIGTRAP" in line
            assert line.endswith("use the stop method")
            assert ask(process) == (RESULT, CALLS)
            patch("nop", process.pid)
            assert ask(process) == (RESULT, 0)


@pytest.mark.parametrize("carry_out", [in_a_halt, by_breakpoints])
def test_where_no_thread_can_be_started_nothing_is_traced(
    carry_out: CarryOut, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_: Thread) -> None:
        raise RuntimeError("can't start new thread")

    with started(program) as process, Target(process.pid, 10) as target:
        monkeypatch.setattr(Thread, "start", start)
        with pytest.raises(OSError, match="no thread to trace with: Resource temporarily"):
            make(target, (), storm.all_sites, State.NOP, carry_out)
        assert ask(process) == (RESULT, CALLS)


def test_sites_of_two_instructions_are_left_alone(tmp_path: Path) -> None:
    flags, link = live.KINDS["large code model"]
    with started(live.build(tmp_path, flags=flags, link=link)) as process:
        assert "is more than one instruction" in refused("nop", process.pid, *BREAKPOINT)
        assert ask(process) == (RESULT, CALLS)


def test_what_is_traced_for_breakpoints_is_not_traced_by_another_one(program: Path) -> None:
    with started(program) as process, traced(process.pid):
        assert "is traced by process" in refused("nop", process.pid, *BREAKPOINT)


def faults(monkeypatch: pytest.MonkeyPatch, *, at: int) -> None:
    """Have write number `at` of a batch fail half-way."""
    real = GuardedMemory.scatter
    calls = iter(range(1, 100))

    def scatter(self: GuardedMemory, addresses: list[int], data: list[bytes]) -> None:
        if next(calls) == at:
            real(self, addresses[:2], data[:2])
            raise WriteError("memory", "cannot be written")
        real(self, addresses, data)

    monkeypatch.setattr(GuardedMemory, "scatter", scatter)


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_write_that_fails_leaves_every_site_whole(
    at: int, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with started(program) as process:
        faults(monkeypatch, at=at)
        with pytest.raises(WriteError, match="cannot be written"):
            switch(process.pid, State.NOP)
        assert "0 foreign" in count(process.pid)
        assert ask(process)[0] == RESULT


def test_patcher_stays_as_long_as_a_breakpoint_may_be_hit(
    program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Tracing.sync
    calls = iter(range(100))

    def sync(self: Tracing) -> None:
        if next(calls) < 5:
            raise WriteError("process", "thread 1 did not stop")
        real(self)

    with started(program) as process:
        monkeypatch.setattr(Tracing, "sync", sync)
        with pytest.raises(WriteError, match="did not stop; no breakpoint of ours stands by now"):
            switch(process.pid, State.NOP)
        assert next(calls) >= 6
        assert count(process.pid) == "3 sites: 3 call, 0 nop, 0 foreign"
        assert ask(process) == (RESULT, CALLS)


def test_a_process_that_is_killed_meanwhile_has_ended(
    program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Tracing.sync

    def sync(self: Tracing) -> None:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        while not self.is_over:
            time.sleep(0)
        real(self)

    with started(program) as process:
        monkeypatch.setattr(Tracing, "sync", sync)
        with pytest.raises(NoProcessError, match="has ended"):
            switch(process.pid, State.NOP)


def test_a_process_that_is_killed_at_any_moment_has_ended(small: Storm) -> None:
    seeds = random.Random(2012)
    for _ in range(10):
        with started(small.program) as process, Target(process.pid, 10) as target:
            killer = threading.Timer(seeds.uniform(0, 0.3), os.kill, (process.pid, signal.SIGKILL))
            killer.start()
            with pytest.raises(NoProcessError, match="has ended"):
                toggle_for_ever(target)
            killer.join()


def test_a_module_that_has_gone_before_the_threads_were_traced_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = live.library(tmp_path, "one", "int one(int x) { return x; }")
    main = f"""
    #include <dlfcn.h>
    QUIET int main(void) {{
        void *handle = dlopen("{library}", RTLD_NOW);
        ready();
        until_told();
        if (dlclose(handle)) return 1;
        puts("closed");
        fflush(stdout);
        while (answer()) {{}}
        return 0;
    }}
    """
    real = breakpoints.modify
    refusals: list[str] = []

    def later(target: Target, batch: Batch) -> None:
        if not refusals:
            assert len(batch) == 4
            tell(process, "close")
            assert answer(process) == "closed"
        try:
            real(target, batch)
        except PatchError as error:
            refusals.append(str(error))
            raise

    with started(live.build(tmp_path, main)) as process:
        monkeypatch.setattr(breakpoints, "modify", later)
        switch(process.pid, State.NOP)
        assert len(refusals) == 1
        assert count(process.pid) == "3 sites: 0 call, 3 nop, 0 foreign"


def test_who_traces_halts_nobody(program: Path) -> None:
    with started(program) as process, Target(process.pid, 2) as target:
        (module,) = target.modules()
        machine = breakpoints.TracedMachine(target, Batch([], [], []))
        for act in (machine.stop, machine.instruction_pointers):
            with pytest.raises(StateError):
                act()
        assert module.codes[0] != INT3
