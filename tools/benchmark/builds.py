"""Our two builds: the checkout as it is, and the one of `tools/build` with compiled modules."""

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from tools.benchmark.comparison import Target
from tools.benchmark.measure import BenchmarkError

ROOT = Path(__file__).parents[2]
PURE = "pure"
COMPILED = "compiled"


class Build(NamedTuple):
    """A folder with both packages, as its name says."""

    name: str
    folder: Path

    @property
    def recorder(self) -> list[str]:
        """The fastest command line to record one object, as the Make fragment uses it."""
        done = subprocess.run(
            # -P: not from the current folder, which is the checkout.
            [sys.executable, "-P", "-m", "recordmcount", "--print-command"],
            check=True, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(self.folder)},
        )  # fmt: skip
        words = shlex.split(done.stdout)
        if not Path(words[-1]).is_relative_to(self.folder):
            raise BenchmarkError(f"{words[-1]} is not of the {self.name} build")
        return words

    def command(self, package: str) -> list[str]:
        """A package of it, run by this interpreter, for which capstone is installed."""
        return [sys.executable, "-I", "-S", str(self.folder / package / "__main__.py")]

    def target(self, bound: str, number: float) -> Target | None:
        """A target that only the compiled build has to meet."""
        return Target(bound, number) if self.name == COMPILED else None


def pure() -> Build:
    """The checkout."""
    return Build(PURE, ROOT)


def compiled() -> Build:
    """The build with compiled modules, brought up to date. BenchmarkError if that fails."""
    command = [str(ROOT / "tools/build"), "tree"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise BenchmarkError(f"{shlex.join(command)} failed: {done.stderr[-1000:].strip()}")
    return Build(COMPILED, ROOT / ".cache/build/compiled")


MAKERS = {PURE: [pure], COMPILED: [compiled], "both": [pure, compiled]}
