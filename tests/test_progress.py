"""Progress: on a terminal, of work that takes a while, and nowhere else."""

import os
import pty
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from tests.support.command import ROOT
from tests.support.objects import caller, recorded

COMMANDS = [
    ["recordmcount", "-j1"], ["recordmcount", "-j2"], ["recordmcount", "report"],
    ["patcher", "status"], ["patcher", "nop"],
]  # fmt: skip
PROGRAM = """
import sys
sys.path.insert(0, {root!r})
from recordmcount import progress
from {package}.cli import main
progress.PATIENCE = {patience}
status = main({words!r})
print("imported" if "tqdm" in sys.modules else "not imported")
sys.exit(status)
"""


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    return [str(recorded(tmp_path / f"{number}.o", caller())) for number in range(5)]


def run(command: list[str], files: list[str], patience: float = -1) -> tuple[str, str]:
    """What is printed to stdout, which is a pipe, and to stderr, which is a terminal."""
    package, *words = command
    program = PROGRAM.format(
        root=str(ROOT), package=package, words=[*words, *files], patience=patience
    )
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    done = subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
    )
    os.close(theirs)
    said = b""
    try:
        while piece := os.read(ours, 1 << 16):
            said += piece
    except OSError:  # the terminal's end
        pass
    os.close(ours)
    return done.stdout, said.decode()


def last_screen(said: str) -> str:
    """What is left on the line of a terminal when all was written."""
    line = ""
    for part in said.split("\r"):
        line = part + line[len(part) :]
    return line.strip()


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_long_work_shows_how_far_it_is_and_leaves_nothing(
    command: list[str], files: list[str]
) -> None:
    out, said = run(command, files)
    assert out.endswith("\nimported\n") or out == "imported\n"
    assert "/5 [" in said
    if command[0] == "patcher" or "report" in command:
        assert last_screen(said) == ""


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_work_that_is_done_soon_shows_nothing(command: list[str], files: list[str]) -> None:
    out, said = run(command, files, patience=1000)
    assert out.endswith("not imported\n")
    assert "/5" not in said


@pytest.mark.parametrize(
    "command",
    [
        ["recordmcount", "-q"], ["recordmcount", "report", "--json"], ["patcher", "nop", "-q"],
        ["patcher", "status", "--json"], ["patcher", "status", "-q"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_who_wants_quiet_or_json_sees_none(command: list[str], files: list[str]) -> None:
    out, said = run(command, files)
    assert out.endswith("not imported\n")
    assert said == ""


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_where_there_is_no_terminal_nothing_is_imported(
    command: list[str], files: list[str]
) -> None:
    package, *words = command
    program = PROGRAM.format(root=str(ROOT), package=package, words=[*words, *files], patience=-1)
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stdout.endswith("not imported\n")
    assert "/5" not in done.stderr
