"""What is told of files, beside readelf and a plain program with pyelftools."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tools.benchmark import images
from tools.benchmark.builds import Build
from tools.benchmark.comparison import Comparison, Pair, Target
from tools.benchmark.measure import Command, Cost, Sample, race, sample
from tools.benchmark.setting import Setting, megabytes


def modules(setting: Setting) -> Iterator[Comparison]:
    """A report on modules with their tables, as the kernel's build made them; and their check.

    readelf lists all relocations and knows no sites: what of them to look for, `grep` would tell.
    """
    paths = setting.shipped
    names, folder = [str(path) for path in paths], str(paths[0].parent)
    plain = [sys.executable, str(Path(__file__).with_name("plain_report.py")), *names]
    nothing = setting.copies()
    ways = [(build, verb) for build in setting.builds for verb in ("report", "verify")]
    commands = [
        Command([*build.command("recordmcount"), verb, folder], nothing, finds=verb == "verify")
        for build, verb in ways
    ]
    peers = [Command(words, nothing) for words in (["readelf", "-rW", *names], plain)]
    *ours, readelf, elftools = race([*commands, *peers], setting.rounds())
    sizes = [path.stat().st_size for path in paths]
    subject = f"{len(paths)} modules with tables, {megabytes(sum(sizes))}"
    for (build, verb), cost in zip(ways, ours, strict=True):
        pair = Pair(subject, build.name, cost, readelf)
        yield pair.part(f"{verb}, time of readelf -rW", target=build.target("at most", 1))
        yield pair.part(f"{verb}, processor time of readelf -rW", "processor")
        yield from pair.instructions(f"{verb}, ")
        pair = Pair(subject, build.name, cost, elftools)
        at_least = Target("at least", 10)
        yield pair.faster(f"{verb}, times as fast as plain pyelftools", at_least)
        if verb == "report":
            yield _memory(subject, build, cost, max(sizes))


def large(setting: Setting) -> Iterator[Comparison]:
    """The memory for a report on large files of many sites."""
    for what, path in (("linked", setting.linked), ("in one object", setting.recorded)):
        nothing = setting.copies()
        reports = [[*build.command("recordmcount"), "report"] for build in setting.builds]
        commands = [Command([*report, str(path)], nothing) for report in reports]
        size = path.stat().st_size
        subject = f"the modules twice, {what}, {megabytes(size)}"
        for build, cost in zip(setting.builds, race(commands, setting.rounds()), strict=True):
            yield _memory(subject, build, cost, size)


def _memory(subject: str, build: Build, costs: Sequence[Cost], size: int) -> Comparison:
    """Peak memory, beside the size of the largest file: that many bytes may be mapped."""
    return Comparison(
        subject, "report, MiB of memory above the largest file", build.name, "memory",
        sample(costs, "memory"), Sample([size] * len(costs)),
        inverse=True, added=True, target=build.target("at most", 64),
    )  # fmt: skip


def source_lines(setting: Setting) -> Iterator[Comparison]:
    """What --lines adds to a report of 1,000 sites of a program with much debug information."""
    program = images.with_lines(setting.size(40, 2), setting.scratch)
    nothing = setting.copies()
    commands = [
        Command([*build.command("recordmcount"), "report", *lines, str(program)], nothing)
        for build in setting.builds
        for lines in ([], ["--lines"])
    ]
    costs = race(commands, setting.rounds())
    subject = f"{megabytes(program.stat().st_size)} with debug information"
    for build, without, with_lines in zip(setting.builds, costs[::2], costs[1::2], strict=True):
        yield Comparison(
            subject, "report --lines, seconds more than without lines", build.name, "wall",
            sample(with_lines, "wall"), sample(without, "wall"),
            inverse=True, added=True, target=Target("at most", 0.15),
        )  # fmt: skip
