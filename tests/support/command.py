"""Run our own commands as a user does: in another process, with this interpreter."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
# What the environment has installed. `site` would add it, and what pip calls editable besides, for
# as much time as many a run takes.
INSTALLED = sysconfig.get_path("purelib")
# As `recordmcount --print-command` has it: next to nothing runs before our own code.
RECORDMCOUNT = (
    getattr(sys, "_base_executable", sys.executable),
    "-I",
    "-S",
    str(ROOT / "recordmcount" / "__main__.py"),
)


class Finished(NamedTuple):
    """How a command ended: its exit status, negative for a signal, and all that it printed."""

    status: int
    stdout: str
    stderr: str


def run(
    package: str, *arguments: str | Path, cwd: Path | None = None, **variables: str
) -> Finished:
    """Run `python -m package arguments...` in `cwd` with `variables` in its environment.

    Whatever the input, there is never a traceback: one fails the test.
    """
    done = subprocess.run(
        [sys.executable, "-S", "-m", package, *arguments],
        check=False,
        capture_output=True,
        cwd=cwd,
        env={**os.environ, **variables, "PYTHONPATH": f"{ROOT}:{INSTALLED}"},
        stdin=subprocess.DEVNULL,
        text=True,
        errors="surrogateescape",
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Finished(done.returncode, done.stdout, done.stderr)


def words(text: str) -> str:
    """A text with one blank wherever it has white space: however its lines were broken."""
    return " ".join(text.split())


def run_program(*words: str | Path, **variables: str) -> Finished:
    """Run a program with these words, and `variables` in its environment."""
    done = subprocess.run(
        words, check=False, capture_output=True, env={**os.environ, **variables},
        stdin=subprocess.DEVNULL, text=True, errors="surrogateescape",
    )  # fmt: skip
    return Finished(done.returncode, done.stdout, done.stderr)
