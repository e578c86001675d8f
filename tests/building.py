"""Run build tools as a user does whose PATH has `recordmcount`."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
GLUE = ROOT / "recordmcount" / "glue"


def run(*command: str | Path, cwd: Path = ROOT, **variables: str) -> str:
    """Run `command` in `cwd` with `variables` in its environment and return what it printed.

    Raises AssertionError with that output when the command fails.
    """
    installed = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{installed}:{os.environ['PATH']}", **variables}
    done = subprocess.run(
        command,
        check=False,
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout
