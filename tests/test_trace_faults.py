"""What becomes of a process if something fails while it begins to be traced, or ends to be."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from errno import ENOSPC
from pathlib import Path

import pytest

from patcher.errors import AccessError, CompareError, NoProcessError, ReadError, StateError
from patcher.ftrace.mappings import Mapping, Range
from patcher.process import regions
from patcher.process.memory import ProcessMemory
from patcher.process.target import Target
from patcher.trace import installation, mapping, rings
from patcher.trace.clock import Clock
from patcher.trace.family import TRIES, Family
from patcher.trace.layout import DATA, EVENT, EVENT_SIZE, HEAD
from patcher.trace.mapping import MEMFD
from patcher.trace.rings import Rings, Shape
from patcher.trace.session import Session
from patcher.trace.traced import Asked, Traced
from patcher.trace.ways import choose
from tests.support import command, live, returns
from tests.support.command import ROOT
from tests.support.live import ask
from tests.support.processes import finish, started
from tests.support.traced import TIMEOUT, memory, tracing

pytestmark = pytest.mark.process

FAR = """
int inside(int);
int work(int x) { return inside(x) + 1; }
"""
# Says the PID of a child, which waits until it is killed.
BEARS = """
QUIET int main(void) {
    ready();
    until_told();
    int child = fork();
    if (!child) for (;;) pause();
    printf("%d\\n", child);
    fflush(stdout);
    until_told();
    kill(child, SIGKILL);
    return 0;
}
"""


def asked(**changed: object) -> Asked:
    usual = Asked((), (), (), (), False, False, (), TIMEOUT, 1 << 16, False, False)
    return usual._replace(**changed)  # type: ignore[arg-type]


def fail(error: Exception) -> Callable[..., None]:
    def failing(*_: object, **__: object) -> None:
        raise error

    return failing


# --- memory ---------------------------------------------------------------------------------------


def test_no_site_calls_a_region_that_could_not_be_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = live.library(tmp_path, "far", "int inside(int x) { return x + 1; }")
    link: list[str | Path] = ["-no-pie", library, f"-Wl,-rpath,{tmp_path}"]
    program = live.build(tmp_path, flags=["-fno-pie"], link=link, work=FAR)
    with (
        started(program) as process,
        tracing(process.pid, "work") as trace,
        Target(process.pid, TIMEOUT) as target,
    ):
        module = next(each for each in target.settled_modules() if each.file.path == str(library))
        chosen = choose(target.name, module, range(len(module)), exits=False)
        with monkeypatch.context() as patch:
            patch.setattr(installation, "apart", fail(StateError("", "not now")))
            with pytest.raises(StateError, match="not now"):
                trace.session.add([chosen])
        assert ask(process) == (5, 1)
        trace.session.add([chosen])
        assert ask(process) == (5, 0)
        trace.stop()
        assert ask(process) == (5, 2)
        assert trace.told() == [("work", "main"), ("work", "main"), ("inside", "work")]
        finish(process)


def test_sites_that_could_not_be_changed_take_no_room_of_those_that_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        started(live.build(tmp_path)) as process,
        tracing(process.pid, "work", counts=True) as trace,
        Target(process.pid, TIMEOUT) as target,
    ):
        (module,) = target.settled_modules()
        numbers = [number for number in range(len(module)) if number not in module.traced]
        chosen = choose(target.name, module, numbers, exits=False)
        before = len(trace.session.counted)
        with monkeypatch.context() as patch:
            patch.setattr(installation, "switch", fail(CompareError("", "not now")))
            with pytest.raises(CompareError, match="not now"):
                trace.session.add([chosen])
        assert len(trace.session.counted) == before
        trace.session.add([chosen])
        assert ask(process) == (13, 0)
        assert trace.counts() == {"work": 1, "more": 1, "twice": 2}
        trace.end()
        finish(process)


def test_it_is_said_what_there_was_no_memory_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with started(live.build(tmp_path)) as process:
        before = memory(process.pid)
        monkeypatch.setattr(os, "posix_fallocate", fail(OSError(ENOSPC, os.strerror(ENOSPC))))
        with (
            pytest.raises(StateError, match="memory for the rings: No space left"),
            tracing(process.pid),
        ):
            pass
        assert memory(process.pid)._replace(regions=()) == before


def test_it_is_said_that_nobody_tells_which_processors_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rings, "CPUS", str(tmp_path))
    with pytest.raises(AccessError, match=f"{tmp_path}/possible: No such file"):
        rings.processors("possible")


def test_code_that_is_unmapped_meanwhile_is_no_region() -> None:
    class Memory:
        def mappings(self) -> Sequence[Mapping]:
            return [
                Mapping(Range(0x1000, 0x3000), "r-xp", 0, 0),
                Mapping(Range(0x3000, 0x4000), "rw-p", 0, 0),
            ]

        read = staticmethod(fail(ReadError("", "is not there")))

    looked_at: ProcessMemory = Memory()  # type: ignore[assignment]
    assert not regions.find(looked_at)


# --- who ends meanwhile ---------------------------------------------------------------------------


def test_a_process_that_is_killed_while_a_thread_maps_memory_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with started(live.build(tmp_path)) as process:
        pid, map_regions = process.pid, mapping.map_regions

        def kill(*arguments: object) -> None:
            os.kill(pid, signal.SIGKILL)
            map_regions(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(mapping, "map_regions", kill)
        with pytest.raises(NoProcessError, match="has ended"), tracing(pid):
            pass


@pytest.mark.parametrize("words", [["--pid", "PID"], ["PROGRAM"]], ids=["process", "command"])
def test_children_that_nobody_wants_to_hear_of_are_heard_of(
    words: Sequence[str], tmp_path: Path
) -> None:
    program = live.build(tmp_path)
    with started(program) as process:
        values = {"PID": str(process.pid), "PROGRAM": str(program)}
        done = subprocess.run(
            ["sh", "-c", 'trap "" CHLD; exec "$@"', "sh", sys.executable, "-m", "patcher", "trace",
             "--duration", "1", *(values.get(word, word) for word in words)],
            check=False, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "0 events" in done.stderr


# --- children -------------------------------------------------------------------------------------


def bear(process: subprocess.Popen[str]) -> int:
    """Have a child made; its PID."""
    assert process.stdin
    assert process.stdout
    process.stdin.write("\n")
    process.stdin.flush()
    return int(process.stdout.readline())


def test_a_child_that_is_born_when_all_is_over_is_not_traced(tmp_path: Path) -> None:
    with (
        started(live.build(tmp_path, BEARS)) as process,
        Traced(process.pid, asked(), Clock(), print) as traced,
        Family(traced, print, follows=True) as family,
    ):
        traced.start()
        family.end()
        child = bear(process)
        family.look()
        assert not [each for each in memory(child).mappings if MEMFD in each]
        finish(process)


def test_a_child_that_there_is_no_memory_for_is_told_and_keeps_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    with (
        started(live.build(tmp_path, BEARS)) as process,
        Traced(process.pid, asked(), Clock(), print) as traced,
        Family(traced, said.append, follows=True) as family,
    ):
        traced.start()
        child = bear(process)
        with monkeypatch.context() as patch:
            patch.setattr(os, "posix_fallocate", fail(OSError(ENOSPC, os.strerror(ENOSPC))))
            for _ in range(TRIES):
                family.look()
        (line,) = said
        assert f"child process {child} is not traced" in line
        assert "No space left" in line
        assert not [each for each in memory(child).mappings if MEMFD in each]
        family.end()
        finish(process)


# --- what is told ---------------------------------------------------------------------------------


def test_what_is_loaded_later_without_sites_does_not_take_return_sites_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = returns.compile_work(tmp_path, "-fpie")
    assert command.run("recordmcount", compiled).status == 0
    said: list[str] = []
    with (
        started(returns.link(tmp_path, [compiled], "pie").path) as process,
        Traced(process.pid, asked(exits=True), Clock(), said.append) as traced,
    ):
        traced.start()
        monkeypatch.setattr(Session, "forget_gone", lambda _: True)
        traced.refresh()
        traced.end()
        assert said == []
        finish(process)


def test_events_behind_a_slot_that_is_never_filled_are_lost_and_counted() -> None:
    """A thread may leave the code for ever by longjmp, from a signal handler."""
    descriptor = os.memfd_create("rings", os.MFD_ALLOW_SEALING)
    shared = os.dup(descriptor)
    shape = Shape(1, 1 << 12)
    with Rings(descriptor, shape, is_locked=True) as looked_at:
        for number, time_stamp in enumerate((5, 0, 7, 8)):
            os.pwrite(shared, EVENT.pack(time_stamp, 1, 2, 3, 4), DATA + number * EVENT_SIZE)
        os.pwrite(shared, (4 * EVENT_SIZE).to_bytes(8, "little"), HEAD)
        assert len(looked_at.read(0, 100)) == EVENT_SIZE
        assert looked_at.lost(0) == 0
        assert looked_at.lost(0, is_last=True) == 3
    os.close(shared)
