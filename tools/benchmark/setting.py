"""What all comparisons have in common: our builds, in how many rounds, and what is compared on."""

import os
import subprocess
from collections.abc import Sequence
from functools import cached_property
from itertools import count
from pathlib import Path

from tools.benchmark import images
from tools.benchmark.builds import ROOT, Build
from tools.benchmark.measure import Copies

KERNEL = ROOT / ".cache/kernel/cloud"
ENOUGH = 7  # rounds, for a median that may be compared with a target


class Setting:
    """Files are made in `scratch` when they are first needed, and kept for other comparisons.

    `files` limits the modules, and makes all else small; `rounds` is for all comparisons.
    """

    def __init__(
        self, scratch: Path, builds: Sequence[Build], *, files: int | None, rounds: int | None
    ) -> None:
        self.scratch = scratch
        self.builds = builds
        self._files = files
        self._rounds = rounds
        self._numbers = count()

    def rounds(self, default: int = ENOUGH) -> int:
        """How often each command runs."""
        return self._rounds or default

    def size(self, usual: int, small: int) -> int:
        """How much of something there is: little, if the modules are limited."""
        return usual if self._files is None else small

    def copies(self, *originals: Path) -> Copies:
        """Copies in a folder of their own."""
        return Copies(originals, self.scratch / f"copies{next(self._numbers)}")

    @cached_property
    def modules(self) -> list[Path]:
        """The kernel's modules without their tables."""
        return sorted((KERNEL / "bare").glob("*.ko"))[: self._files]

    @cached_property
    def shipped(self) -> list[Path]:
        """The modules with their tables, as the kernel's build made them; alone in a folder."""
        folder = self.scratch / "shipped"
        folder.mkdir()
        paths = []
        for module in sorted((KERNEL / "modules").glob("*.ko"))[: self._files]:
            paths.append(folder / module.name)
            os.link(module, paths[-1])
        return paths

    @cached_property
    def large(self) -> Path:
        """All modules twice in one object: those of the cloud kernel are 82 MB."""
        return images.twice(self.modules, self.scratch / "large.o")

    @cached_property
    def recorded(self) -> Path:
        """The same with a table."""
        return images.recorded(self.large)

    @cached_property
    def linked(self) -> Path:
        """The same, linked."""
        return images.linked(self.recorded, self.scratch)

    @cached_property
    def tiny(self) -> Path:
        """A shared object that is nearly nothing but sites."""
        return images.of_tiny_functions(self.size(100_000, 1000), self.scratch)


def megabytes(size: int) -> str:
    """A size in bytes, for people."""
    return f"{size / 1e6:.0f} MB"


def output(*words: str | Path) -> str:
    """What a command prints that must not fail."""
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout
