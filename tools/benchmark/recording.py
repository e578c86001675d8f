"""Recording, beside the kernel's tools: all modules at once, one small object, and a large one."""

import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from tools.benchmark.builds import COMPILED, Build
from tools.benchmark.comparison import Comparison, Pair, Target
from tools.benchmark.measure import Command, Copies, race
from tools.benchmark.setting import KERNEL, Setting, megabytes

C_TOOL = [str(KERNEL / "kbuild/scripts/recordmcount")]
OBJTOOL = [str(KERNEL / "kbuild/tools/objtool/objtool"), "--mcount"]
PERL_SCRIPT = [
    "perl", str(KERNEL / "kbuild/scripts/recordmcount.pl"),
    # arch, endian, bits, then the tools it calls, then whether it is a module's object
    *["x86_64", "little", "64", "objdump", "objcopy", "gcc", "ld", "nm", "rm", "mv", "1"],
]  # fmt: skip


def batch(setting: Setting) -> Iterator[Comparison]:
    """All modules in one call, each command in a folder of its own: what the C tool likes best.

    By as many processes as there are processors, and by one.
    """
    several = len(os.sched_getaffinity(0))
    c_tool = _c_tool(setting.copies(*setting.modules))
    ways = [(build, jobs) for build in setting.builds for jobs in (several, 1)]
    ours = [_batch(build, jobs, setting.copies(*setting.modules)) for build, jobs in ways]
    *costs, peer = race([*ours, c_tool], setting.rounds())
    subject = f"{len(setting.modules)} modules, {megabytes(c_tool.copies.size)}"
    for (build, jobs), cost in zip(ways, costs, strict=True):
        pair = Pair(subject, build.name, cost, peer)
        faster, processor = build.target("at least", 3), build.target("at most", 1)
        if jobs == 1:
            faster = processor = None
        yield pair.faster(f"-j{jobs}, times as fast as C recordmcount", faster)
        yield pair.part(f"-j{jobs}, processor time of C recordmcount", "processor", processor)
        yield from pair.instructions(f"-j{jobs}, ")


def one_folder(setting: Setting) -> Iterator[Comparison]:
    """The same in one folder, emptied and filled before each command: what the C tool likes least.

    A build system that makes its objects anew does that.
    """
    copies = setting.copies(*setting.modules)
    jobs = len(os.sched_getaffinity(0))
    ours = [_batch(build, jobs, copies) for build in setting.builds]
    *costs, peer = race([*ours, _c_tool(copies)], setting.rounds())
    subject = f"{len(setting.modules)} modules, in a folder that was emptied and filled again"
    for build, cost in zip(setting.builds, costs, strict=True):
        pair = Pair(subject, build.name, cost, peer)
        target = build.target("at least", 5)
        yield pair.faster(f"-j{jobs}, times as fast as C recordmcount", target)
        yield pair.part(f"-j{jobs}, processor time of C recordmcount", "processor")


def one_object(setting: Setting) -> Iterator[Comparison]:
    """One module in one call, as make does it for every object."""
    original = _typical(setting.modules)
    builds = [build.recorder for build in setting.builds]
    python_alone = [*builds[0][:-1], "-c", "pass"]
    commands = [Command(python_alone, setting.copies())]
    for words in (*builds, PERL_SCRIPT, OBJTOOL, C_TOOL):
        copies = setting.copies(original)
        commands.append(Command([*words, *copies.paths], copies))
    python, *ours, perl, objtool, c_tool = race(commands, setting.rounds(40))
    subject = f"{original.name}, {original.stat().st_size:,} bytes"
    bare = shlex.join(["python", *python_alone[1:]])
    for build, cost in zip(setting.builds, ours, strict=True):
        pair = Pair(subject, build.name, cost, python)
        at_most = Target("at most", 1.45 if build.name == COMPILED else 1.35)
        yield pair.part(f"time of a bare {bare}", target=at_most)
        yield from pair.instructions("")
        for name, peer, target in (
            ("recordmcount.pl", perl, Target("at least", 4)),
            ("objtool --mcount", objtool, None),
            ("C recordmcount", c_tool, None),
        ):
            pair = Pair(subject, build.name, cost, peer)
            yield pair.faster(f"times as fast as {name}", target)


def large_object(setting: Setting) -> Iterator[Comparison]:
    """One object larger than any that is compiled."""
    commands = []
    for words in (*(build.recorder for build in setting.builds), C_TOOL):
        copies = setting.copies(setting.large)
        commands.append(Command([*words, *copies.paths], copies))
    *ours, c_tool = race(commands, setting.rounds())
    subject = f"the modules twice in one object, {megabytes(setting.large.stat().st_size)}"
    for build, cost in zip(setting.builds, ours, strict=True):
        pair = Pair(subject, build.name, cost, c_tool)
        yield pair.faster("times as fast as C recordmcount", build.target("at least", 3))
        yield pair.part("processor time of C recordmcount", "processor")
        yield pair.part("peak memory of C recordmcount", "memory")
        yield from pair.instructions("")


def _batch(build: Build, jobs: int, copies: Copies) -> Command:
    return Command([*build.recorder, f"-j{jobs}", f"@{copies.list}"], copies)


def _c_tool(copies: Copies) -> Command:
    return Command([*C_TOOL, *copies.paths], copies)


def _typical(modules: Sequence[Path]) -> Path:
    """The module of median size among those that have something to record."""
    calling = [module for module in modules if b"\0__fentry__\0" in module.read_bytes()]
    return sorted(calling, key=lambda module: module.stat().st_size)[len(calling) // 2]
