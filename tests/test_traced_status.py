"""`patcher status` of a process that is traced, was, or was forked while its parent was."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from patcher.process import traces
from patcher.process.regions import NOBODY
from patcher.process.target import Target
from patcher.report.document import SCHEMA
from recordmcount.report.json import schema
from tests.support import command, live
from tests.support.live import CALLS, ask, patch, refused
from tests.support.processes import started
from tests.support.terminal import drawn_on
from tests.support.tracer import is_traced, tracing
from tests.test_watch import begin, watching

pytestmark = pytest.mark.process

# Works on any line but `fork`, for which it tells the PID of a child that waits for its death.
MAIN = """
QUIET int main(void) {
    char line[4096];
    ready();
    while (fgets(line, sizeof line, stdin)) {
        unsigned long before = calls;
        if (!strcmp(line, "fork\\n")) {
            int child = fork();
            if (!child) { prctl(PR_SET_PDEATHSIG, SIGKILL); for (;;) pause(); }
            printf("%d\\n", child);
        } else {
            int result = work(3);
            printf("%d %lu\\n", result, calls - before);
        }
        fflush(stdout);
    }
    return 0;
}
"""
VALIDATOR = jsonschema.Draft202012Validator(schema(SCHEMA))


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return live.build(tmp_path_factory.mktemp("program"), MAIN)


@pytest.fixture
def process(program: Path) -> Iterator[subprocess.Popen[str]]:
    with started(program) as process:
        yield process


def fork(process: subprocess.Popen[str]) -> int:
    assert process.stdin
    assert process.stdout
    process.stdin.write("fork\n")
    process.stdin.flush()
    return int(process.stdout.readline())


def status(pid: int, *options: str) -> tuple[int, list[str]]:
    done = command.run("patcher", "status", "--pid", str(pid), *options)
    assert done.stderr == ""
    return done.status, done.stdout.splitlines()


def document(pid: int, exit_status: int) -> dict[str, Any]:
    """What --json tells of the process."""
    found, lines = status(pid, "--json")
    told = json.loads("\n".join(lines))
    VALIDATOR.validate(told)
    assert (found, told["errors"]) == (exit_status, [])
    assert isinstance(told["process"], dict)
    return told["process"]


def name(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().rstrip("\n")


def kill(pid: int) -> None:
    """Kill a tracer, and wait until it is dead; that it is waited for is for others."""
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def end_of(pid: int) -> str:
    return f"`patcher trace --detach --pid {pid}` ends the trace"


def test_it_tells_by_whom_it_is_traced(process: subprocess.Popen[str], program: Path) -> None:
    who = f"process {process.pid} (target)"
    with tracing(process.pid, "--count") as trace:
        by = f"traced by patcher, process {trace.pid} ({name(trace.pid)})"
        found, (total, traced, _, counts, *sites) = status(process.pid)
        assert found == 0
        assert total == f"{who}: 3 sites: 0 call, 0 nop, 0 foreign, 3 traced"
        assert traced == f"{who}: {by}: 3 sites"
        assert counts == f"{program}: 3 sites: 0 call, 0 nop, 0 foreign, 3 traced"
        assert all(each.endswith(": traced  (a call before)") for each in sites)
        told = document(process.pid, 0)
        assert told["trace"] == {
            "sites": 3, "state": "running", "pid": trace.pid, "name": name(trace.pid),
        }  # fmt: skip
        (module,) = told["modules"]
        assert module["states"] == {"call": 0, "nop": 0, "foreign": 0, "traced": 3}
        for site in module["sites"]:
            assert (site["state"], site["reason"], site["decoded"], site["expected"]) == (
                "traced", "a call before", None, [],
            )  # fmt: skip
        for verb in ("nop", "call"):
            for options in ([], ["-n"], ["--protocol", "breakpoint"]):
                assert refused(verb, process.pid, *options) == (
                    f"{who}: {by}: end that first; nothing was written"
                )
        assert trace.end()[0] == 0
    assert status(process.pid, "-q") == (0, [f"{who}: 3 sites: 3 call, 0 nop, 0 foreign",
                                             *status(process.pid, "-q")[1][1:]])  # fmt: skip
    assert document(process.pid, 0)["trace"] is None


def test_sites_that_are_not_traced_can_be_switched(process: subprocess.Popen[str]) -> None:
    patch("nop", process.pid, "--functions", "more")
    with tracing(process.pid, "--count", "--functions", "twice", "--functions", "more"):
        found, (total, traced, *_) = status(process.pid, "--functions", "work")
        assert found == 0
        assert total.endswith("1 site: 1 call, 0 nop, 0 foreign")
        assert traced.endswith("): 2 sites")
        patch("nop", process.pid, "--functions", "work")
        found, (total, _, _, _, *sites) = status(process.pid)
        assert total.endswith("3 sites: 0 call, 1 nop, 0 foreign, 2 traced")
        assert sorted(each.partition(": traced  ")[2] for each in sites[1:]) == [
            "(a call before)", "(a nop before)",
        ]  # fmt: skip


def test_what_a_killed_tracer_has_left_is_told_until_it_is_detached(
    process: subprocess.Popen[str],
) -> None:
    who = f"process {process.pid} (target)"
    with tracing(process.pid, "--count") as trace:
        kill(trace.pid)
        by = f"{who}: traced by patcher, process {trace.pid}"
        found, (total, traced, *_) = status(process.pid)
        assert found == 1
        assert total.endswith("3 sites: 0 call, 0 nop, 0 foreign, 3 traced")
        assert traced.startswith(by)
        assert traced.endswith(f", which is gone: 3 sites; {end_of(process.pid)}")
    assert status(process.pid)[1][1] == f"{by}, which is gone: 3 sites; {end_of(process.pid)}"
    assert document(process.pid, 1)["trace"] == {
        "sites": 3, "state": "left", "pid": trace.pid, "name": None,
    }  # fmt: skip
    assert refused("nop", process.pid) == (
        f"{by}, which is gone: {end_of(process.pid)}; nothing was written"
    )
    assert patch("trace", process.pid, "--detach") == f"{who}: 3 sites are what they were\n"
    assert document(process.pid, 0)["trace"] is None
    assert ask(process)[1] == CALLS


def test_a_child_has_its_parents_sites_and_nobody_traces_it(
    process: subprocess.Popen[str],
) -> None:
    with tracing(process.pid, "--count") as trace:
        child = fork(process)
        who = f"process {child} (target)"
        how = "forked while it was traced by patcher"
        found, (_, traced, *_) = status(child)
        assert (found, traced) == (1, f"{who}: {how}: 3 sites; {end_of(child)}")
        assert document(child, 1)["trace"] == {
            "sites": 3, "state": "inherited", "pid": None, "name": None,
        }  # fmt: skip
        assert refused("nop", child) == f"{who}: {how}: {end_of(child)}; nothing was written"
        assert patch("trace", child, "--detach") == f"{who}: 3 sites are what they were\n"
        assert document(child, 0)["trace"] is None
        assert is_traced(process.pid)
        assert trace.end()[0] == 0


def test_a_trace_that_ends_meanwhile_is_not_taken_for_a_parents(
    process: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = traces.trace_of
    looked: list[traces.Trace] = []

    def ends(target: Target, modules: Any) -> traces.Trace:
        """End the trace after its sites were read, and before it is looked whose they are."""
        if not looked:
            trace.end()
        looked.append(real(target, modules))
        return looked[-1]

    monkeypatch.setattr(traces, "trace_of", ends)
    with tracing(process.pid, "--count") as trace, Target(process.pid, 2, to_read=True) as target:
        modules, found = traces.look(target)
        assert [each.owner for each in looked] == [NOBODY]
        assert found is None
        assert not any(each.traced for each in modules)


# --- watched --------------------------------------------------------------------------------------


def test_a_watch_tells_when_a_trace_begins_and_ends(process: subprocess.Popen[str]) -> None:
    who = f"process {process.pid} (target)"
    with watching(process.pid) as watch:
        assert watch.line().endswith("3 sites: 3 call, 0 nop, 0 foreign")
        with tracing(process.pid, "--count") as trace:
            line = watch.line()
            assert line[len("2026-01-01 00:00:00 ") :] == (
                f"{who}: traced by patcher, process {trace.pid} ({name(trace.pid)}): 3 sites"
            )
            assert watch.line().endswith(": 3 sites: 0 call, 0 nop, 0 foreign, 3 traced")
            kill(trace.pid)
            assert watch.line().endswith(f", which is gone: 3 sites; {end_of(process.pid)}")
        patch("trace", process.pid, "--detach")
        assert watch.line().endswith(f" {who}: not traced any more")
        assert watch.line().endswith(": 3 sites: 3 call, 0 nop, 0 foreign")


@pytest.mark.parametrize("is_killed", [False, True])
def test_the_exit_status_of_a_watch_is_that_of_the_last_look(
    process: subprocess.Popen[str], *, is_killed: bool
) -> None:
    with tracing(process.pid, "--count") as trace:
        if is_killed:
            kill(trace.pid)
        with watching(process.pid) as watch:
            assert " traced by patcher, " in watch.line()
            assert watch.line().endswith("3 traced")
            process.kill()
            assert watch.end()[0] == is_killed


def test_documents_of_a_watch_tell_of_the_trace(process: subprocess.Popen[str]) -> None:
    with watching(process.pid, "--json") as watch:
        first = json.loads(watch.line())
        with tracing(process.pid, "--count") as trace:
            second = json.loads(watch.line())
    for each in (first, second):
        VALIDATOR.validate(each)
    assert first["process"]["trace"] is None
    assert second["process"]["trace"]["pid"] == trace.pid
    assert second["process"]["modules"][0]["states"]["traced"] == 3


def test_it_is_drawn(process: subprocess.Popen[str]) -> None:
    with drawn_on(24, 160) as terminal:
        begin(terminal, process.pid)
        assert "traced" not in "".join(terminal.screen("3 call"))
        with tracing(process.pid, "--count") as trace:
            heading, traced, columns, row, footer, *_ = terminal.screen("traced")
            assert heading.endswith("3 sites: 0 call, 0 nop, 0 foreign, 3 traced")
            assert traced.endswith(f"process {trace.pid} ({name(trace.pid)}): 3 sites")
            assert columns.split()[2:6] == ["call", "nop", "foreign", "traced"]
            assert row.split()[1:5] == ["0", "0", "0", "3"]
            assert footer.endswith("Ctrl-C ends")
            kill(trace.pid)
            terminal.screen("which is gone")
        patch("trace", process.pid, "--detach")
        assert "traced" not in "".join(terminal.screen("3 call"))
