"""Many files in several processes or on a cluster: the same answers, in order, whatever dies."""

import csv
import gzip
import json
import lzma
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from recordmcount import cluster
from recordmcount.errors import Error, UnreachableError
from recordmcount.spread import How, spread
from tests.support import command, images
from tests.support.command import ROOT
from tests.support.elf_builder import X86_64, Symbol, build
from tests.support.objects import caller, recorded, text

FORMATS = {"report": ["text", "json", "jsonl", "csv"], "verify": ["text", "json", "github"]}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders with 60 objects, of which some are not recorded, some broken, and one is a note."""
    top = tmp_path_factory.mktemp("tree")
    for number in range(60):
        folder = top / f"{number % 7}"
        folder.mkdir(exist_ok=True)
        path = folder / f"{number:02}.o"
        if number % 5:
            recorded(path, caller(".text", f".text.{number}"))
        else:
            caller(".text").write(path)
        if number % 20 == 3:
            path.write_bytes(path.read_bytes()[:100])
    (top / "note").write_text("no object")
    return top


# --- processes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "form"), [(verb, form) for verb, forms in FORMATS.items() for form in forms]
)
def test_several_processes_tell_what_one_does(verb: str, form: str, tree: Path) -> None:
    alone, together = (
        command.run("recordmcount", verb, "--format", form, jobs, tree) for jobs in ("-j1", "-j3")
    )
    assert alone == together
    assert alone.status == 1
    assert len(alone.stderr.splitlines()) == 3


def test_answers_are_in_the_order_of_the_items_and_errors_in_their_turn() -> None:
    items = [Error("x", "odd") if number % 3 == 0 else f"{number}" for number in range(100)]
    said = [str(item) if isinstance(item, Error) else f"done {item}" for item in items]
    for jobs in (1, 2, 5):
        assert [*spread(lambda item: f"done {item}", items, How(jobs), str)] == said


def test_no_more_items_are_taken_than_are_under_way() -> None:
    """Who lists a million files keeps a few of them."""
    taken = 0

    def items() -> Iterator[str]:
        nonlocal taken
        for taken in range(1, 10_001):
            yield str(taken)

    answers = spread(str, items(), How(2), str)
    assert next(answers) == "1"
    assert taken <= 40
    answers.close()  # type: ignore[attr-defined]  # a generator


def test_an_item_over_which_a_process_dies_is_tried_once_more_and_then_told_of(
    tmp_path: Path,
) -> None:
    def work(item: str) -> str:
        tries = tmp_path / item
        tries.write_text(tries.read_text() + "." if tries.exists() else ".")
        if item == "deadly" or (item == "unlucky" and tries.read_text() == "."):
            os.kill(os.getpid(), signal.SIGKILL)
        return f"done {item}"

    items = ["a", "unlucky", "b", "deadly", "c"]
    killed = "deadly: the process that read it was killed by signal 9"
    assert [*spread(work, items, How(2), str)] == [
        "done a", "done unlucky", "done b", killed, "done c",
    ]  # fmt: skip
    assert (tmp_path / "deadly").read_text() == ".."


WAITING = """
import os, signal, time
from recordmcount.spread import How, spread

def work(item):
    os.write(1, b"%d\\n" % os.getpid())
    time.sleep(600)

signal.signal(signal.SIGINT, signal.SIG_DFL)  # as __main__ does
list(spread(work, ["a", "b"], How(2), str))
"""


def test_ctrl_c_ends_all_processes_at_once_and_says_nothing() -> None:
    """As a terminal does it: the signal is for all. The pipes end with the last process."""
    running = subprocess.Popen(
        [sys.executable, "-c", WAITING],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0, cwd=ROOT,
        start_new_session=True,
    )  # fmt: skip
    assert running.stdout is not None
    assert {int(running.stdout.readline()) for _ in range(2)}.isdisjoint({running.pid})
    os.killpg(running.pid, signal.SIGINT)
    assert running.communicate() == (b"", b"")
    assert running.returncode == -signal.SIGINT


PEAK = """
import os, resource, sys
from recordmcount.cli import main
main(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("form", "jobs"), [("text", "-j2"), ("csv", "-j1"), ("csv", "-j2"), ("jsonl", "-j1")]
)
def test_memory_does_not_grow_with_the_number_of_files(
    form: str, jobs: str, tmp_path: Path
) -> None:
    """All rows of 200 files would be 13 MB; so would the answers of all, if they were kept."""
    first = tmp_path / "000.o"
    build(X86_64, [text(calls=200)], [Symbol("__fentry__")]).write(first)
    for number in range(1, 200):
        os.link(first, tmp_path / f"{number:03}.o")
    files = sorted(map(str, tmp_path.iterdir()))

    def peak(count: int) -> int:
        """Peak of resident memory in KiB."""
        words = [sys.executable, "-c", PEAK, "report", "--format", form, jobs, *files[:count]]
        done = subprocess.run(
            words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=ROOT
        )
        return int(done.stderr)

    assert peak(200) < peak(40) + 4096


# --- which files ----------------------------------------------------------------------------------


def test_folders_give_what_can_be_reported_and_the_rest_is_counted(tmp_path: Path) -> None:
    inner = tmp_path / "in" / "ner"
    inner.mkdir(parents=True)
    recorded(inner / "a.o", caller())
    content = (inner / "a.o").read_bytes()
    (inner / "b.ko.gz").write_bytes(gzip.compress(content))
    (inner / "b.ko.xz").write_bytes(lzma.compress(content))
    (inner / "note").write_text("text")
    (inner / "note.gz").write_bytes(gzip.compress(b"text"))
    (inner / "loop").symlink_to(tmp_path / "in")
    done = command.run("recordmcount", "report", "--json", tmp_path / "in")
    told = json.loads(done.stdout)
    assert [Path(file["path"]).name for file in told["files"]] == [
        "a.o", "b.ko.gz", "b.ko.xz",
    ]  # fmt: skip
    assert (told["skipped"], told["errors"]) == (3, [])  # the link too
    assert command.run("recordmcount", "verify", inner / "b.ko.xz").status == 0


# --- filters --------------------------------------------------------------------------------------


def shown(*words: str | Path) -> list[str | None]:
    """The functions that are shown, by the JSON."""
    done = command.run("recordmcount", "report", "--json", *words)
    return [site["function"] for file in json.loads(done.stdout)["files"] for site in file["sites"]]


def test_functions_and_sections_are_chosen_in_every_format(tmp_path: Path) -> None:
    path = caller(".text", ".text.hot", ".text.cold").write(tmp_path / "x.o")
    assert shown(path) == ["in.text", "in.text.hot", "in.text.cold"]
    assert shown("--function", "*hot", "--function=in.text", path) == ["in.text", "in.text.hot"]
    assert shown("--section", ".text.*", path) == ["in.text.hot", "in.text.cold"]
    assert shown("--section", ".text.*", "--function", "*cold", path) == ["in.text.cold"]
    said = command.run("recordmcount", "report", "--section", ".text.c*", path).stdout
    assert "in.text.cold" in said
    assert "in.text.hot" not in said
    assert "1 of 3 sites" in said
    rows = command.run("recordmcount", "report", "--format=csv", "--function", "*cold", path).stdout
    assert [row["function"] for row in csv.DictReader(rows.splitlines())] == ["in.text.cold"]


def test_a_glob_like_no_function_is_said(tmp_path: Path) -> None:
    path = caller(".text").write(tmp_path / "x.o")
    done = command.run("recordmcount", "report", "--function", "nothing*", path)
    assert (done.status, done.stderr) == (
        0, "warning: no function with a site is like 'nothing*'\n",
    )  # fmt: skip


def test_sites_without_an_entry_are_shown_of_objects(tmp_path: Path) -> None:
    recorded(tmp_path / "x.o", caller(".text", ".exit.text"))
    assert shown("--unrecorded", tmp_path / "x.o") == ["in.exit.text"]


def test_of_a_linked_file_the_calls_that_its_table_leaves_out_are_shown(tmp_path: Path) -> None:
    """One of two objects was recorded before the link."""
    for name in ("one", "two"):
        source = f"int {name}(int n) {{ return n + 1; }}\n"
        images.compile_object(tmp_path, name, source, "gcc", "-O1", "-pg", "-mfentry", "-fPIC")
    assert command.run("recordmcount", tmp_path / "one.o").status == 0
    library = tmp_path / "library.so"
    images.tool("gcc", "-shared", "-o", library, tmp_path / "one.o", tmp_path / "two.o")
    assert shown(library) == ["one"]
    assert shown("--unrecorded", library) == ["two"]
    told = json.loads(command.run("recordmcount", "report", "--json", "--unrecorded", library)[1])
    (site,) = told["files"][0]["sites"]
    assert (site["recorded"], site["evidence"]) == (False, "GOT")


# --- a cluster ------------------------------------------------------------------------------------


class Dask:
    """A scheduler on this machine, and two workers."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{port}"
        self._folder = folder
        self._stack = stack
        self.scheduler = self._start(
            "scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-show"
        )
        self.workers = [
            self._start("worker", self.address, "--nthreads", "1", "--no-nanny") for _ in range(2)
        ]

    def _start(self, what: str, *words: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.dask_{what}", *words, "--no-dashboard"],
            cwd=self._folder, env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        return process


def started(folder: Path, stack: ExitStack) -> Dask:
    """A scheduler that listens, and workers that come."""
    dask = Dask(folder, stack)
    host, _, port = dask.address.removeprefix("tcp://").partition(":")
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with socket.socket() as client:
            if client.connect_ex((host, int(port))) == 0:
                break
        time.sleep(0.1)
    return dask


@pytest.fixture(scope="module")
def dask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dask]:
    with ExitStack() as stack:
        yield started(tmp_path_factory.mktemp("dask"), stack)


@pytest.mark.matrix
@pytest.mark.parametrize("verb", ["report", "verify"])
def test_a_cluster_tells_what_one_process_does(verb: str, tree: Path, dask: Dask) -> None:
    """The paths are relative, and the workers run in another folder."""
    alone = command.run("recordmcount", verb, "--json", "-j1", ".", cwd=tree)
    spread_out = command.run(
        "recordmcount", verb, "--json", "--scheduler", dask.address, ".", cwd=tree
    )
    assert spread_out == alone


@pytest.mark.matrix
def test_a_worker_that_is_killed_takes_no_answer_with_it(tree: Path, dask: Dask) -> None:
    words = ["-m", "recordmcount", "report", "--format=csv"]
    paths = sorted(map(str, tree.rglob("*.o"))) * 16
    alone = subprocess.run(
        [sys.executable, *words, "-j1", *paths], check=False, capture_output=True, cwd=ROOT
    )
    running = subprocess.Popen(
        [sys.executable, *words, "--scheduler", dask.address, *paths],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT,
        bufsize=0,  # what a line brings along would be lost to `communicate`
    )  # fmt: skip
    assert running.stdout is not None
    begun = running.stdout.readline()  # the heading, and soon the first rows
    begun += running.stdout.readline()
    dask.workers[0].kill()
    rest, errors = running.communicate()
    assert errors == alone.stderr
    assert (begun + rest).splitlines() == alone.stdout.splitlines()
    assert running.returncode == alone.returncode


def test_a_file_that_workers_do_not_see_as_it_is_here_is_not_reported(tmp_path: Path) -> None:
    """What a worker does, with what was seen of a file before."""
    path = tmp_path / "x"
    path.write_text("here")
    known = cluster.seen(str(path))
    assert known is not None
    seen = [known]
    assert cluster.there(str.upper, "x", seen) == ("X", "")
    path.write_text("elsewhere")
    assert cluster.there(str.upper, "x", seen) == (None, "the workers see another file there")
    path.unlink()
    unseen = "the workers cannot see it (No such file or directory)"
    assert cluster.there(str.upper, "x", seen) == (None, unseen)


@pytest.mark.matrix
@pytest.mark.parametrize("gone", ["scheduler", "workers"])
def test_where_the_cluster_goes_away_there_is_one_line_and_an_end(
    gone: str, tree: Path, tmp_path: Path
) -> None:
    paths = sorted(map(str, tree.rglob("*.o")))
    good = [path for path in paths if int(Path(path).stem) % 20 != 3] * 200
    with ExitStack() as stack:
        dask = started(tmp_path, stack)
        words = ["-m", "recordmcount", "report", "--format=csv", "--scheduler", dask.address]
        running = subprocess.Popen(
            [sys.executable, *words, *good],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, bufsize=0,
        )  # fmt: skip
        assert running.stdout is not None
        stack.callback(running.kill)
        running.stdout.readline()
        running.stdout.readline()
        for process in [dask.scheduler] if gone == "scheduler" else dask.workers:
            process.kill()
        _, errors = running.communicate(timeout=100)
    what = "the scheduler is gone" if gone == "scheduler" else "the scheduler has no workers"
    assert errors.decode().startswith(f"{dask.address}: {what}")
    assert errors.count(b"\n") == 1
    assert running.returncode == 1


def test_without_a_scheduler_there_is_one_line(tree: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{closed.getsockname()[1]}"
        done = command.run("recordmcount", "report", "--scheduler", address, tree)
    assert (done.status, done.stdout) == (1, "")
    assert done.stderr == f"{address}: no scheduler is to be reached there (Connection refused)\n"


def test_without_dask_it_is_said_how_to_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(cluster, "load", missing)
    with pytest.raises(UnreachableError, match=r"pip install 'recordmcount\[cluster\]'"):
        cluster.Cluster("tcp://127.0.0.1:1")


def test_processes_here_and_elsewhere_are_not_asked_for_at_once(tree: Path) -> None:
    for verb in ("report", "verify"):
        done = command.run("recordmcount", verb, "-j2", "--scheduler=tcp://x:1", tree)
        assert done.status == 2
        assert "-j is for processes here, --scheduler for those elsewhere" in done.stderr
