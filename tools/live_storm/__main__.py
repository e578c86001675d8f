"""What tools/live does; see there."""

import argparse
import random
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from patcher.process.mending import CarryOut
from patcher.process.proc import Proc
from patcher.process.switch import by_breakpoints, in_a_halt
from patcher.process.target import Target
from recordmcount.sites.state import State
from tests.support import churn, real_programs, storm
from tests.support.processes import finish, started
from tools.live_storm import traces

EVERY = 100  # toggles or kills between two lines
TRACES = 200  # of each program


def toggle(pid: int, count: int, sites: int, carry_out: CarryOut) -> None:
    """Switch everything off and on."""
    name = carry_out.__name__.replace("_", " ")
    for number in range(1, count + 1):
        state = State.NOP if number % 2 else State.CALL
        found = storm.toggle(pid, state, carry_out)
        if found != sites:
            raise SystemExit(f"{found} sites, not {sites}")
        if not number % EVERY:
            print(f"{number} toggles of {sites} sites {name}", flush=True)


def kill(pid: int, count: int) -> None:
    """Kill patchers while they switch, and look at all sites after each."""
    seeds = random.Random(1)
    mixed = 0
    for number in range(1, count + 1):
        with storm.toggling(pid) as patcher:
            time.sleep(seeds.uniform(0, 0.2))
            patcher.kill()
        with Target(pid, 30) as target:
            states = dict.fromkeys((State.CALL, State.NOP, State.FOREIGN), 0)
            halves = 0
            for module in target.modules():
                halves += len(module.halves)
                for state in states:
                    states[state] += len(module.where(range(len(module)), state))
        if states[State.FOREIGN]:
            raise SystemExit(f"after kill {number}: {states}")
        with Proc(pid) as proc:
            if int(proc.status()["TracerPid"]):
                raise SystemExit(f"after kill {number}: it is traced")
        mixed += all(states[state] for state in (State.CALL, State.NOP))
        if halves:
            print(f"kill {number}: {halves} sites half written, and harmless", flush=True)
        if not number % EVERY:
            print(f"{number} patchers killed, {mixed} of them half-way", flush=True)


def come_and_go(folder: Path, count: int) -> None:
    """Switch everything off and on while libraries come and go, and look at all text after each."""
    built = churn.build(folder, pause=300)
    with started(built.program, str(count), *built.libraries) as process:
        done = churn.toggle_until_done(process, built.texts)
        finish(process)
    print(f"{done} toggles in {count} cycles of libraries that come and go", flush=True)


def real(folder: Path, counts: Mapping[CarryOut, int]) -> None:
    """Switch everything off and on in programs that nobody here wrote; results must be the same."""
    lua, zstd = (build(folder / name) for name, build in real_programs.BUILD.items())
    for job in (real_programs.script(lua, TRACES), real_programs.compression(zstd, TRACES)):
        traces.rounds(job, folder, TRACES)
    for job in (real_programs.script(lua, EVERY), real_programs.compression(zstd, EVERY)):
        wanted, _ = real_programs.alone(job)
        for how, count in counts.items():
            done = f"toggles of {Path(job.words[0]).name} {how.__name__.replace('_', ' ')}"
            for number in range(EVERY, count + 1, EVERY):
                if real_programs.switched(job, folder, how)[0] != wanted:
                    raise SystemExit(f"{job.words[0]}: another result than alone")
                print(f"{number} {done}", flush=True)


def main() -> None:
    """Build, toggle, kill; then other programs, by the same numbers."""
    parser = argparse.ArgumentParser(prog="tools/live")
    for name, default in (
        ("toggles", 2000),
        ("breakpoints", 500),
        ("kills", 1000),
        ("cycles", 10_000),
        ("sites", 2000),
        ("threads", 16),
        ("events", 300_000_000),
        ("tracers", 300),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--pause", type=int, default=2000, help="microseconds between two rounds")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        built = storm.build(Path(folder), asked.sites, threads=asked.threads, pause=asked.pause)
        with started(built.program) as process:
            toggle(process.pid, asked.toggles, built.sites, in_a_halt)
            toggle(process.pid, asked.breakpoints, built.sites, by_breakpoints)
            kill(process.pid, asked.kills)
            for state in (State.NOP, State.CALL):
                storm.toggle(process.pid, state)
            finish(process)
        traces.kills(Path(folder), asked.tracers)
        traces.calls(Path(folder), asked.events)
        come_and_go(Path(folder), asked.cycles)
        real(Path(folder), {in_a_halt: asked.toggles, by_breakpoints: asked.breakpoints})
    print("nothing was lost, and nothing is other than it should be")


if __name__ == "__main__":
    main()
