"""Run commands in turns on fresh copies of the same files, and say what they cost.

Other load comes and goes, so two commands are comparable only if they ran side by side: every
round runs each of them once, and every other round in reverse order. Before each run the files
are copied anew and written to disk, so that no run pays for the pages another one left; they are
then in the page cache, as objects are that the compiler has just written. Nothing of this is timed.
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

    Processor time is user + system, of child processes too; memory is that of the largest process.
    Instructions are those outside of the kernel; 0 if this machine does not count them.
    """

    wall: float
    processor: float
    memory: int
    instructions: int


class Command(NamedTuple):
    """A command line, and whether it must leave a table in the files (or none).

    `finds` tells that it is one that may exit with 1, for what it found.
    """

    words: list[str]
    records: bool = True
    finds: bool = False


class Sample:
    """The costs of one command in all rounds, by one measure, an attribute of Cost.

    Other load only ever adds, so `least` is what the command itself takes; `median` shows how
    far the usual run was from that.
    """

    def __init__(self, costs: Iterable[Cost], measure: str) -> None:
        self.values: list[float] = [getattr(cost, measure) for cost in costs]
        self.least = min(self.values)
        self.median = statistics.median(self.values)


class Copies:
    """Copies of `originals` in `folder`, at paths that stay the same each time they are renewed.

    `paths` names them, `list` is a file that names them one a line.
    """

    def __init__(self, originals: Sequence[Path], folder: Path) -> None:
        self.originals = originals
        self.folder = folder / "copies"
        self.paths = [str(self.folder / original.name) for original in originals]
        self.list = folder / "list"
        self.list.write_text("\n".join(self.paths))
        self.size = sum(original.stat().st_size for original in originals)

    def renew(self) -> None:
        """Replace the copies by fresh ones, on disk and in the page cache."""
        if not self.originals:
            return
        self.remove()
        self.folder.mkdir()
        for original, path in zip(self.originals, self.paths, strict=True):
            shutil.copyfile(original, path)
        subprocess.run(["sync", "--file-system", self.folder], check=True)

    def remove(self) -> None:
        """Remove the copies, and whatever a command left beside them."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def recorded(self) -> list[str]:
        """The copies that have a table by now."""
        return [path for path in self.paths if has_table(path)]


def has_table(path: str) -> bool:
    """Whether the object has a `__mcount_loc` section.

    Not read as a whole: a process starts with the peak memory of the one that started it.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        obj = elf.Object(path, size, reader(file.fileno()))
        return bool(obj.named(mcount_loc.NAME))


def race(commands: Sequence[Command], copies: Copies, rounds: int) -> list[list[Cost]]:
    """The costs of each command in `rounds` rounds, after one that is not counted.

    Raises BenchmarkError where a command fails, or where two do not record the same files.
    """
    _check_work(commands, copies)
    costs: list[list[Cost]] = [[] for _ in commands]
    for number in range(rounds):
        turns = list(zip(commands, costs, strict=True))
        for command, cost in turns if number % 2 else reversed(turns):
            copies.renew()
            cost.append(run(command, copies.folder.with_name("output")))
    copies.remove()
    return costs


def _check_work(commands: Sequence[Command], copies: Copies) -> None:
    """The warm-up: a table in the same files, at least in one, by every command that records."""
    expected: list[str] = []
    for command in commands:
        copies.renew()
        run(command, copies.folder.with_name("output"))
        if command.records:
            recorded = copies.recorded()
            expected = expected or recorded
            if not recorded or recorded != expected:
                raise BenchmarkError(
                    f"{command.words[0]} recorded {len(recorded)} files, and not the same "
                    f"{len(expected)} as {commands[0].words[0]}"
                )


def run(command: Command, output: Path) -> Cost:
    """Run a command, its output going to a file. BenchmarkError if it fails."""
    words = command.words
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
