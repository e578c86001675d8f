"""Traces of programs in which everything happens at once: no call is missing, no kill harms."""

import random
import time
from pathlib import Path

from tests.support import call_storm, real_programs, storm
from tests.support.processes import finish, started
from tests.support.ring_checker import Checker
from tests.support.traced import kill_tracers, tracing

RING = 1 << 27  # bytes
BURST, PAUSE = 100, 3000  # cycles of each thread, and microseconds after them
ROUNDS = 20_000  # of each thread in one run of the program, of which TIDs are for one thread only


def calls(folder: Path, count: int) -> None:
    """Read so many events while they are written, and check each."""
    program = call_storm.build(folder)
    done = lost = backwards = 0
    began = time.monotonic()
    while done < count:
        left = (count - done) // (8 * BURST * len(call_storm.CYCLE)) + 1
        words = call_storm.words(program, rounds=min(left, ROUNDS), burst=BURST, pause=PAUSE)
        with started(*words) as process:
            with tracing(process.pid, data=RING) as trace:
                checker = Checker(folder, program, trace)
                made = call_storm.go(process, checker)
                trace.end()
                result = checker.result()
            finish(process)
        lost += result.lost
        backwards += result.backwards
        wrong = {name: number for name, number in result.wrong.items() if number}
        if result.lost:
            wrong.pop("gaps", None)
        if wrong or sum(result.calls.values()) + result.lost != sum(made.values()):
            told = sum(result.calls.values())
            raise SystemExit(
                f"of {sum(made.values())} calls {told} are told and {result.lost} lost: {wrong}"
            )
        if not result.lost and result.calls != made:
            raise SystemExit("a thread has more events than calls")
        done += sum(result.calls.values())
        seconds = time.monotonic() - began
        print(f"{done} events in {seconds:.0f} s, {lost} lost, none missing", flush=True)


def kills(folder: Path, count: int) -> None:
    """Kill so many tracers while they begin, read and end."""
    built = storm.build(folder, 300, threads=8, pause=1000)
    midway = 0
    with started(built.program) as process:
        for number, left in enumerate(kill_tracers(process.pid, count, random.Random(3)), 1):
            if left.sites not in (0, built.sites):
                raise SystemExit(f"{left.sites} of {built.sites} sites were traced")
            midway += left.sites > 0
            if not number % 50:
                print(f"{number} tracers killed, {midway} while sites were traced", flush=True)
        finish(process)


def rounds(job: real_programs.Job, folder: Path, count: int) -> None:
    """Trace a program that nobody here wrote so many times; its results must be the same."""
    name = Path(job.words[0]).name
    result, seen = real_programs.traced(job, folder)
    if result != real_programs.alone(job)[0]:
        raise SystemExit(f"{name}: another result than alone")
    print(f"{count} traces of {name}: {seen} events and counts, the same result", flush=True)
