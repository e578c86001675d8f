"""A program in which everything happens at once, while its sites are switched.

Threads call through all sites of three libraries and of the program, and compare what that gives
with what it gave before. Others send themselves signals, fork, vfork and give birth to threads. At
the end the program counts what it did; a signal or a child that is lost is missed then.

Run as a script with a PID, and by which method, it switches that process off and on until it is
killed.
"""

import itertools
import random
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from patcher.process.live_sites import LiveSites
from patcher.process.mending import CarryOut
from patcher.process.switch import by_breakpoints, in_a_halt, make, select
from patcher.process.target import Target
from recordmcount.sites.state import State
from tests.support import live
from tests.support.command import ROOT

LIBRARIES = ("one", "two", "three")
MAIN = """
#define THREADS COUNT
static volatile int go = 1;
static volatile long sent, received, forks, births, rounds;
QUIET static void handle(int number) { __atomic_add_fetch(&received, 1, __ATOMIC_RELAXED); }
QUIET static unsigned all(unsigned x) { return three(two(one(work(x)))); }
QUIET static void *call(void *nothing) {
    unsigned expected = all(3);
    while (go) {
        if (all(3) != expected) abort();
        if (PAUSE) usleep(PAUSE);
        __atomic_add_fetch(&rounds, 1, __ATOMIC_RELAXED);
    }
    return NULL;
}
QUIET static void *born(void *nothing) {
    __atomic_add_fetch(&births, 1, __ATOMIC_RELAXED);
    return NULL;
}
QUIET static void *live_on(void *nothing) {
    while (go) {
        pthread_t thread;
        long before = births;
        if (!pthread_create(&thread, NULL, born, NULL) && pthread_join(thread, NULL)) abort();
        if (births != before + 1) abort();
        int status;
        pid_t child = fork();
        if (!child) { alarm(0); _exit(all(3) & 1 ? 7 : 7); }
        if (waitpid(child, &status, 0) != child || !WIFEXITED(status) || WEXITSTATUS(status) != 7)
            abort();
        child = vfork();
        if (!child) _exit(8);
        if (waitpid(child, &status, 0) != child || !WIFEXITED(status) || WEXITSTATUS(status) != 8)
            abort();
        forks++;
    }
    return NULL;
}
QUIET static void *send(void *nothing) {
    struct timespec millisecond = {0, 1000000};
    while (go) {
        if (!sigqueue(getpid(), SIGRTMIN, (union sigval){0})) sent++;
        nanosleep(&millisecond, NULL);
    }
    return NULL;
}
QUIET int main(void) {
    pthread_t threads[THREADS + 2];
    struct sigaction action = {.sa_handler = handle, .sa_flags = SA_RESTART};
    sigaction(SIGRTMIN, &action, NULL);
    for (int i = 0; i < THREADS; i++) pthread_create(&threads[i], NULL, call, NULL);
    pthread_create(&threads[THREADS], NULL, live_on, NULL);
    pthread_create(&threads[THREADS + 1], NULL, send, NULL);
    ready();
    until_told();
    go = 0;
    for (int i = 0; i < THREADS + 2; i++) pthread_join(threads[i], NULL);
    for (int i = 0; i < 1000 && received < sent; i++) usleep(1000);
    if (sent != received || sent < 10 || forks < 1 || rounds < THREADS) {
        printf("sent %ld, received %ld, forks %ld, rounds %ld\\n", sent, received, forks, rounds);
        return 1;
    }
    return 0;
}
"""


class Storm(NamedTuple):
    """The `program`, and how many `sites` it has with its libraries."""

    program: Path
    sites: int


def functions(name: str, count: int, seeds: random.Random) -> str:
    """Functions of many lengths, so that sites lie at all offsets; `name` calls them all."""
    lines = []
    for number in range(count):
        if number % 25 == 0:  # its site, which is its first instruction, lies in two pages
            lines.append(f'__asm__(".balign 4096; .skip {4095 - number // 25 % 5}");\n')
        filler = ", ".join("0x90" for _ in range(seeds.randrange(1, 64)))
        lines.append(
            f"__attribute__((noinline)) static unsigned {name}_{number}(unsigned x) {{\n"
            f'    if (x == {seeds.getrandbits(31)}) __asm__ volatile(".byte {filler}");\n'
            f"    return x * {seeds.getrandbits(31) | 1}u + {number}u;\n}}\n"
        )
    calls = "".join(f"    x = {name}_{number}(x);\n" for number in range(count))
    return f"{''.join(lines)}unsigned {name}(unsigned x) {{\n{calls}    return x;\n}}\n"


def build(folder: Path, sites: int, *, threads: int, pause: int) -> Storm:
    """Build the program with so many sites in each of its libraries, and a few of its own.

    So many of its threads call them, and pause each time for so many microseconds.
    """
    seeds = random.Random(2008)
    flags = ("-falign-functions=1", "-fno-toplevel-reorder")
    libraries = [
        live.library(folder, name, functions(name, sites - 1, seeds), *flags) for name in LIBRARIES
    ]
    declared = "".join(f"unsigned {name}(unsigned);\n" for name in LIBRARIES)
    main = declared + MAIN.replace("COUNT", str(threads), 1).replace("PAUSE", str(pause))
    program = live.build(
        folder, main, flags=flags, link=[*libraries, f"-Wl,-rpath,{folder}"], name="storm"
    )
    return Storm(program, len(LIBRARIES) * sites + 3)


def all_sites(modules: Sequence[LiveSites]) -> list[Sequence[int]]:
    """Every site of every module."""
    return select("storm", modules)


def toggle(pid: int, state: State, carry_out: CarryOut | None = None) -> int:
    """Bring all sites to a state; how many there are, of which all are in it then."""
    with Target(pid, 30) as target:
        modules, _ = make(target, (), all_sites, state, carry_out)
        total = sum(map(len, modules))
        after = target.modules()
        in_it = sum(len(module.where(range(len(module)), state)) for module in after)
        assert in_it == total
        return total


def toggling(pid: int, carry_out: CarryOut = in_a_halt) -> subprocess.Popen[bytes]:
    """Start a process that switches `pid` off and on until a signal ends it, when it has begun."""
    words = [sys.executable, "-m", "tests.support.storm", str(pid), carry_out.__name__]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout
    assert process.stdout.readline() == b"begun\n"
    return process


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGQUIT):  # which jobs in the background ignore
        signal.signal(number, signal.SIG_DFL)
    how = {each.__name__: each for each in (in_a_halt, by_breakpoints)}[sys.argv[2]]
    with Target(int(sys.argv[1]), 30) as target:
        for state in itertools.cycle((State.NOP, State.CALL)):
            make(target, (), all_sites, state, how)
            if state is State.NOP:
                sys.stdout.write("begun\n")
                sys.stdout.flush()
