"""A program that tells what one call of a function takes, built for each way to trace it.

It answers each line `THREADS CALLS` with the nanoseconds that a call of `traced` takes more than
one of the same function without a site, in so many threads at once. That is the least of many
pieces, or of several threads the median: not that of a moment in which only one of them ran.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Self

from tools.benchmark.measure import BenchmarkError

SOURCE = """\
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#define QUIET __attribute__((no_instrument_function, noinline, aligned(64)))
#define PIECES 64
__attribute__((noinline, aligned(64))) void traced(void) { __asm__ volatile(""); }
QUIET void untraced(void) { __asm__ volatile(""); }
static unsigned long calls;
static int chosen;
static pthread_barrier_t together;
QUIET static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1e9 + time.tv_nsec;
}
QUIET static double of_traced(void) {
    double before = now();
    for (unsigned long n = 0; n < calls; n++) traced();
    return now() - before;
}
QUIET static double of_untraced(void) {
    double before = now();
    for (unsigned long n = 0; n < calls; n++) untraced();
    return now() - before;
}
QUIET static int order(const void *one, const void *other) {
    double difference = *(const double *)one - *(const double *)other;
    return (difference > 0) - (difference < 0);
}
QUIET static void *measure(void *result) {
    double bare[PIECES], taken[PIECES];
    for (int piece = 0; piece < PIECES; piece++) {
        pthread_barrier_wait(&together);
        bare[piece] = of_untraced();
        pthread_barrier_wait(&together);
        taken[piece] = of_traced();
    }
    qsort(bare, PIECES, sizeof *bare, order);
    qsort(taken, PIECES, sizeof *taken, order);
    *(double *)result = (taken[chosen] - bare[0]) / calls;
    return NULL;
}
QUIET int main(void) {
    unsigned threads;
    while (scanf("%u %lu", &threads, &calls) == 2 && threads && threads <= 1024) {
        pthread_t others[1024];
        double results[1024], all = 0;
        calls = calls / PIECES + 1;
        chosen = threads > 1 ? PIECES / 2 : 0;
        pthread_barrier_init(&together, NULL, threads);
        for (unsigned n = 1; n < threads; n++)
            if (pthread_create(&others[n], NULL, measure, &results[n])) abort();
        measure(&results[0]);
        for (unsigned n = 1; n < threads; n++) pthread_join(others[n], NULL);
        for (unsigned n = 0; n < threads; n++) all += results[n];
        printf("%.4f\\n", all / threads);
        fflush(stdout);
        pthread_barrier_destroy(&together);
    }
}
"""
# What a site calls where nothing traces: it returns at once.
RETURNS = '__attribute__((naked)) void __fentry__(void) { __asm__("ret"); }\n'
FLAGS = ["-O2", "-fno-pie", "-no-pie", "-pthread"]


def build(scratch: Path) -> dict[str, Path]:
    """Build it, and return the programs by what their sites are.

    `call`: calls of a function that returns at once; `nop`: the same, turned off by patcher;
    `fentry`: calls of the C library's __fentry__, for a tracer that brings its own; `plain`: none,
    for who needs none; `functions`: calls at entry and return, by -finstrument-functions.
    """
    source, returns = scratch / "calls.c", scratch / "returns.c"
    source.write_text(SOURCE)
    returns.write_text(RETURNS)
    programs = {
        name: scratch / f"calls.{name}" for name in ("call", "nop", "fentry", "plain", "functions")
    }
    recorded = scratch / "calls.o"
    _run("gcc", *FLAGS, "-pg", "-mfentry", "-c", "-o", recorded, source)
    _run(sys.executable, "-m", "recordmcount", recorded)
    # gcc links with gcrt1.o for -pg, which counts calls and has a profile written at the end.
    _run("gcc", *FLAGS, "-o", programs["call"], recorded, returns)
    _run(sys.executable, "-m", "patcher", "nop", "-q", "-o", programs["nop"], programs["call"])
    _run("gcc", *FLAGS, "-o", programs["fentry"], recorded)
    _run("gcc", *FLAGS, "-fno-omit-frame-pointer", "-o", programs["plain"], source)
    _run("gcc", *FLAGS, "-finstrument-functions", "-o", programs["functions"], source)
    return programs


def _run(*words: str | Path) -> None:
    subprocess.run(words, check=True)


class Calls:
    """The program while it runs, during its `with`: under `words` before it, if there are any."""

    def __init__(self, program: Path, *words: str, **variables: str) -> None:
        self.program = program
        self._process = subprocess.Popen(
            [*words, program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            stderr=subprocess.PIPE, env={**os.environ, **variables},
        )  # fmt: skip
        self.pid = self._process.pid

    def measure(self, calls: int, threads: int = 1) -> float:
        """Return how many nanoseconds a call takes. Raises BenchmarkError if it has ended."""
        assert self._process.stdin
        assert self._process.stdout
        try:
            self._process.stdin.write(f"{threads} {calls}\n")
            self._process.stdin.flush()
            return float(self._process.stdout.readline())
        except (BrokenPipeError, ValueError) as error:
            self._process.kill()
            _, said = self._process.communicate()
            raise BenchmarkError(f"{self.program.name} has ended: {said[-500:].strip()}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Tell it to end, and wait for that."""
        self._process.communicate()
