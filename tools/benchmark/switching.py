"""Patcher on a file of many sites, beside cp: that compares nothing, and is the least it takes."""

from collections.abc import Iterator
from pathlib import Path

from tools.benchmark.builds import Build
from tools.benchmark.comparison import Comparison, Pair
from tools.benchmark.measure import Command, race, sync
from tools.benchmark.setting import Setting, megabytes, output

VERBS = ("status -q", "nop", "call")


def linked(setting: Setting) -> Iterator[Comparison]:
    """Real code, in real proportions."""
    at_most = {"status -q": 1.5, "nop": 3, "call": 3}
    yield from _switching(setting, "the modules twice, linked", setting.linked, at_most)


def one_object(setting: Setting) -> Iterator[Comparison]:
    """The same in an object, with its relocations."""
    at_most = {"status -q": 1.5, "nop": 4, "call": 4}
    yield from _switching(setting, "the modules twice in one object", setting.recorded, at_most)


def tiny(setting: Setting) -> Iterator[Comparison]:
    """A file that is nothing but sites: it is copied before Python has started."""
    at_most = {"nop": 8.0, "call": 8.0}
    yield from _switching(setting, "nothing but tiny functions", setting.tiny, at_most)


def _switching(
    setting: Setting, what: str, image: Path, at_most: dict[str, float]
) -> Iterator[Comparison]:
    """All verbs; `at_most` has the times of cp that the compiled build may take."""
    off = setting.scratch / "off"
    said = output(*setting.builds[0].command("patcher"), "nop", "-o", off, image)
    sites = int(said.removeprefix(f"{image}: ").split()[0])
    sync(setting.scratch)
    ways = [(build, verb) for build in setting.builds for verb in VERBS]
    copies = setting.copies()
    cp = Command(["cp", str(image), str(copies.folder / "out")], copies)
    *ours, peer = race(
        [*(_command(setting, *way, image, off) for way in ways), cp], setting.rounds()
    )
    subject = f"{what}: {sites:,} sites, {megabytes(image.stat().st_size)}"
    for (build, verb), cost in zip(ways, ours, strict=True):
        pair = Pair(subject, build.name, cost, peer)
        target = build.target("at most", at_most[verb]) if verb in at_most else None
        yield pair.part(f"patcher {verb}, times the time of cp", target=target)
        yield from pair.instructions(f"patcher {verb}, ")


def _command(setting: Setting, build: Build, verb: str, image: Path, off: Path) -> Command:
    """`off` is the image with its sites off."""
    copies = setting.copies()
    words = {
        "status -q": ["status", "-q", image],
        "nop": ["nop", "-o", copies.folder / "out", image],
        "call": ["call", "-o", copies.folder / "out", off],
    }
    return Command([*build.command("patcher"), *map(str, words[verb])], copies)
