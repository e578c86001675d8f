"""Sites are switched while everything happens in the process, and while patchers are killed."""

import random
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from patcher.errors import ModuleError, ReadError, StateError
from patcher.process.memory import ProcessMemory
from patcher.process.mending import CarryOut
from patcher.process.proc import Proc
from patcher.process.switch import by_breakpoints, in_a_halt, make
from patcher.process.target import Target
from recordmcount.sites.state import State
from tests.support import churn, live, storm
from tests.support.processes import finish, started
from tests.support.storm import Storm

pytestmark = pytest.mark.process

STATES = (State.NOP, State.CALL)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Storm:
    return storm.build(tmp_path_factory.mktemp("storm"), 300, threads=16, pause=1000)


def test_all_sites_are_switched_while_all_threads_call_them(small: Storm) -> None:
    with started(small.program) as process:
        for number in range(24):
            assert storm.toggle(process.pid, STATES[number % 2]) == small.sites
        finish(process)


def test_some_of_the_sites_lie_in_two_pages(small: Storm) -> None:
    with started(small.program) as process, Target(process.pid, 30) as target:
        sites = [each for module in target.modules() for each in module.ranges()]
        assert sum(each.start // 4096 != (each.end - 1) // 4096 for each in sites) >= 30
        assert sum(each.start // 64 != (each.end - 1) // 64 for each in sites) >= 30


def test_a_killed_patcher_leaves_every_site_whole_and_every_thread_running(small: Storm) -> None:
    seeds = random.Random(2012)
    with started(small.program) as process:
        for _ in range(30):
            with storm.toggling(process.pid) as patcher:
                time.sleep(seeds.uniform(0, 0.05))
                patcher.kill()
            assert patcher.returncode == -signal.SIGKILL
            with Target(process.pid, 30) as target:
                states = [len(m.where(range(len(m)), State.FOREIGN)) for m in target.modules()]
                assert sum(states) == 0
            with Proc(process.pid) as proc:
                assert int(proc.status()["TracerPid"]) == 0
                assert "t" not in set(_states(proc))
        for state in STATES:
            assert storm.toggle(process.pid, state) == small.sites
        finish(process)


def _states(proc: Proc) -> Iterator[str]:
    for tid in proc.threads():
        with suppress(OSError):  # it has ended meanwhile
            yield proc.stat(tid).state


# --- libraries come and go ------------------------------------------------------------------------


@pytest.mark.parametrize("carry_out", [in_a_halt, by_breakpoints])
def test_only_live_modules_are_written_while_libraries_come_and_go(
    carry_out: CarryOut, tmp_path: Path
) -> None:
    built = churn.build(tmp_path, pause=300)
    with started(built.program, "1000", *built.libraries) as process:
        assert churn.toggle_until_done(process, built.texts, carry_out) >= 10
        finish(process)


def test_what_is_told_of_libraries_that_come_and_go_is_of_those_that_are_there(
    tmp_path: Path,
) -> None:
    built = churn.build(tmp_path, pause=20_000)
    with started(built.program, "1000000", *built.libraries) as process:
        told = 0
        while told < 60:
            with Target(process.pid, 30) as target:
                try:
                    modules = target.settled_modules()
                except (ReadError, StateError):  # each time it looked: this machine is busy
                    continue
            told += 1
            assert str(built.program) in {module.file.path for module in modules}
            assert not any(m.where(range(len(m)), State.FOREIGN) for m in modules)


@pytest.mark.parametrize("seen", ["once", "always", "and it is gone"])
def test_what_is_another_build_for_a_moment_has_gone_and_come_again(
    seen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when another library is where it was while we look."""
    program = str(live.build(tmp_path))
    with started(program) as process, Target(process.pid, 30) as target:
        (mappings,) = [each for each in target.files() if each[0].path == program]
        read, wrong = ProcessMemory.read, [b"other"]

        def other(memory: ProcessMemory, address: int, size: int) -> bytes:
            if seen == "once":
                return wrong.pop() if wrong else read(memory, address, size)
            return b"other"

        monkeypatch.setattr(ProcessMemory, "read", other)
        if seen == "once":
            assert [len(each) for each in target.sites(mappings)] == [3]
        elif seen == "always":
            with pytest.raises(ModuleError, match="is another build than its file"):
                list(target.sites(mappings))
        else:
            monkeypatch.setattr(ProcessMemory, "mappings", lambda _: [])
            with pytest.raises(ReadError, match="no longer text"):
                list(target.sites(mappings))


AGAIN = """
QUIET int main(int count, char **words) {
    if (!words[1]) ready();
    work(3);
    execl(words[0], words[0], "again", NULL);
    return 1;
}
"""


def test_a_program_that_is_executed_again_and_again_always_has_its_sites(tmp_path: Path) -> None:
    with started(live.build(tmp_path, AGAIN)) as process:
        for _ in range(80):
            with Target(process.pid, 30) as target:
                (module,), _ = make(target, (), storm.all_sites, State.NOP)
                assert len(module) == 3
        assert process.poll() is None
