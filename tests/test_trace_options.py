"""Each option of `patcher trace` does what `--help` says, and however it ends, all is as before."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jsonschema
import pytest

from patcher.verbs.trace import OPTIONS
from tests.support import command, live
from tests.support.command import ROOT
from tests.support.processes import finish, started
from tests.support.traced import memory

pytestmark = pytest.mark.process

MAIN = """
static volatile int go = 1;
QUIET static void *loop(void *nothing) {
    while (go) { work(3); usleep(100); }
    return NULL;
}
QUIET int main(void) {
    pthread_t threads[2];
    for (int each = 0; each < 2; each++) pthread_create(&threads[each], NULL, loop, NULL);
    ready();
    until_told();
    go = 0;
    for (int each = 0; each < 2; each++) pthread_join(threads[each], NULL);
    return 0;
}
"""
FUNCTIONS = {"work", "more", "twice"}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The PID of a program whose two threads call FUNCTIONS all the time."""
    with started(live.build(tmp_path_factory.mktemp("running"), MAIN)) as process:
        yield process.pid
        finish(process)


@contextmanager
def untouched(pid: int) -> Iterator[None]:
    """Whatever happens, the process has afterwards what it had, and at most one region more."""
    before = memory(pid)
    yield
    after = memory(pid)
    assert after._replace(regions=()) == before._replace(regions=())
    assert len(after.regions) == 1


def trace(pid: int, *options: str | Path) -> str:
    """Run `patcher trace`, which must succeed; its results."""
    with untouched(pid):
        done = command.run("patcher", "trace", "--pid", str(pid), "--quiet", *options)
        assert (done.status, done.stderr) == (0, ""), done
    return done.stdout


def rows(text: str) -> list[list[str]]:
    """[thread, processor, time, function, caller] of each event."""
    lines = [line for line in text.splitlines() if line[0] != "#" and "LOST" not in line]
    return [line.replace("<-", "").split() for line in lines]


# --- which events ---------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 7, 1000])
def test_exactly_so_many_events(count: int, running: int) -> None:
    assert len(rows(trace(running, "--events", str(count)))) == count


def test_only_these_functions(running: int) -> None:
    for options, functions in (
        ((), FUNCTIONS),
        (("--functions", "mo*"), {"more"}),
        (("--functions", "work", "--functions", "twice"), {"work", "twice"}),
        (("--notrace", "work"), {"more", "twice"}),
        (("--functions", "*o*", "--notrace", "more"), {"work"}),
        (("--module", "target"), FUNCTIONS),
    ):
        told = rows(trace(running, "--events", "300", *options))
        assert {row[3] for row in told} == functions, options


def test_only_this_thread(running: int) -> None:
    tid = max(map(int, os.listdir(f"/proc/{running}/task")))
    told = rows(trace(running, "--events", "300", "--tid", str(tid)))
    assert {row[0] for row in told} == {f"target-{tid}"}


def test_a_thread_that_is_not_there_is_told_of(running: int) -> None:
    done = command.run(
        "patcher", "trace", "--pid", str(running), "--duration", "1", "--tid", "99999999"
    )  # fmt: skip
    assert "(target) has no thread 99999999" in done.stderr
    assert rows(done.stdout) == []


def test_only_the_newest_are_kept_and_told_at_the_end(running: int) -> None:
    told = rows(trace(running, "--flight-recorder", "--duration", "1", "--buffer", "4K"))
    by_processor = {row[1]: 0 for row in told}
    for row in told:
        by_processor[row[1]] += 1
    assert max(by_processor.values()) == 4096 // 32 - 1
    times = [float(row[2].rstrip(":")) for row in told]
    assert times == sorted(times)
    assert times[-1] - times[0] < 0.9


def test_so_many_seconds(running: int) -> None:
    times = [float(row[2].rstrip(":")) for row in rows(trace(running, "--duration", "1"))]
    assert 0.5 < times[-1] - times[0] <= 1.5


# --- in which form --------------------------------------------------------------------------------


def test_counts_of_each_function(running: int) -> None:
    header, *lines = trace(running, "--count", "--duration", "1").splitlines()
    assert header.split() == ["calls", "function"]
    counts = {name: int(count) for count, name in map(str.split, lines)}
    assert set(counts) == FUNCTIONS
    assert abs(counts["twice"] - counts["work"] - counts["more"]) <= 4  # two threads are midway
    told = json.loads(trace(running, "--count", "--duration", "1", "--format", "json"))
    jsonschema.validate(told, json.loads(command.run("patcher", "trace", "--schema").stdout))
    assert {each["function"] for each in told["functions"]} == FUNCTIONS


def test_the_most_called_functions_second_by_second(running: int) -> None:
    shown = trace(running, "--top", "--duration", "2")
    assert shown.index("twice") < min(shown.index("work"), shown.index("more"))


@pytest.mark.parametrize("form", ["text", "json", "perfetto", "fxt", "folded"])
def test_into_a_file_in_every_format(form: str, running: int, tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("what was there before, and is longer than nothing" * 1000)
    assert not trace(running, "--events", "50", "--format", form, "-o", path)
    content = path.read_bytes()
    assert b"before" not in content
    assert b"twice" in content
    if form == "json":
        json.loads(content)


def test_nested_with_a_word_on_what_is_missing_for_durations(running: int) -> None:
    with untouched(running):
        done = command.run(
            "patcher", "trace", "--pid", str(running), "--graph", "--events", "50"
        )  # fmt: skip
    assert "-minstrument-return=call" in done.stderr
    assert "more() {" in done.stdout or "more();" in done.stdout


def test_what_happened_is_told_unless_it_is_to_be_quiet(running: int) -> None:
    with untouched(running):
        done = command.run("patcher", "trace", "--pid", str(running), "--events", "5")
    assert done.stderr.startswith(f"process {running} (target): 5 events in ")
    assert done.stderr.endswith("; 3 sites are what they were\n")


# --- what makes no sense --------------------------------------------------------------------------


@pytest.mark.parametrize("words", [
    "", "--pid 1 command", "--events 0", "--events x", "--duration 0", "--buffer 0", "--buffer x",
    "--buffer 1T", "--buffer 65G", "--format xml", "--tid x", "--count --graph", "--count --top",
    "--count --events 3", "--count --flight-recorder", "--count --format folded", "--top -o x",
    "--flight-recorder --events 3",
    "--detach --count", "--detach -o x", "--unknown", "--functions", "--timeout 0",
])  # fmt: skip
def test_it_is_a_usage_error(words: str, running: int) -> None:
    pid = [] if not words or "--pid" in words else ["--pid", str(running)]
    done = command.run("patcher", "trace", *pid, *words.split())
    assert (done.status, done.stdout) == (2, "")
    assert done.stderr.startswith("patcher trace: ")


@pytest.mark.parametrize(("words", "wrong"), [
    ("--functions nothing_like_it", "no site in a function like nothing_like_it"),
    ("--module nothing_like_it", "no live module like nothing_like_it"),
    ("-o /nowhere/at/all", "/nowhere/at/all: No such file or directory"),
    ("-o /", "/: Is a directory"),
    ("-o /dev/full --events 5", "/dev/full: No space left on device"),
])  # fmt: skip
def test_what_cannot_be_is_said_in_one_line(words: str, wrong: str, running: int) -> None:
    before = memory(running)
    done = command.run("patcher", "trace", "--pid", str(running), *words.split())
    (line,) = done.stderr.splitlines()
    assert done.status == 1
    assert line.endswith(wrong)
    assert memory(running)._replace(regions=()) == before._replace(regions=())


@pytest.mark.parametrize(("redirection", "wrong"), [
    ("> /dev/full", "No space left on device"), (">&-", "Bad file descriptor"),
])  # fmt: skip
def test_it_is_said_that_the_standard_output_cannot_be_written(
    redirection: str, wrong: str, running: int
) -> None:
    words = f'"$0" -m patcher trace --pid {running} --events 3 {redirection}'
    with untouched(running):
        done = subprocess.run(
            ["sh", "-c", words, sys.executable],
            check=False, capture_output=True, text=True, cwd=ROOT,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, f"standard output: {wrong}\n")


def test_a_trace_that_is_refused_leaves_the_file_of_the_last_one(
    running: int, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    output.write_text("the last trace\n" * 1000)
    options = ["-o", str(output), "--events", "1"]
    wrong = ["--pid", str(running), "--functions", "no"]
    assert command.run("patcher", "trace", *wrong, *options).status == 1
    assert output.read_text() == "the last trace\n" * 1000
    trace(running, *options)
    assert "last" not in output.read_text()
    assert output.read_text().count(" <-") == 1


def test_nothing_is_left_to_detach(running: int) -> None:
    done = command.run("patcher", "trace", "--pid", str(running), "--detach")
    assert (done.status, done.stderr) == (0, "")


# --- how it ends ----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"])
def test_a_signal_ends_it_with_all_told(number: str, running: int) -> None:
    words = [sys.executable, "-m", "patcher", "trace", "--pid", str(running)]
    pipe = subprocess.PIPE
    with (
        untouched(running),
        subprocess.Popen(words, cwd=ROOT, stdout=pipe, stderr=pipe, text=True) as tracer,
    ):
        assert tracer.stdout
        assert tracer.stderr
        first = "".join(tracer.stdout.readline() for _ in range(20))
        tracer.send_signal(signal.Signals[number])
        said, told = first + tracer.stdout.read(), tracer.stderr.read()
        assert tracer.wait(60) == 0
    assert told.startswith(f"process {running} (target): ")
    assert len(rows(said)) == int(told.split()[3].replace(",", ""))


def test_a_reader_who_goes_away_ends_it(running: int) -> None:
    with untouched(running):
        words = f"{sys.executable} -m patcher trace -q --pid {running} | head -5; echo $PIPESTATUS"
        done = subprocess.run(
            ["bash", "-c", words], cwd=ROOT, capture_output=True, check=True, text=True, timeout=60
        )
        *lines, status = done.stdout.splitlines()
        assert (len(lines), status, done.stderr) == (5, "0", "")


def test_every_option_is_in_this_file() -> None:
    elsewhere = {"--follow-fork", "--help", "--parts", "--pid", "--symbol"}
    text = Path(__file__).read_text()
    names = {word for option in OPTIONS for word in option.names if word.startswith("--")}
    assert {name for name in names - elsewhere if name not in text} == set()
