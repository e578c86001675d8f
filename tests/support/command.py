"""Run our own commands as a user does, in a process of its own; or in this one."""

import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryFile
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


def call(package: str, *arguments: str | Path, cwd: Path | None = None) -> Finished:
    """Run a command as `run` does, but in this process: most of a short run is its start.

    For tests that look at what becomes of files. That commands start is shown by those that `run`.
    """
    main = import_module(f"{package}.cli").main
    with TemporaryFile() as out, TemporaryFile() as err:
        with redirected(out.fileno(), err.fileno()), chdir(cwd or "."):
            status = main([os.fspath(word) for word in arguments])
        return Finished(status, *(_all_of(each.fileno()) for each in (out, err)))


def _all_of(fd: int) -> str:
    """The text of a file, whoever wrote it by whatever descriptor."""
    return os.pread(fd, os.fstat(fd).st_size, 0).decode("utf-8", "surrogateescape")


@contextmanager
def redirected(out: int, err: int) -> Iterator[None]:
    """Let this process print into other files."""
    kept = [os.dup(1), os.dup(2)]
    os.dup2(out, 1)
    os.dup2(err, 2)
    try:
        yield
    finally:
        for number, fd in enumerate(kept, 1):
            os.dup2(fd, number)
            os.close(fd)


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
