"""Programs whose sites are off, that run, and that start."""

import subprocess
import sys
from collections.abc import Iterator

from tools.benchmark import images, live
from tools.benchmark.builds import PURE
from tools.benchmark.comparison import Comparison, Pair, Target
from tools.benchmark.measure import BenchmarkError, Command, race, run
from tools.benchmark.setting import Setting

LENGTH = 20  # of what programs are given to do


def switched_off(setting: Setting) -> Iterator[Comparison]:
    """Programs whose sites are all NOPs, and the same programs built without -pg."""
    # Large, and what this process has had at its peak every command it starts seems to have.
    from tests.support import real_programs  # noqa: PLC0415

    scratch = setting.scratch
    lines, text = scratch / "lines", scratch / "text"
    lines.write_bytes(b"\n" * LENGTH)
    text.write_bytes(b"".join(real_programs.text(1 + LENGTH // 6)))
    for name, words in (
        ("lua", [str(real_programs.SCRIPT), str(lines)]),
        ("zstd", ["-q", "-6", "-c", str(text)]),
    ):
        build = real_programs.BUILD[name]
        plain, on = build(scratch / f"{name}.plain", ""), build(scratch / f"{name}.on")
        off = scratch / f"{name}.off"
        subprocess.run([sys.executable, "-m", "patcher", "nop", "-q", "-o", off, on], check=True)
        yield from _off_against_plain(setting, name, [str(off), *words], [str(plain), *words])


def _off_against_plain(
    setting: Setting, name: str, off: list[str], plain: list[str]
) -> Iterator[Comparison]:
    """One program, which must print the same in both ways."""
    commands = [Command(words, setting.copies()) for words in (off, plain)]
    for command in commands:
        run(command)
    if commands[0].output.read_bytes() != commands[1].output.read_bytes():
        raise BenchmarkError(f"{name} with its sites off prints something else")
    ours, peer = race(commands, setting.rounds(200))
    pair = Pair("programs with all sites off", "", ours, peer)
    at_most = Target("at most", 1.01)
    yield pair.part(f"{name}, processor time of the same without -pg", "processor", at_most)
    yield from pair.instructions(f"{name}, ", at_most)


def running(setting: Setting) -> Iterator[Comparison]:
    """Patcher on a program that runs, and on one that starts.

    A halt compares what it reads and reads back what it has written; a bare copy does neither.
    uftrace turns the sites of a program into calls of its own, which it records then.
    """
    sites = setting.size(100_000, 1000)
    program = images.calling(sites, setting.scratch)
    subject = f"a program that runs: {sites:,} sites"
    for what, measured in zip(
        ("first written", "written before"), live.halts(program, setting.rounds()), strict=True
    ):
        yield Comparison(
            subject, f"halt, times a bare read and write, pages {what}", PURE, "wall",
            measured.ours, measured.peer, inverse=True, target=Target("at most", 2),
        )  # fmt: skip
    ours, peer, why_not = live.starts(program, setting)
    what = "patcher run adds, of what uftrace record -P . adds"
    if why_not:
        what = f"patcher run adds, times the program alone ({why_not})"
    yield Comparison(
        subject, what, PURE, "wall", ours, peer,
        inverse=True, target=None if why_not else Target("at most", 1),
    )  # fmt: skip
