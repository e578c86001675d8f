"""A program whose threads call traced functions while everything else happens to them.

Each worker calls the functions of CYCLE in order, again and again; an interval timer of its own
interrupts it, and its handler calls `handled`. A thread moves all of them from processor to
processor, another one lets threads be born that call `born` a few times. All count what they call.

The program waits until it is told to begin, and says who called how often when all is done.
"""

import re
import subprocess
from collections import Counter
from pathlib import Path
from select import select
from typing import Protocol

from tests.support import images, live
from tests.support.processes import PRELUDE
from tests.support.traced import Tracing

STEPS = 8
BIRTH = 100  # calls that a thread makes which is born and dies
CYCLE = (*(f"step_{number}" for number in range(STEPS)), "outer", "inner")
CALLERS = {
    **{f"step_{number}": "work" for number in range(STEPS)},
    "outer": "work", "inner": "outer", "handled": "handle", "born": "live",
}  # fmt: skip
SOURCE = """
#define QUIET __attribute__((no_instrument_function))
#define TRACED __attribute__((noinline, noclone)) static
#define MOST 65536
struct caller { int tid; volatile long calls; };
static struct caller callers[MOST];
static volatile int workers, next_caller, go_on = 1;
static __thread struct caller *mine;
static int rounds, burst, pause_for, interval, moves;
#define COUNT(n) __asm__ volatile("addq %1, %0" : "+m"(mine->calls) : "i"(n))
STEPS
TRACED void inner(void) { __asm__ volatile(""); }
TRACED void outer(void) { inner(); __asm__ volatile(""); }
TRACED void handled(void) { __asm__ volatile(""); }
TRACED void born(void) { __asm__ volatile(""); }
QUIET static void begin(void) {
    mine = &callers[__atomic_fetch_add(&next_caller, 1, __ATOMIC_SEQ_CST)];
    if (mine >= callers + MOST) abort();
    mine->tid = syscall(SYS_gettid);
}
QUIET __attribute__((noinline)) static void handle(int number) { handled(); COUNT(1); }
QUIET __attribute__((noinline)) static void work(void) {
    CALLS
    outer();
    COUNT(10);
}
QUIET static void rest(void) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += pause_for * 1000L;
    if (until.tv_nsec >= 1000000000) { until.tv_sec++; until.tv_nsec -= 1000000000; }
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL)) {}
}
QUIET static void *worker(void *nothing) {
    timer_t timer;
    begin();
    struct sigevent event = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGRTMIN };
    event._sigev_un._tid = mine->tid;
    struct itimerspec every = { { 0, interval }, { 0, interval } };
    if (interval && (timer_create(CLOCK_MONOTONIC, &event, &timer)
                     || timer_settime(timer, 0, &every, NULL))) abort();
    for (int round = 0; round < rounds; round++) {
        for (int each = 0; each < burst; each++) work();
        if (pause_for) rest();
    }
    if (interval) timer_delete(timer);
    __atomic_sub_fetch(&workers, 1, __ATOMIC_SEQ_CST);
    return NULL;
}
QUIET __attribute__((noinline)) static void *live(void *nothing) {
    begin();
    for (int each = 0; each < CALLS_IN_A_LIFE; each++) { born(); COUNT(1); }
    return NULL;
}
QUIET static void *give_birth(void *nothing) {
    while (go_on) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, live, NULL) || pthread_join(thread, NULL)) abort();
        usleep(1000);
    }
    return NULL;
}
QUIET static void *move(void *threads) {
    cpu_set_t all;
    sched_getaffinity(0, sizeof all, &all);
    for (int turn = 0; go_on; turn++) {
        for (int each = 0; each < workers; each++) {
            cpu_set_t one;
            CPU_ZERO(&one);
            int cpu = (turn + each) % CPU_COUNT(&all), at = -1;
            while (cpu >= 0) if (CPU_ISSET(++at, &all)) cpu--;
            CPU_SET(at, &one);
            int tid = callers[each].tid;
            if (tid && moves) sched_setaffinity(tid, sizeof one, &one);
        }
        usleep(moves ? moves : 1000);
    }
    return NULL;
}
QUIET int main(int count, char **words) {
    struct sigaction action = { .sa_handler = handle, .sa_flags = SA_RESTART };
    int threads = atoi(words[1]);
    rounds = atoi(words[2]); burst = atoi(words[3]); pause_for = atoi(words[4]);
    interval = atoi(words[5]); moves = atoi(words[6]);
    sigaction(SIGRTMIN, &action, NULL);
    ready();
    until_told();
    pthread_t all[threads + 2];
    workers = threads;
    for (int each = 0; each < threads; each++) pthread_create(&all[each], NULL, worker, NULL);
    pthread_create(&all[threads], NULL, move, NULL);
    pthread_create(&all[threads + 1], NULL, give_birth, NULL);
    for (int each = 0; each < threads; each++) pthread_join(all[each], NULL);
    go_on = 0;
    for (int each = threads; each < threads + 2; each++) pthread_join(all[each], NULL);
    for (int each = 0; each < next_caller; each++)
        printf("%d %ld\\n", callers[each].tid, callers[each].calls);
    puts("done");
    fflush(stdout);
    until_told();
    return 0;
}
__attribute__((naked, no_instrument_function)) void __fentry__(void) { __asm__("ret"); }
"""


def build(folder: Path) -> Path:
    """Build the program, all of whose sites are NOPs."""
    steps = CYCLE[:STEPS]
    words = {
        "STEPS": "\n".join(
            f'TRACED void {step}(void) {{ __asm__ volatile(""); }}' for step in steps
        ),
        "CALLS": " ".join(f"{step}();" for step in steps),
        "CALLS_IN_A_LIFE": str(BIRTH),
    }
    source = re.sub(r"\b[A-Z_]+\b", lambda found: words.get(found[0], found[0]), SOURCE)
    path = folder / "storm.c"
    path.write_text(live.without_instrumentation(PRELUDE) + source)
    flags = ("-O1", "-fno-pie", "-pg", "-mfentry", "-mrecord-mcount", "-mnop-mcount")
    images.tool("gcc", *flags, "-no-pie", "-pthread", path, "-o", folder / "storm")
    return folder / "storm"


def words(program: Path, *, threads: int = 8, rounds: int, burst: int, pause: int = 0,
          interval: int = 200_000, moves: int = 200) -> list[str | Path]:  # fmt: skip
    """The command line: so many rounds of so many cycles a thread, with a pause between them.

    `pause` and `moves` are in microseconds, the `interval` of signals in nanoseconds; 0 for none.
    """
    return [program, *map(str, (threads, rounds, burst, pause, interval, moves))]


def tell(process: subprocess.Popen[str]) -> None:
    """Have it begin."""
    assert process.stdin
    process.stdin.write("\n")
    process.stdin.flush()


class Reader(Protocol):
    """Who reads a trace."""

    def read(self) -> int:
        """Read what there is."""


def go(process: subprocess.Popen[str], reader: Reader | None = None) -> Counter[int]:
    """Have it begin, read until all is done, and return how many calls each TID made."""
    tell(process)
    assert process.stdout
    while reader and not select([process.stdout], [], [], 0.001)[0]:
        reader.read()
    calls: Counter[int] = Counter()
    while (line := process.stdout.readline()) != "done\n":
        tid, count = map(int, line.split())
        calls[tid] += count
    return calls


def check(trace: Tracing, calls: Counter[int]) -> None:
    """Every event is one of the program's calls, and what is missing was counted as lost."""
    found = Counter(event.tid for event in trace.events)
    assert set(found) <= set(calls)
    assert not {tid: (n, calls[tid]) for tid, n in found.items() if n > calls[tid]}
    assert len(trace.events) + trace.lost == sum(calls.values())
    if not trace.lost:
        assert found == calls
    check_order(trace, since=None if trace.lost else 0)


def check_order(trace: Tracing, since: int | None) -> None:
    """Sites and callers are known, time goes on, and `since` a time nothing is missing."""
    last: dict[int, int] = {}
    following: dict[int, int] = {}
    places = {name: number for number, name in enumerate(CYCLE)}
    for event in trace.events:
        name = trace.names.function(event.site)
        assert trace.names.caller(event.caller) == CALLERS[name], event
        assert last.get(event.tid, 0) <= event.time, (event, "is told after what came after it")
        last[event.tid] = event.time
        if since is None or event.time <= since or (place := places.get(name)) is None:
            continue
        assert following.get(event.tid, place) == place, (event, "does not follow")
        following[event.tid] = (place + 1) % len(CYCLE)
