"""A thread that is borrowed for system calls is where it was afterwards, whatever it was doing."""

import os
import signal
from contextlib import ExitStack
from enum import IntEnum
from pathlib import Path

import pytest

from patcher.process.halt import Halt
from patcher.process.remote_calls import RemoteCalls, Wanted
from patcher.process.target import Target
from patcher.trace.injection import Done, apart, by_a_thread
from tests.support.processes import build_program, finish, started, state
from tests.support.traced import TIMEOUT

pytestmark = pytest.mark.process


class Call(IntEnum):
    """System calls that are made, which do nothing."""

    GETPID = 39


def call(pid: int, times: int = 1) -> list[int]:
    """What a thread of a process gets for GETPID, so many times."""
    with Target(pid, TIMEOUT) as target:

        def made() -> Done:
            results: list[int] = []

            def act(calls: RemoteCalls, _: Halt) -> None:
                results.extend(calls.call(Wanted("to ask", Call.GETPID, ())) for _ in range(times))

            by_a_thread(target, TIMEOUT, [Wanted("to ask", Call.GETPID, ())], act)
            return Done(results)

        value = apart(target.name, made).value
        assert isinstance(value, list)
        return value


# --- in a system call of its own ------------------------------------------------------------------

# What a program with one thread does, for two seconds or until it is given a byte or signal; `bad`
# is true if that was not as it should be. Some end early after any stop (signal(7), "Interruption
# of system calls and library functions by stop signals"), and programs begin them again.
CALLS = {
    "read": "char byte = 0; bad = read(0, &byte, 1) != 1 || byte != '\\n';",
    "nanosleep": "bad = nanosleep(&second, NULL);",
    "clock_nanosleep": "bad = clock_nanosleep(CLOCK_MONOTONIC, 0, &second, NULL);",
    "until a time": """
        struct timespec until; clock_gettime(CLOCK_MONOTONIC, &until); until.tv_sec += 2;
        bad = clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);""",
    "futex": "int word = 0; bad = !syscall(SYS_futex, &word, 0, 0, &second) || errno != ETIMEDOUT;",
    "poll": "bad = poll(NULL, 0, 2000);",
    "ppoll": "bad = ppoll(NULL, 0, &second, NULL);",
    "select": "struct timeval left = { 2, 0 }; bad = select(0, NULL, NULL, NULL, &left);",
    "wait4": "int status; bad = waitpid(child, &status, 0) != child || status;",
    "flock": "bad = flock(file, LOCK_EX);",
    "recv": "char byte; bad = recv(pair[0], &byte, 1, 0) != 1 || byte != 'x';",
    "ppoll with a mask": "bad = ppoll(NULL, 0, NULL, &none) != -1 || errno != EINTR || got != 1;",
    "pselect with a mask": """
        bad = pselect(0, NULL, NULL, NULL, NULL, &none) != -1 || errno != EINTR || got != 1;""",
    "sigsuspend": "bad = sigsuspend(&none) != -1 || errno != EINTR || got != 1;",
    "epoll_wait": "while ((bad = epoll_wait(epoll, &event, 1, 2000)) && errno == EINTR) {}",
    "epoll_pwait with a mask": """
        while ((bad = epoll_pwait(epoll, &event, 1, -1, &none) != -1 || errno != EINTR || got > 1)
               || !got) {}""",
    "rt_sigtimedwait": """
        while ((bad = sigwaitinfo(&usr1, NULL) != SIGUSR1) && errno == EINTR) {}""",
    "rt_sigtimedwait in vain": """
        sigset_t other; sigemptyset(&other); sigaddset(&other, SIGUSR2);
        while ((bad = sigtimedwait(&other, NULL, &second) != -1 || errno != EAGAIN)
               && errno == EINTR) {}""",
}
SIGNALLED = {name for name in CALLS if "with a mask" in name} | {"sigsuspend", "rt_sigtimedwait"}
GIVEN = {"read"}
PROGRAM = """
#include <poll.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/select.h>
#include <sys/socket.h>
static volatile int got;
static void handle(int number) { got++; }
int main(int count, char **words) {
    struct timespec second = { 2, 0 }, before, behind;
    struct epoll_event event;
    sigset_t none, usr1, now, pending;
    int bad = -1, pair[2], epoll = epoll_create1(0), file = open(words[0], O_RDONLY);
    sigemptyset(&none); sigemptyset(&usr1); sigaddset(&usr1, SIGUSR1); sigaddset(&usr1, SIGHUP);
    sigprocmask(SIG_SETMASK, &usr1, NULL);
    signal(SIGUSR1, handle);
    sigdelset(&usr1, SIGHUP); sigaddset(&none, SIGHUP);
    raise(SIGHUP);
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    int locked[2];
    pipe(locked);
    int child = fork();
    if (!child) {
        int mine = open(words[0], O_RDONLY);
        flock(mine, LOCK_EX);
        write(locked[1], "x", 1);
        while (nanosleep(&second, NULL)) {}
        write(pair[1], "x", 1);
        _exit(0);
    }
    char byte;
    read(locked[0], &byte, 1);
    ready();
    clock_gettime(CLOCK_MONOTONIC, &before);
    CASES
    clock_gettime(CLOCK_MONOTONIC, &behind);
    double took = behind.tv_sec - before.tv_sec + (behind.tv_nsec - before.tv_nsec) / 1e9;
    sigprocmask(SIG_SETMASK, NULL, &now);
    sigpending(&pending);
    if (!sigismember(&now, SIGUSR1) || !sigismember(&now, SIGHUP) || sigismember(&now, SIGUSR2))
        puts("another mask");
    if (!sigismember(&pending, SIGHUP)) puts("no signal is pending");
    printf("%d %.1f\\n", bad, took);
    fflush(stdout);
    until_told();
    return 0;
}
"""


@pytest.fixture(scope="module")
def waiting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cases = "\n".join(
        f'if (!strcmp(words[1], "{name}")) {{ {code.strip()} }}' for name, code in CALLS.items()
    )
    folder = tmp_path_factory.mktemp("calls")
    return build_program(folder, PROGRAM.replace("CASES", cases))


def test_a_system_call_that_is_interrupted_for_others_gives_what_it_would_have(
    waiting: Path, tmp_path: Path
) -> None:
    """All programs wait at the same time, each by another call."""
    with ExitStack() as stack:
        processes = {}
        for number, name in enumerate(CALLS):
            program = tmp_path / f"{number}"
            program.write_bytes(waiting.read_bytes())
            program.chmod(0o755)
            processes[name] = stack.enter_context(started(program, name))
        for _ in range(3):
            for process in processes.values():
                assert call(process.pid, times=2) == [process.pid] * 2
        for name in SIGNALLED:
            os.kill(processes[name].pid, signal.SIGUSR1)
        said = {}
        for name, process in processes.items():
            assert process.stdin
            assert process.stdout
            if name in GIVEN:
                process.stdin.write("\n")
                process.stdin.flush()
            said[name] = process.stdout.readline().split()
        assert {name: words for name, words in said.items() if words[0] != "0"} == {}
        timed = {*CALLS} - SIGNALLED - GIVEN - {"wait4", "flock", "recv"}
        assert {name: said[name] for name in timed if float(said[name][1]) < 1.9} == {}
        for process in processes.values():
            finish(process)


# --- in code of its own ---------------------------------------------------------------------------

SECTIONS = """
#include <sys/rseq.h>
static volatile unsigned long committed, begun, aborted;
static volatile int go = 1;
static void *until(void *nothing) { until_told(); go = 0; return NULL; }
static void stop(int number) { go = 0; }
int main(void) {
    struct rseq *area = (void *)((char *)__builtin_thread_pointer() + __rseq_offset);
    signal(SIGTERM, stop);
    ready();
    while (go) __asm__ volatile(
        ".pushsection .data, \\"aw\\"\\n.balign 32\\n9: .long 0, 0\\n.quad 1f, 2f - 1f, 4f\\n"
        ".popsection\\n"
        "7: incq %[begun]\\nlea 9b(%%rip), %%rax\\nmov %%rax, %[section]\\n"
        "1: mov $2000, %%ecx\\n8: dec %%ecx\\njnz 8b\\n"
        "incq %[committed]\\n2: jmp 5f\\n"
        ".byte 0x0f, 0xb9, 0x3d\\n.long 0x53053053\\n4: incq %[aborted]\\njmp 7b\\n"
        "5: movq $0, %[section]"
        : [begun] "+m"(begun), [committed] "+m"(committed), [aborted] "+m"(aborted),
          [section] "=m"(area->rseq_cs) : : "rax", "rcx", "cc", "memory");
    printf("%d %d\\n", begun == committed + aborted, aborted > 0);
    return 0;
}
"""


def test_one_that_is_nearly_always_in_a_restartable_sequence_starts_it_again(
    tmp_path: Path,
) -> None:
    """It is the only thread; moved elsewhere from within, it would be killed by the kernel."""
    with started(build_program(tmp_path, SECTIONS)) as process:
        for _ in range(20):
            assert call(process.pid, times=3) == [process.pid] * 3
        os.kill(process.pid, signal.SIGTERM)
        assert finish(process) == "1 1\n"


SUM = """
static volatile int go = 1;
static void stop(int number) { go = 0; }
static double next(double x) { return x * 1.0000001 + 1e-9; }
static double sum(int count) {
    double x[4] = { 1, 2, 3, 4 };
    for (int each = 0; each < count; each++)
        for (int at = 0; at < 4; at++) x[at] = next(x[at]) + x[(at + 1) & 3] * 1e-9;
    return x[0] + x[1] + x[2] + x[3];
}
int main(void) {
    double wanted = sum(100000);
    int rounds = 0;
    signal(SIGTERM, stop);
    ready();
    while (go || rounds < 2) {
        rounds++;
        if (sum(100000) != wanted) abort();
    }
    return 0;
}
"""


def test_one_that_calculates_goes_on_with_all_its_registers(tmp_path: Path) -> None:
    program = build_program(tmp_path, SUM, "-O3", "-march=native", "-mno-fma")
    with started(program) as process:
        for _ in range(30):
            assert call(process.pid, times=5) == [process.pid] * 5
        os.kill(process.pid, signal.SIGTERM)
        finish(process)


def test_a_stopped_process_makes_them_and_stays_stopped(tmp_path: Path) -> None:
    with started(build_program(tmp_path, "int main(void) { ready(); until_told(); }")) as process:
        os.kill(process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        for _ in range(3):
            assert call(process.pid) == [process.pid]
            while state(process.pid) in "tR":  # on its way
                pass
            assert state(process.pid) == "T"
        os.kill(process.pid, signal.SIGCONT)
        finish(process)


SIGNALS = """
static volatile int sent, got, go = 1;
static void handle(int number) { got++; }
static void *send(void *thread) {
    for (; go; usleep(50)) if (!sigqueue(getpid(), SIGRTMIN, (union sigval){ 0 })) sent++;
    return NULL;
}
int main(void) {
    pthread_t thread;
    sigset_t none, rt;
    sigemptyset(&none); sigemptyset(&rt); sigaddset(&rt, SIGRTMIN);
    signal(SIGRTMIN, handle);
    pthread_sigmask(SIG_BLOCK, &rt, NULL);
    pthread_create(&thread, NULL, send, NULL);
    pthread_sigmask(SIG_SETMASK, &none, NULL);
    ready();
    until_told();
    go = 0;
    pthread_join(thread, NULL);
    for (int each = 0; each < 1000 && got != sent; each++) usleep(1000);
    return got != sent || !sent;
}
"""


def test_no_signal_is_lost_or_given_twice(tmp_path: Path) -> None:
    with started(build_program(tmp_path, SIGNALS)) as process:
        for _ in range(20):
            assert call(process.pid, times=5) == [process.pid] * 5
        finish(process)
