"""Run commands in turns on fresh copies of the same files, and say what they cost.

Other load comes and goes, so two commands are comparable only if they ran side by side: every
round runs each of them once, and every other round in reverse order. Before a command that changes
files they are copied anew and written to disk, so that no run pays for the pages another one left;
they are then in the page cache, as objects are that the compiler has just written. Nothing of this
is timed.
"""

import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from recordmcount import mcount_loc
from recordmcount.elf import object as elf
from recordmcount.elf.open import reader
from tools.benchmark.instructions import Counter


class BenchmarkError(Exception):
    """A command failed, or did other work than it was to be compared for."""


class Cost(NamedTuple):
    """What one run took: wall clock and processor time in seconds, peak memory in bytes.

    Processor time is user + system, of child processes too; memory is that of the largest process,
    and not below that of this one.
    Instructions are those outside of the kernel; 0 if this machine does not count them.
    """

    wall: float
    processor: float
    memory: int
    instructions: int


class Sample:
    """The costs of one command in all rounds, by one measure, or what is made of them."""

    def __init__(self, values: Iterable[float]) -> None:
        self.values = list(values)
        self.least = min(self.values)
        self.median = statistics.median(self.values)
        self.greatest = max(self.values)


def sample(costs: Iterable[Cost], measure: str) -> Sample:
    """The costs by one measure, an attribute of Cost."""
    return Sample(getattr(cost, measure) for cost in costs)


class Copies:
    """Copies of `originals` in `folder`, which is made anew each time they are renewed.

    `paths` names them, `list` is a file that names them one a line. Of no originals there is a new
    folder, which is empty.
    """

    def __init__(self, originals: Sequence[Path], folder: Path) -> None:
        self.originals = originals
        self.folder = folder
        self.paths = [str(folder / original.name) for original in originals]
        self.list = folder.with_name(f"{folder.name}.list")
        self.list.write_text("\n".join(self.paths))
        self.size = sum(original.stat().st_size for original in originals)

    def renew(self) -> None:
        """Replace the copies by fresh ones, on disk and in the page cache."""
        self.remove()
        self.folder.mkdir()
        for original, path in zip(self.originals, self.paths, strict=True):
            shutil.copyfile(original, path)
        if self.originals:
            sync(self.folder)

    def remove(self) -> None:
        """Remove the copies, and whatever a command left beside them."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def recorded(self) -> list[str]:
        """The names of the copies that have a table by now."""
        return [Path(path).name for path in self.paths if has_table(path)]


class Command(NamedTuple):
    """A command line, and the files that are renewed before it, in which it must leave a table.

    Where these are in folders of their own, each command has its good moment: C recordmcount took
    up to three times the processor time in a folder that had been emptied of what others left.
    `finds` tells that it is a command that may exit with 1, for what it found.
    """

    words: list[str]
    copies: Copies
    finds: bool = False

    @property
    def output(self) -> Path:
        """Where what it prints goes."""
        return self.copies.folder.with_name(f"{self.copies.folder.name}.output")


def sync(folder: Path) -> None:
    """Have all that was written there on disk."""
    subprocess.run(["sync", "--file-system", folder], check=True)


def has_table(path: str) -> bool:
    """Whether the object has a `__mcount_loc` section.

    Not read as a whole: a process starts with the peak memory of the one that started it.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        obj = elf.Object(path, size, reader(file.fileno()))
        return bool(obj.named(mcount_loc.NAME))


def race(commands: Sequence[Command], rounds: int) -> list[list[Cost]]:
    """The costs of each command in `rounds` rounds, after one that is not counted.

    Raises BenchmarkError where a command fails, or where two do not record the same files.
    """
    _check_work(commands)
    costs: list[list[Cost]] = [[] for _ in commands]
    for number in range(rounds):
        turns = list(zip(commands, costs, strict=True))
        for command, cost in turns if number % 2 else reversed(turns):
            cost.append(run(command))
    for command in commands:
        command.copies.remove()
    return costs


def _check_work(commands: Sequence[Command]) -> None:
    """The warm-up: a table in the same files, at least in one, by every command that has any."""
    expected: list[str] = []
    for command in commands:
        run(command)
        if command.copies.originals:
            recorded = command.copies.recorded()
            expected = expected or recorded
            if not recorded or recorded != expected:
                raise BenchmarkError(
                    f"{command.words[0]} recorded {len(recorded)} files, and not the same "
                    f"{len(expected)} as another"
                )


def run(command: Command) -> Cost:
    """Run a command on fresh copies, its output going to a file. BenchmarkError if it fails."""
    command.copies.renew()
    words, output = command.words, command.output
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    redirections = [
        (os.POSIX_SPAWN_OPEN, 1, output, flags, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    with Counter() as counter:
        start = time.perf_counter()
        process = os.posix_spawnp(words[0], words, os.environ, file_actions=redirections)
        _, status, usage = os.wait4(process, 0)
        wall = time.perf_counter() - start
        instructions = counter.read()
    if os.waitstatus_to_exitcode(status) not in ((0, 1) if command.finds else (0,)):
        raise BenchmarkError(f"{words[0]} failed ({status:#x}): {output.read_text()[-1000:]}")
    processor = usage.ru_utime + usage.ru_stime
    return Cost(wall, processor, usage.ru_maxrss * 1024, instructions)
