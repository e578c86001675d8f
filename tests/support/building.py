"""Run build tools as a user does whose PATH has `recordmcount`."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.command import ROOT
from tests.support.loc_table import table_entries
from tests.support.oracle import expected_sites

GLUE = ROOT / "recordmcount" / "glue"


def copy(name: str, folder: Path) -> Path:
    """Copy the sources of fixtures/`name` into the new `folder`, and return it."""
    return Path(shutil.copytree(ROOT / "fixtures" / name, folder))


def run(*command: str | Path, cwd: Path = ROOT, status: int = 0, **variables: str) -> str:
    """Run `command` in `cwd` with `variables` in its environment and return what it printed.

    Raises AssertionError with that output unless the command ends with `status`.
    """
    installed = Path(sys.executable).parent
    done = subprocess.run(
        command,
        check=False,
        cwd=cwd,
        env={**os.environ, "PATH": f"{installed}:{os.environ['PATH']}", **variables},
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == status, done.stdout
    return done.stdout


def assert_object_recorded(path: Path) -> None:
    """The table of an object names each of its calls, and there are some."""
    entries = table_entries(path)
    assert entries, path
    assert sorted(entries) == sorted(expected_sites(path))
