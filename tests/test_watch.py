"""`patcher status --watch`: what a process has loaded, as it comes, changes and goes."""

import gc
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import jsonschema
import pytest

from patcher.errors import ModuleError
from patcher.process import ptrace
from patcher.process.live_sites import LiveSites
from patcher.process.looks import Looks
from patcher.process.target import Target
from patcher.report import document
from patcher.report.history import MOST_GONE, History
from patcher.report.shapes import WatchedModule
from recordmcount.elf.object import Object
from recordmcount.sites import linked
from recordmcount.sites.state import State
from tests.support import command, live
from tests.support.command import ROOT
from tests.support.live import patch, refused
from tests.support.processes import finish, started, wait_for
from tests.support.terminal import Terminal, drawn_on

pytestmark = pytest.mark.process

# Opens and closes libraries as lines tell: `+0/path`, `-0`; `=path` executes another program.
MAIN = """
#include <dlfcn.h>
QUIET int main(void) {
    static void *opened[10];
    char line[4096];
    ready();
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\\n")] = 0;
        if (*line == '+' && !(opened[line[1] - '0'] = dlopen(line + 2, RTLD_NOW))) return 1;
        if (*line == '-') dlclose(opened[line[1] - '0']);
        if (*line == '=') execl(line + 1, line + 1, NULL);
        ready();
    }
    return 0;
}
"""
TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
BOUND = 60  # seconds that anything may take before a test fails
QUIT = "Ctrl-C ends"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return live.build(tmp_path_factory.mktemp("program"), MAIN, link=["-ldl"])


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return live.library(tmp_path_factory.mktemp("library"), "one", "int one(int x) { return x; }")


@pytest.fixture
def process(program: Path) -> Iterator[subprocess.Popen[str]]:
    with started(program) as process:
        yield process


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    with drawn_on(24, 160) as terminal:
        yield terminal


def tell(process: subprocess.Popen[str], line: str | Path) -> None:
    """Have the program open or close a library."""
    assert process.stdin
    assert process.stdout
    process.stdin.write(f"{line}\n")
    process.stdin.flush()
    assert process.stdout.readline() == "ready\n"


def watching_words(pid: int, *options: str) -> list[str]:
    return [sys.executable, "-m", "patcher", "status", "--watch", "--pid", str(pid), *options]


class Watching:
    """`patcher status --watch`, whose output goes into a pipe."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._seen = b""

    def line(self) -> str:
        """The next line."""
        assert self.process.stdout
        while b"\n" not in self._seen:
            assert select.select([self.process.stdout], [], [], BOUND)[0]
            piece = os.read(self.process.stdout.fileno(), 1 << 16)
            assert piece, self._seen
            self._seen += piece
        line, _, self._seen = self._seen.partition(b"\n")
        return line.decode()

    def end(self) -> tuple[int, str, str]:
        """Its exit status, and what else it says; it must end now."""
        out, err = self.process.communicate(timeout=BOUND)
        assert b"Traceback" not in err
        return self.process.returncode, (self._seen + out).decode(), err.decode()


@contextmanager
def watching(pid: int, *options: str, **variables: str) -> Iterator[Watching]:
    with subprocess.Popen(
        watching_words(pid, *options), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
    ) as process:  # fmt: skip
        try:
            yield Watching(process)
        finally:
            process.kill()


def mapped(pid: int, path: Path) -> tuple[int, str, int]:
    """Where a file is loaded, and its device and inode, as /proc/PID/maps tells."""
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        where, _, _, device, inode, *name = line.split(maxsplit=5)
        if name == [str(path)]:
            return int(where.partition("-")[0], 16), device, int(inode)
    raise AssertionError(path)


def build_id(path: Path) -> str:
    done = command.run_program("readelf", "-n", path)
    (found,) = re.findall(r"Build ID: ([0-9a-f]+)", done.stdout)
    return str(found)


# --- where a module is, and which it is -----------------------------------------------------------


@pytest.mark.parametrize("kind", live.KINDS)
def test_status_tells_where_each_module_is_loaded_and_which_it_is(
    kind: str, tmp_path: Path
) -> None:
    flags, link = live.KINDS[kind]
    program = live.build(tmp_path, flags=flags, link=[*link, "-Wl,--build-id"])
    with started(program) as process:
        address, device, inode = mapped(process.pid, program)
        identity = build_id(program)
        told = patch("status", process.pid, "-q").splitlines()
        assert told[1] == (
            f"{program}: loaded at {address:#x}, build-id {identity}, device {device} inode {inode}"
        )
        done = command.run("patcher", "nop", "-n", "--json", "--pid", str(process.pid))
        for text in (patch("status", process.pid, "--json"), done.stdout):
            (module,) = json.loads(text)["process"]["modules"]
            assert (module["load_address"], module["build_id"]) == (address, identity)
            assert (module["device"], module["inode"]) == (device, inode)


def test_a_module_without_a_build_id_is_known_by_device_and_inode(tmp_path: Path) -> None:
    program = live.build(tmp_path, link=["-Wl,--build-id=none"])
    with started(program) as process:
        address, device, inode = mapped(process.pid, program)
        assert (
            f"{program}: loaded at {address:#x}, no build-id, device {device} inode {inode}"
            in patch("status", process.pid)
        )


def test_to_look_needs_no_halt_and_no_tracing(
    process: subprocess.Popen[str], program: Path
) -> None:
    ptrace.seize(process.pid)  # so nobody else can
    try:
        assert "3 sites: 3 call, 0 nop, 0 foreign" in patch("status", process.pid, "-q")
        with watching(process.pid) as watch:
            assert watch.line().endswith("3 sites: 3 call, 0 nop, 0 foreign")
        assert "is traced by process" in refused("nop", process.pid)
    finally:
        ptrace.interrupt(process.pid)
        wait_for(process.pid)
        ptrace.detach(process.pid)


# --- into a pipe ----------------------------------------------------------------------------------


def test_each_change_is_a_line_with_its_time(
    process: subprocess.Popen[str], program: Path, library: Path
) -> None:
    with watching(process.pid) as watch:
        address, device, inode = mapped(process.pid, program)
        assert re.fullmatch(
            f"{TIME} {program}: loaded at {address:#x}, build-id {build_id(program)}, "
            f"device {device} inode {inode}: 3 sites: 3 call, 0 nop, 0 foreign",
            watch.line(),
        )
        patch("nop", process.pid, "--functions", "work")
        line = watch.line()
        assert re.fullmatch(
            f"{TIME} {program}: at {address:#x}: 3 sites: 2 call, 1 nop, 0 foreign", line
        )
        tell(process, f"+0{library}")
        where, _, _ = mapped(process.pid, library)
        line = watch.line()
        assert f" {library}: loaded at {where:#x}, build-id {build_id(library)}, " in line
        assert line.endswith(": 1 site: 1 call, 0 nop, 0 foreign")
        tell(process, "-0")
        assert re.fullmatch(f"{TIME} {library}: gone from {where:#x}", watch.line())
        finish(process)
        assert watch.end() == (0, "", f"process {process.pid} (target): has ended\n")


def test_documents_are_lines_and_as_the_schema_has_them(
    process: subprocess.Popen[str], program: Path, library: Path
) -> None:
    schema = json.loads(command.run("patcher", "status", "--schema").stdout)
    with watching(process.pid, "--json") as watch:

        def next_document() -> dict[str, object]:
            told = json.loads(watch.line())
            jsonschema.validate(told, schema)
            return dict(told)

        first = next_document()["process"]
        assert isinstance(first, dict)
        assert [each["states"] for each in first["modules"]] == [
            {"call": 3, "nop": 0, "foreign": 0, "traced": 0}
        ]
        assert (first["gone"], first["forgotten"]) == ([], 0)
        tell(process, f"+0{library}")
        second = next_document()["process"]
        assert isinstance(second, dict)
        assert {each["path"] for each in second["modules"]} == {str(program), str(library)}
        tell(process, "-0")
        told = next_document()
        third = told["process"]
        assert isinstance(third, dict)
        (gone,) = third["gone"]
        assert (gone["path"], gone["gone"]) == (str(library), told["time"])
        assert gone in [{**each, "gone": told["time"]} for each in second["modules"]]
        finish(process)
        last = next_document()
        assert (last["process"], last["errors"]) == (None, [])
        assert watch.end() == (0, "", f"process {process.pid} (target): has ended\n")


def test_nothing_is_printed_while_nothing_changes(process: subprocess.Popen[str]) -> None:
    with watching(process.pid) as lines, watching(process.pid, "--json") as documents:
        both = (lines, documents)
        for watch in both:
            watch.line()
        outputs = [watch.process.stdout for watch in both if watch.process.stdout]
        assert len(outputs) == len(both)
        assert select.select(outputs, [], [], 2.5)[0] == []


def test_that_there_is_no_module_is_said_and_one_may_come(
    process: subprocess.Popen[str], library: Path
) -> None:
    with watching(process.pid, "--module", "one.so") as watch:
        assert watch.process.stderr
        assert re.fullmatch(
            rf"{TIME} process {process.pid} \(target\): no live module like one.so\n",
            watch.process.stderr.readline().decode(),
        )
        tell(process, f"+0{library}")
        assert f" {library}: loaded at " in watch.line()


def test_only_sites_of_chosen_functions_are_counted(process: subprocess.Popen[str]) -> None:
    options = ("--functions", "t*", "--functions", "work", "--notrace", "twice")
    with watching(process.pid, *options) as watch:
        assert watch.line().endswith(": 1 site: 1 call, 0 nop, 0 foreign")


def test_another_program_that_is_executed_is_watched(
    process: subprocess.Popen[str], program: Path, tmp_path: Path
) -> None:
    other = live.build(tmp_path, MAIN, link=["-ldl"], name="other")
    with watching(process.pid) as watch:
        watch.line()
        tell(process, f"={other}")
        lines = sorted(watch.line()[len("2026-01-01 00:00:00 ") :] for _ in range(2))
        assert [line.partition(" ")[0] for line in lines] == sorted([f"{other}:", f"{program}:"])
        finish(process)
        assert watch.end()[2] == f"process {process.pid} (other): has ended\n"


def test_who_does_not_read_any_more_ends_it(process: subprocess.Popen[str]) -> None:
    with watching(process.pid) as watch:
        watch.line()
        assert watch.process.stdout
        watch.process.stdout.close()
        assert watch.process.wait(BOUND) == 1


# --- how it ends ----------------------------------------------------------------------------------


def test_the_end_of_the_process_is_seen_at_once(process: subprocess.Popen[str]) -> None:
    with watching(process.pid, "--interval", "3600") as watch:
        watch.line()
        process.kill()
        assert watch.end() == (0, "", f"process {process.pid} (target): has ended\n")


def test_the_exit_status_is_that_of_the_last_look(
    process: subprocess.Popen[str], program: Path
) -> None:
    done = command.run("patcher", "status", "--json", "--functions", "work", "--pid",
                       str(process.pid))  # fmt: skip
    address = json.loads(done.stdout)["process"]["modules"][0]["sites"][0]["address"]
    with watching(process.pid) as watch:
        watch.line()
        with open(f"/proc/{process.pid}/mem", "r+b", buffering=0) as memory:
            memory.seek(address)
            memory.write(b"\x90\x90\x90")
        assert watch.line().endswith("3 sites: 2 call, 0 nop, 1 foreign")
        process.kill()
        assert watch.end()[0] == 1


def test_a_process_that_cannot_be_watched_is_refused_as_ever(program: Path) -> None:
    with started(program) as process:
        finish(process)
    refusal = refused("status", process.pid)
    assert refused("status", process.pid, "--watch") == refusal
    done = command.run("patcher", "status", "--watch", "--json", "--pid", str(process.pid))
    (told,) = map(json.loads, done.stdout.splitlines())
    jsonschema.validate(told, json.loads(command.run("patcher", "status", "--schema").stdout))
    assert (done.status, told["process"], told["errors"][0]["errno"]) == (1, None, "ESRCH")


@pytest.mark.parametrize("words", ["--watch x", "--interval 2 --pid 1", "--pid 1 --watch x",
                                   "--pid 1 --watch --interval 0"])  # fmt: skip
def test_what_makes_no_sense_is_a_usage_error(words: str) -> None:
    assert command.run("patcher", "status", *words.split()).status == 2


# --- on a terminal --------------------------------------------------------------------------------


def begin(terminal: Terminal, pid: int, *options: str) -> None:
    words = " ".join(watching_words(pid, *options))
    terminal.type(f"{words}; echo it=$?\n")
    terminal.until("\x1b[?1049h")


def test_it_is_drawn_with_what_came_changed_and_went(
    process: subprocess.Popen[str], program: Path, library: Path, terminal: Terminal
) -> None:
    begin(terminal, process.pid)
    heading, columns, row, footer, *rest = terminal.screen(QUIT)
    assert heading == f"process {process.pid} (target): 3 sites: 3 call, 0 nop, 0 foreign"
    assert columns.split() == ["load", "address", "call", "nop", "foreign", "file", "module"]
    address, device, inode = mapped(process.pid, program)
    identity = [build_id(program)[:12], device, str(inode)]
    assert row.split() == [f"{address:#x}", "3", "0", "0", *identity, str(program)]
    assert re.fullmatch(f"{TIME}; looked at every second; {QUIT}", footer)
    assert set(rest) == {""}
    patch("nop", process.pid)
    terminal.screen("3 sites: 0 call, 3 nop, 0 foreign")
    tell(process, f"+0{library}")
    lines = terminal.screen(str(library))
    assert "4 sites: 1 call, 3 nop, 0 foreign" in lines[0]
    where, _, _ = mapped(process.pid, library)
    tell(process, "-0")
    lines = terminal.screen("gone")
    assert "3 sites: 0 call, 3 nop, 0 foreign" in lines[0]
    assert re.fullmatch(rf"{where:#x} +gone \d\d:\d\d:\d\d +{library}", lines[3])
    finish(process)
    left = terminal.until("it=0")
    _, _, picture = left.partition("\x1b[?25h\x1b[?1049l")
    assert "gone" in picture
    assert f"process {process.pid} (target): has ended\r\n" in left


def test_ctrl_c_ends_it_and_gives_the_terminal_back(
    process: subprocess.Popen[str], program: Path, terminal: Terminal
) -> None:
    begin(terminal, process.pid)
    terminal.screen(QUIT)
    terminal.type("\x03")
    left = terminal.until("prompt> ")
    _, shown, left = left.partition("\x1b[?25h\x1b[?1049l")
    assert shown
    assert str(program) in left  # the last picture stays
    terminal.type("echo it=$?\n")
    terminal.until("it=130")
    finish(process)


def test_ctrl_z_gives_the_terminal_back_until_it_goes_on(
    process: subprocess.Popen[str], terminal: Terminal
) -> None:
    begin(terminal, process.pid)
    for _ in range(2):
        terminal.screen(QUIT)
        terminal.type("\x1a")
        terminal.until("\x1b[?1049l")
        assert "Stopped" in terminal.until("prompt> ")
        terminal.type("fg\n")
        terminal.until("\x1b[?1049h")
    terminal.screen(QUIT)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_ends_it_once_the_terminal_is_given_back(
    number: signal.Signals, process: subprocess.Popen[str], terminal: Terminal
) -> None:
    terminal.type("ulimit -c 0; ")
    begin(terminal, process.pid, "--interval", "3600")
    terminal.until(QUIT)
    os.kill(terminal.child(), number)
    terminal.until("\x1b[?25h\x1b[?1049l")
    terminal.until(f"it={128 + number}")


def test_it_is_drawn_anew_when_the_size_changes(
    process: subprocess.Popen[str], program: Path, terminal: Terminal
) -> None:
    begin(terminal, process.pid)
    drawn: list[str] = []
    for lines, columns in ((10, 70), (24, 80), (50, 200), (3, 20), (1, 1), (2, 5), (25, 80)):
        terminal.resize(lines, columns)
        while len(drawn) != lines:
            os.kill(terminal.child(), signal.SIGWINCH)  # what was drawn is whole when more is
            drawn = terminal.screen("p")
        assert max(map(len, drawn)) <= columns
    assert any(line.endswith(program.name) for line in drawn)


def test_what_does_not_fit_is_counted_and_foreign_sites_stay_in_sight(
    process: subprocess.Popen[str], tmp_path: Path, terminal: Terminal
) -> None:
    for number in range(9):
        made = live.library(tmp_path, f"lib{number}", f"int f{number}(int x) {{ return x; }}")
        tell(process, f"+{number}{made}")
    done = json.loads(patch("status", process.pid, "--json"))
    last = done["process"]["modules"][-2]
    with open(f"/proc/{process.pid}/mem", "r+b", buffering=0) as memory:
        memory.seek(last["sites"][0]["address"])
        memory.write(b"\x90\x90\x90")
    tell(process, "-3")
    terminal.resize(10, 100)
    begin(terminal, process.pid)
    lines = terminal.screen("more: --module chooses")
    assert lines[2].endswith(Path(last["path"]).name)
    assert lines[2].split()[1:4] == ["0", "0", "1"]
    assert lines[8].split()[0] == "3"
    tell(process, "-4")
    lines = terminal.screen("gone")
    assert (lines[7].split()[1], lines[8].split()[0]) == ("gone", "3")


def test_a_name_cannot_speak_to_the_terminal(
    process: subprocess.Popen[str], library: Path, tmp_path: Path, terminal: Terminal
) -> None:
    bad = tmp_path / "x\x1b]0;t\x07[bold]\x85.so"
    shutil.copy(library, bad)
    terminal.resize(24, 250)
    begin(terminal, process.pid)
    tell(process, f"+0{bad}")
    (line,) = [each for each in terminal.screen("[bold]") if "[bold]" in each]
    assert line.endswith(r"/x\x1b]0;t\x07[bold]\u0085.so")


@pytest.mark.parametrize("kind", ["dumb", "unknown"])
def test_a_terminal_that_cannot_be_drawn_on_gets_lines(
    kind: str, process: subprocess.Popen[str], program: Path, terminal: Terminal
) -> None:
    words = " ".join(watching_words(process.pid))
    terminal.type(f"TERM={kind} {words}; echo it=$?\n")
    assert "\x1b[?1049h" not in terminal.until("3 sites: 3 call, 0 nop, 0 foreign")
    terminal.type("\x03")
    terminal.until("prompt> ")


HIDDEN = """
import sys
sys.modules["rich"] = None
sys.path.insert(0, {root!r})
from patcher.cli import main
sys.exit(main(["status", "--watch", "--pid", {pid!r}]))
"""


def test_without_rich_it_is_said_how_to_have_it_and_a_pipe_needs_none(
    process: subprocess.Popen[str], terminal: Terminal, tmp_path: Path
) -> None:
    script = tmp_path / "hidden.py"
    script.write_text(HIDDEN.format(root=str(ROOT), pid=str(process.pid)))
    terminal.type(f"{sys.executable} {script}; echo it=$?\n")
    assert (
        "standard output: --watch draws by `rich`, which is not installed: pip install rich; "
        "or pipe it: | cat\r\nit=1" in terminal.until("it=1")
    )
    terminal.type(f"{sys.executable} {script} | cat\n")
    terminal.until("3 sites: 3 call, 0 nop, 0 foreign")


def while_it_looks(what: str, pid: int) -> str:
    """What an expression gives at the first look of a watch without a terminal, which ends it."""
    program = (
        f"import gc, sys; sys.path.insert(0, {str(ROOT)!r}); import patcher.verbs.watch as it\n"
        f"gc.disable()\nit.Lines.show = lambda *_: print({what})\n"
        f"it.watch(it.PatcherOptions(pid={pid}, watch=True))"
    )
    return command.run_program(sys.executable, "-c", program).stdout


def test_rich_is_imported_for_a_terminal_only(process: subprocess.Popen[str]) -> None:
    assert while_it_looks("'rich' in sys.modules", process.pid) == "False\n"


# --- for days -------------------------------------------------------------------------------------


def test_what_is_as_it_was_is_not_read_again(
    process: subprocess.Popen[str], library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = []
    real = linked.read

    def counting(obj: Object, names: Sequence[str]) -> linked.LinkedSites | None:
        reads.append(obj.path)
        return real(obj, names)

    monkeypatch.setattr(linked, "read", counting)
    with Target(process.pid, 2, to_read=True) as target:
        watch = Looks(target)
        ((module, states),) = watch.look()
        for _ in range(3):
            ((same, counted),) = watch.look()
            assert same is module
            assert counted is states
        patch("nop", process.pid)
        ((other, states),) = watch.look()
        assert other is not module
        assert states[State.NOP] == 3
        assert len(reads) == 1


def test_a_file_that_was_replaced_is_read_anew_whatever_its_name_and_inode(
    process: subprocess.Popen[str], tmp_path: Path
) -> None:
    body = "int one(int x) { return x; }"
    one = live.library(tmp_path, "made-one", body)
    two = live.library(tmp_path, "made-two", f"{body} int two(int x) {{ return x; }}")
    path = tmp_path / "library.so"
    shutil.copy(one, path)
    with Target(process.pid, 2, to_read=True) as target:
        watch = Looks(target, ["library.so"])

        def sites() -> list[int]:
            return [len(module) for module, _ in watch.look()]

        tell(process, f"+0{path}")
        assert sites() == [1]
        before = path.stat().st_ino
        tell(process, "-0")
        with path.open("r+b") as file:  # the same inode
            file.write(two.read_bytes())
        tell(process, f"+0{path}")
        assert path.stat().st_ino == before
        assert sites() == [2]
        tell(process, "-0")
        path.unlink()
        shutil.copy(one, path)
        tell(process, f"+0{path}")
        assert sites() == [1]
        path.unlink()  # what is mapped is what counts
        shutil.copy(two, path)
        assert sites() == [1]


def test_a_file_that_is_replaced_meanwhile_stays_known_to_who_may_not_look_behind_mappings(
    process: subprocess.Popen[str], library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "library.so"
    shutil.copy(library, path)
    tell(process, f"+0{path}")
    with Target(process.pid, 2, to_read=True) as target:
        live.forbid_map_files(target, monkeypatch)
        watch = Looks(target, ["library.so*"])
        ((module, _),) = watch.look()
        path.unlink()
        shutil.copy(library, path)
        ((same, _),) = watch.look()
        assert same is module


def test_what_fails_for_a_moment_is_looked_at_again_before_it_is_said(
    process: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Target(process.pid, 2, to_read=True) as target:
        real = target.settled_modules
        failing = [ModuleError("one.so", "is not what is mapped")] * 4

        def settled(globs: Sequence[str], known: Sequence[LiveSites]) -> list[LiveSites]:
            if failing:
                raise failing.pop()
            return real(globs, known)

        monkeypatch.setattr(target, "settled_modules", settled)
        looks = Looks(target)
        with pytest.raises(ModuleError):
            looks.look()
        assert len(looks.look()) == 1


@pytest.mark.slow
def test_neither_descriptors_nor_memory_are_lost(
    process: subprocess.Popen[str], library: Path, tmp_path: Path
) -> None:
    with Target(process.pid, 2, to_read=True) as target:
        watch, history = Looks(target), History()

        def cycle(number: int) -> None:
            """A library that was never there before comes and goes."""
            path = tmp_path / f"{number}.so"
            shutil.copy(library, path)
            tell(process, f"+0{path}")
            for line in ("-0", ""):
                modules = [document.watched_module(*each) for each in watch.look()]
                history.add("2026-01-01T00:00:00+00:00", modules)
                tell(process, line)
            path.unlink()

        def used() -> tuple[int, int]:
            gc.collect()
            return len(os.listdir("/proc/self/fd")), tracemalloc.get_traced_memory()[0]

        tracemalloc.start()
        for number in range(MOST_GONE + 20):  # until all that is remembered is
            cycle(number)
        files, memory = used()
        for number in range(MOST_GONE + 20, MOST_GONE + 120):
            cycle(number)
        more_files, more_memory = used()
        tracemalloc.stop()
    assert more_files == files
    assert more_memory - memory < 20 * 1024
    assert len(history.gone) == MOST_GONE
    assert history.forgotten == 120


def test_it_collects_garbage(process: subprocess.Popen[str]) -> None:
    assert while_it_looks("gc.isenabled()", process.pid) == "True\n"


def test_what_went_is_told_by_the_last_first_and_comes_back_as_new() -> None:
    def module(path: str, nops: int = 0) -> WatchedModule:
        return {
            "path": path, "type": "shared object", "bits": 64, "machine": "x86-64",
            "dead_entries": 0, "repeated_entries": 0, "build_id": None, "device": "08:01",
            "inode": 1, "load_address": 4096, "load_bias": 4096,
            "states": {"call": 3 - nops, "nop": nops, "foreign": 0, "traced": 0},
        }  # fmt: skip

    def paths(modules: Sequence[WatchedModule]) -> list[str]:
        return [each["path"] for each in modules]

    history = History()
    looks = [["a", "b"], ["a", "b"], ["b"], ["a", "b"], []]
    told = [history.add(f"{at}", [module(each, at) for each in look])
            for at, look in enumerate(looks)]  # fmt: skip
    assert [[paths(each) for each in look] for look in told] == [
        [["a", "b"], [], []],
        [[], ["a", "b"], []],
        [[], ["b"], ["a"]],
        [["a"], ["b"], []],
        [[], [], ["a", "b"]],
    ]
    assert [(each["path"], each["gone"]) for each in history.gone] == [
        ("b", "4"), ("a", "4"), ("a", "2"),
    ]  # fmt: skip
