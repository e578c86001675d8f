"""`patcher trace --top` and `--count`: how often functions are called, second by second."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest

from patcher.report.counts import SCHEMA, VERSION, Called, columns, lines
from patcher.trace.counts import MOST, rows
from recordmcount.report.json import schema
from tests.support import command, images, live
from tests.support.live import CALLS, ask
from tests.support.processes import finish, started
from tests.support.terminal import Terminal, drawn_on
from tests.support.tracer import Tracer, is_traced, tracing, words

pytestmark = pytest.mark.process

TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
QUIT = "Ctrl-C ends"
RESTORED = "3 sites are what they were"
# Opens a library on `+/path`, and works on any other line.
MAIN = """
#include <dlfcn.h>
int (*one)(int);
QUIET int main(void) {
    char line[4096];
    ready();
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\\n")] = 0;
        if (*line == '+') {
            void *opened = dlopen(line + 1, RTLD_NOW);
            if (!opened || !(one = (int (*)(int))dlsym(opened, "one"))) return 1;
        }
        unsigned long before = calls;
        int result = one ? one(work(3)) : work(3);
        printf("%d %lu\\n", result, calls - before);
        fflush(stdout);
    }
    return 0;
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return live.build(tmp_path_factory.mktemp("program"), MAIN, link=["-ldl"])


@pytest.fixture
def process(program: Path) -> Iterator[subprocess.Popen[str]]:
    with started(program) as process:
        yield process


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    with drawn_on(24, 100) as terminal:
        yield terminal


def load(process: subprocess.Popen[str], library: Path) -> None:
    """Have the program open a library, and work."""
    assert process.stdin
    assert process.stdout
    process.stdin.write(f"+{library}\n")
    process.stdin.flush()
    assert process.stdout.readline()


def table(trace: Tracer, calls: int) -> tuple[list[str], list[list[str]]]:
    """The heading and rows of the next table in which all functions have so many calls."""
    while True:
        heading, *rows = [line.split() for line in trace.until("\n\n").splitlines() if line]
        if sum(int(row[1]) for row in rows if row[1:] != ["more"]) == calls:
            return heading, rows


def sites(pid: int) -> str:
    return live.count(pid)


# --- in plain text --------------------------------------------------------------------------------


def test_off_a_terminal_there_is_a_table_a_second(process: subprocess.Popen[str]) -> None:
    with tracing(process.pid, "--top") as trace:
        for _ in range(25):
            ask(process)
        heading, rows = table(trace, 100)
        assert heading == ["calls/s", "calls", "share", "function"]
        assert {row[3]: row[1] for row in rows} == {"twice": "50", "more": "25", "work": "25"}
        shares = [float(row[2].rstrip("%")) for row in rows]
        assert 99.8 < sum(shares) < 100.2
        for row in rows:
            assert int(row[0]) <= int(row[1])  # a second has passed, or more
        _, rows = table(trace, 100)
        assert rows == [
            ["0", "50", "0.0%", "twice"], ["0", "25", "0.0%", "more"], ["0", "25", "0.0%", "work"],
        ]  # fmt: skip
        ask(process)
        status, out, err = trace.end()
    last = out.rstrip().rpartition("\n\n")[2]
    assert [line.split()[1] for line in last.splitlines()[1:]] == ["52", "26", "26"]
    assert status == 0
    assert re.fullmatch(
        rf"process {process.pid} \(target\): 104 calls in [\d.]+ s; {RESTORED}\n", err
    )
    assert sites(process.pid) == "3 sites: 3 call, 0 nop, 0 foreign"
    assert ask(process)[1] == CALLS


def test_only_chosen_functions_are_counted(process: subprocess.Popen[str]) -> None:
    with tracing(process.pid, "--top", "--functions", "t*") as trace:
        ask(process)
        assert [row[3] for row in table(trace, 2)[1]] == ["twice"]


def test_modules_are_told_if_there_are_several(
    process: subprocess.Popen[str], program: Path, tmp_path: Path
) -> None:
    library = live.library(tmp_path, "one", "int one(int x) { return x; }")
    load(process, library)
    with tracing(process.pid, "--top") as trace:
        ask(process)
        heading, rows = table(trace, 5)
    assert heading == ["calls/s", "calls", "share", "function", "module"]
    assert sorted(row[3:] for row in rows) == sorted([
        ["twice", str(program)], ["more", str(program)], ["one", str(library)],
        ["work", str(program)],
    ])  # fmt: skip


def test_a_module_that_comes_later_is_counted_as_well(
    process: subprocess.Popen[str], tmp_path: Path
) -> None:
    library = live.library(tmp_path, "one", "int one(int x) { return x; }")
    with tracing(process.pid, "--top") as trace:
        load(process, library)
        while " one " not in trace.until("\n\n"):
            ask(process)


def test_who_does_not_read_any_more_ends_it(process: subprocess.Popen[str]) -> None:
    with tracing(process.pid, "--top") as trace:
        assert trace.process.stdout
        trace.process.stdout.close()
        trace.process.wait(timeout=60)
    assert sites(process.pid) == "3 sites: 3 call, 0 nop, 0 foreign"


def test_the_end_of_the_process_ends_it(process: subprocess.Popen[str]) -> None:
    with tracing(process.pid, "--top") as trace:
        ask(process)
        finish(process)
        table(trace, 4)
        assert trace.process.communicate(timeout=60)[1].endswith(b"; has ended\n")


@pytest.mark.parametrize("options", [
    "--top -o x", "--top --format json", "--top --count", "--top --events 3", "--top --tid 3",
    "--count --tid 3", "--follow-fork --flight-recorder",
])  # fmt: skip
def test_what_makes_no_sense_is_a_usage_error(options: str) -> None:
    assert command.run("patcher", "trace", "--pid", "4194303", *options.split()).status == 2


def test_functions_that_are_called_now_come_first() -> None:
    total = {("a", "m"): 5, ("b", "m"): 9, ("b", "n"): 9, ("c", "m"): 5, ("d", "m"): 1}
    rates = {("a", "m"): 2.0, ("c", "m"): 2.0, ("d", "m"): 3.0}
    assert [(row.name, row.module) for row in rows(total, rates)] == [
        ("d", "m"), ("a", "m"), ("c", "m"), ("b", "m"), ("b", "n"),
    ]  # fmt: skip


def test_a_name_cannot_speak_to_who_reads_the_table() -> None:
    bad = Called("x\x1b[2J\nf", "m\x85", 3, 1.0)
    shown = [*lines(columns([bad, Called("g", "n", 2, 1.0)], rates=2.0))]
    assert shown == [
        r"calls/s  calls  share  function     module",
        r"      1      3  50.0%  x\x1b[2J\nf  m\u0085",
        r"      1      2  50.0%  g            n",
    ]


# --- on a terminal --------------------------------------------------------------------------------


def begin(terminal: Terminal, pid: int, *options: str) -> None:
    """Type the command, and wait until it traces, so that it is drawn."""
    terminal.type(f"{' '.join(words(pid, '--top', *options))}; echo it=$?\n")
    terminal.until("\x1b[?1049h")


def test_it_is_drawn_each_second(process: subprocess.Popen[str], terminal: Terminal) -> None:
    begin(terminal, process.pid)
    heading, footer, *rest = terminal.screen(QUIT)
    assert heading == f"process {process.pid} (target): 0 calls a second, 0 in all"
    assert re.fullmatch(f"{TIME}; counted every second; {QUIT}", footer)
    assert set(rest) == {""}
    for _ in range(300):
        ask(process)
    heading, names, *rows = terminal.screen("1,200 in all")
    assert names.split() == ["calls/s", "calls", "share", "function"]
    assert QUIT in rows[3]
    _, _, *rows = terminal.screen(": 0 calls a second, 1,200 in all")
    assert [line.split() for line in rows[:3]] == [
        ["0", "600", "0.0%", "twice"], ["0", "300", "0.0%", "more"], ["0", "300", "0.0%", "work"],
    ]  # fmt: skip
    terminal.type("\x03")
    left = terminal.until("it=0")
    _, _, picture = left.partition("\x1b[?25h\x1b[?1049l")
    assert ": 0 calls a second, 1,200 in all" in picture
    assert "twice" in picture
    assert QUIT not in picture
    assert f"process {process.pid} (target): 1,200 calls in " in picture
    assert sites(process.pid) == "3 sites: 3 call, 0 nop, 0 foreign"


def test_ctrl_z_gives_the_terminal_back_until_it_goes_on(
    process: subprocess.Popen[str], terminal: Terminal
) -> None:
    begin(terminal, process.pid)
    for number in itertools.count(1):
        terminal.screen(QUIT)
        terminal.type("\x1a")
        terminal.until("\x1b[?1049l")
        assert "Stopped" in terminal.until("prompt> ")
        ask(process)  # and counts are kept
        terminal.type("fg\n")
        terminal.until("\x1b[?1049h")
        terminal.screen(f"{number * CALLS} in all")
        if number == 2:
            break


def test_it_is_drawn_anew_when_the_size_changes(
    process: subprocess.Popen[str], terminal: Terminal
) -> None:
    begin(terminal, process.pid)
    ask(process)
    terminal.screen("twice")
    drawn: list[str] = []
    for height, width in ((10, 70), (3, 20), (1, 1), (2, 5), (25, 80)):
        terminal.resize(height, width)
        while len(drawn) != height:
            os.kill(terminal.child(), signal.SIGWINCH)  # what was drawn is whole when more is
            drawn = terminal.screen("p")
        assert max(map(len, drawn)) <= width
    assert any(line.endswith("twice") for line in drawn)
    terminal.resize(5, 80)
    _, _, row, more, _ = terminal.screen("more: --functions chooses")
    assert (row.split()[-1], more) == ("twice", "2 more: --functions chooses")


def test_a_signal_ends_it_once_the_terminal_is_given_back(
    process: subprocess.Popen[str], terminal: Terminal
) -> None:
    begin(terminal, process.pid)
    terminal.until(QUIT)
    os.kill(terminal.child(), signal.SIGTERM)
    terminal.until("\x1b[?25h\x1b[?1049l")
    terminal.until("it=0")
    assert sites(process.pid) == "3 sites: 3 call, 0 nop, 0 foreign"


def test_a_name_cannot_speak_to_the_terminal(tmp_path: Path, terminal: Terminal) -> None:
    bad = "x\x1b]0;t\x07[bold]"
    program = live.build(tmp_path, MAIN, link=["-ldl", "-rdynamic"])
    images.tool("objcopy", f"--redefine-sym=twice={bad}", program)
    with started(program) as process:
        begin(terminal, process.pid)
        ask(process)
        (line,) = [each for each in terminal.screen("[bold]") if "[bold]" in each]
        assert line.endswith(r"%  x\x1b]0;t\x07[bold]")


def test_a_terminal_that_cannot_be_drawn_on_gets_tables(
    process: subprocess.Popen[str], terminal: Terminal
) -> None:
    terminal.type(f"TERM=dumb {' '.join(words(process.pid, '--top'))}; echo it=$?\n")
    while not is_traced(process.pid):
        time.sleep(0.01)
    ask(process)
    assert "\x1b[?1049h" not in terminal.until("twice")
    terminal.type("\x03")
    terminal.until("it=0")


HIDDEN = """
import sys
sys.modules["rich"] = None
from patcher.cli import main
sys.exit(main(["trace", "--top", "--pid", {pid!r}]))
"""


def test_without_rich_it_is_said_before_anything_is_traced(
    process: subprocess.Popen[str], terminal: Terminal, tmp_path: Path
) -> None:
    script = tmp_path / "hidden.py"
    script.write_text(HIDDEN.format(pid=str(process.pid)))
    before = Path(f"/proc/{process.pid}/maps").read_text()
    terminal.type(f"{sys.executable} {script}; echo it=$?\n")
    assert (
        "standard output: --top draws by `rich`, which is not installed: pip install rich; or pipe "
        "it: | cat\r\nit=1" in terminal.until("it=1")
    )
    assert Path(f"/proc/{process.pid}/maps").read_text() == before


# --- counts as a document -------------------------------------------------------------------------

SCHEMA_JSON = schema(SCHEMA)
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA_JSON)
DOCUMENT = {
    "version": VERSION, "pid": 12, "name": "x", "seconds": 1.5, "calls": 3,
    "functions": [{"function": "f", "module": "/x", "calls": 3}],
}  # fmt: skip


def test_counts_are_as_their_schema_has_them(process: subprocess.Popen[str], program: Path) -> None:
    with tracing(process.pid, "--count", "--format", "json") as trace:
        for _ in range(7):
            ask(process)
        status, out, _ = trace.end()
    told = json.loads(out)
    VALIDATOR.validate(told)
    assert status == 0
    assert told.pop("seconds") > 0
    assert told == {
        "version": 1, "pid": process.pid, "name": "target", "calls": 28,
        "functions": [
            {"function": "twice", "module": str(program), "calls": 14},
            {"function": "more", "module": str(program), "calls": 7},
            {"function": "work", "module": str(program), "calls": 7},
        ],
    }  # fmt: skip


def test_the_schema_is_printed_and_sound() -> None:
    done = command.run("patcher", "trace", "--schema")
    assert (done.status, json.loads(done.stdout), done.stderr) == (0, SCHEMA_JSON, "")
    jsonschema.Draft202012Validator.check_schema(SCHEMA_JSON)
    VALIDATOR.validate(DOCUMENT)


@pytest.mark.parametrize("where", ["document", "function"])
def test_every_field_is_needed_has_a_type_and_there_is_no_other(where: str) -> None:
    def made() -> tuple[dict[str, object], dict[str, object]]:
        document = json.loads(json.dumps(DOCUMENT))
        return document, document if where == "document" else document["functions"][0]

    for key in made()[1]:
        document, changed = made()
        del changed[key]
        assert not VALIDATOR.is_valid(document), f"{key} is missing"
        changed[key] = {}
        assert not VALIDATOR.is_valid(document), f"{key} is an object"
    document, changed = made()
    changed["other"] = None
    assert not VALIDATOR.is_valid(document)


def test_counts_tell_modules_if_there_are_several(
    process: subprocess.Popen[str], program: Path, tmp_path: Path
) -> None:
    library = live.library(tmp_path, "one", "int one(int x) { return x; }")
    load(process, library)
    with tracing(process.pid, "--count") as trace:
        ask(process)
        _, out, _ = trace.end()
    assert [line.split() for line in out.splitlines()] == [
        ["calls", "function", "module"], ["2", "twice", str(program)],
        ["1", "more", str(program)], ["1", "one", str(library)], ["1", "work", str(program)],
    ]  # fmt: skip


def test_a_table_that_is_written_has_a_bound(tmp_path: Path) -> None:
    names = [f"f{number}" for number in range(MOST + 3)]
    work = "".join(f"__attribute__((noinline)) static void {name}(void) {{ __asm__(\"\"); }}\n"
                   for name in names)  # fmt: skip
    work += f"int work(int x) {{ {''.join(f'{name}();' for name in names)} return x; }}"
    program = live.build(tmp_path, MAIN, work=work, link=["-ldl"])
    with started(program) as process, tracing(process.pid, "--top", "--notrace", "work") as trace:
        ask(process)
        *_, last = trace.until("\n3 more\n\n").strip().split("\n\n")
        assert len(last.splitlines()) == 1 + MOST + 1
