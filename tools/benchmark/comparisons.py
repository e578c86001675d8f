"""What is compared with what, and what the design wants of it."""

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.support import real_programs
from tools.benchmark import images, live, tracing
from tools.benchmark.comparison import Comparison, Target
from tools.benchmark.measure import BenchmarkError, Command, Copies, Sample, race, run

KERNEL = Path(__file__).parents[2] / ".cache/kernel/cloud"
C_TOOL = [str(KERNEL / "kbuild/scripts/recordmcount")]
OBJTOOL = [str(KERNEL / "kbuild/tools/objtool/objtool"), "--mcount"]
PERL_SCRIPT = [
    "perl", str(KERNEL / "kbuild/scripts/recordmcount.pl"),
    # arch, endian, bits, then the tools it calls, then whether it is a module's object
    *["x86_64", "little", "64", "objdump", "objcopy", "gcc", "ld", "nm", "rm", "mv", "1"],
]  # fmt: skip


def all_comparisons(
    scratch: Path, *, files: int | None, rounds: int | None
) -> Iterator[Comparison]:
    """Every comparison, as soon as it is made; `files` limits the modules, `rounds` the runs."""
    modules = sorted((KERNEL / "bare").glob("*.ko"))[:files]
    ours = our_command()
    yield from batch(ours, Copies(modules, scratch), rounds or 10)
    yield from one_object(ours, Copies([typical(modules)], scratch), rounds or 40)
    shipped = sorted((KERNEL / "modules").glob("*.ko"))[:files]
    yield from reporting(ours, Copies(shipped, scratch), rounds or 10)
    units = 40 if files is None else 2
    program = images.with_lines(units, scratch)
    yield from source_lines(ours, Copies([program], scratch), rounds or 10)
    # Once, those of the cloud kernel are 82 MB.
    large = joined([*modules, *modules], scratch / "large.o")
    yield from large_object(ours, Copies([large], scratch), rounds or 5)
    # Of what is there twice the linker drops one symbol, and code that nothing names is in doubt.
    once = images.recorded(joined(modules, scratch / "once.o"))
    real = images.of_modules(once, scratch)
    yield from patching("the modules linked", real, scratch, rounds or 10)
    tiny = images.of_tiny_functions(100_000 if files is None else 1000, scratch)
    yield from patching("nothing but tiny functions", tiny, scratch, rounds or 10)
    recorded = images.recorded(large)
    yield from patching("the modules in one object", recorded, scratch, rounds or 10)
    yield from switched_off(scratch, rounds or 200, 20)
    yield from running(100_000 if files is None else 1000, scratch, rounds or 10)
    yield from tracing.comparisons(scratch, rounds or 10)


def our_command() -> list[str]:
    """The fastest command line to record one object, as the Make fragment uses it."""
    words = [sys.executable, "-m", "recordmcount", "--print-command"]
    return shlex.split(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def batch(ours: list[str], copies: Copies, rounds: int) -> Iterator[Comparison]:
    """All modules in one call, by as many processes as there are processors and by one."""
    commands = [
        Command([*ours, f"@{copies.list}"]),
        Command([*ours, "-j1", f"@{copies.list}"]),
        Command([*C_TOOL, *copies.paths]),
    ]
    parallel, alone, c_tool = race(commands, copies, rounds)
    subject = f"{len(copies.paths)} modules, {megabytes(copies.size)}"
    processors = len(os.sched_getaffinity(0))
    for jobs, costs, target in (
        (processors, parallel, Target("at least", 3)),
        (1, alone, None),
    ):
        yield Comparison(
            subject, f"-j{jobs}, times as fast as C recordmcount", "wall",
            Sample(costs, "wall"), Sample(c_tool, "wall"), target=target,
        )  # fmt: skip
        yield Comparison(
            subject, f"-j{jobs}, processor time of C recordmcount", "processor",
            Sample(costs, "processor"), Sample(c_tool, "processor"), inverse=True,
            target=target and Target("at most", 0.75),
        )  # fmt: skip


def one_object(ours: list[str], copies: Copies, rounds: int) -> Iterator[Comparison]:
    """One module in one call, as make does it for every object."""
    python_alone = [*ours[:-1], "-c", "pass"]
    commands = [
        Command(python_alone, records=False),
        *(Command([*words, *copies.paths]) for words in (ours, PERL_SCRIPT, OBJTOOL, C_TOOL)),
    ]
    costs = race(commands, copies, rounds)
    python, us, perl, objtool, c_tool = (Sample(cost, "wall") for cost in costs)
    subject = f"one object, {copies.originals[0].name}, {copies.size:,} bytes"
    yield Comparison(
        subject, f"time of a bare {shlex.join(['python', *python_alone[1:]])}", "wall",
        us, python, inverse=True, target=Target("at most", 1.4),
    )  # fmt: skip
    for name, peer, target in (
        ("recordmcount.pl", perl, Target("at least", 4)),
        ("objtool --mcount", objtool, None),
        ("C recordmcount", c_tool, None),
    ):
        yield Comparison(subject, f"times as fast as {name}", "wall", us, peer, target=target)


def large_object(ours: list[str], copies: Copies, rounds: int) -> Iterator[Comparison]:
    """One object larger than any that is compiled."""
    commands = [Command([*words, *copies.paths]) for words in (ours, C_TOOL)]
    us, c_tool = race(commands, copies, rounds)
    subject = f"one large object, the modules twice in one, {megabytes(copies.size)}"
    yield Comparison(
        subject, "times as fast as C recordmcount", "wall",
        Sample(us, "wall"), Sample(c_tool, "wall"), target=Target("at least", 3),
    )  # fmt: skip
    for measure, what in (("processor", "processor time"), ("memory", "peak memory")):
        yield Comparison(
            subject, f"{what} of C recordmcount", measure,
            Sample(us, measure), Sample(c_tool, measure), inverse=True,
        )  # fmt: skip


def reporting(ours: list[str], copies: Copies, rounds: int) -> Iterator[Comparison]:
    """A report on modules with their tables, as the kernel's build made them; and their check.

    readelf lists all relocations and knows no sites: what of them to look for, `grep` would tell.
    """
    folder = str(copies.folder)
    plain = [sys.executable, str(Path(__file__).with_name("plain_report.py"))]
    commands = [
        Command([*ours, "report", folder], records=False),
        Command([*ours, "verify", folder], records=False, finds=True),
    ]
    *costs, readelf = race(
        [*commands, Command(["readelf", "-rW", *copies.paths], records=False)], copies, rounds
    )
    peers = [*commands, Command([*plain, *copies.paths], records=False)]
    *beside, elftools = race(peers, copies, min(rounds, 3))
    subject = f"{len(copies.paths)} modules with tables, {megabytes(copies.size)}"
    for verb, cost, again in zip(("report", "verify"), costs, beside, strict=True):
        for measure, what, target in (
            ("wall", "time", Target("at most", 1)),
            ("processor", "processor time", None),
        ):
            yield Comparison(
                subject, f"{verb}, {what} of readelf -rW", measure,
                Sample(cost, measure), Sample(readelf, measure), inverse=True, target=target,
            )  # fmt: skip
        yield Comparison(
            subject, f"{verb}, times as fast as plain pyelftools", "wall",
            Sample(again, "wall"), Sample(elftools, "wall"), target=Target("at least", 10),
        )  # fmt: skip


def source_lines(ours: list[str], copies: Copies, rounds: int) -> Iterator[Comparison]:
    """What --lines adds to a report of 1,000 sites of a program with much debug information."""
    report = [*ours, "report", *copies.paths]
    commands = [Command([*report, "--lines"], records=False), Command(report, records=False)]
    with_lines, without = race(commands, copies, rounds)
    yield Comparison(
        f"report --lines: {megabytes(copies.size)} with debug information",
        "seconds more than without lines", "wall", Sample(with_lines, "wall"),
        Sample(without, "wall"), inverse=True, target=Target("at most", 0.15), added=True,
    )  # fmt: skip


def patching(what: str, image: Path, scratch: Path, rounds: int) -> Iterator[Comparison]:
    """Patcher on a file of many sites: cp, which compares nothing, is the least it takes."""
    patcher = [sys.executable, "-I", "-S", str(Path(__file__).parents[2] / "patcher/__main__.py")]
    off = scratch / "off"
    words = [*patcher, "nop", "-o", str(off), str(image)]
    said = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    sites = int(said.removeprefix(f"{image}: ").split()[0])
    copies = Copies([image, off], scratch)
    on, off_copy, out = (*copies.paths, str(copies.folder / "out"))
    commands = {
        "cp": ["cp", on, out],
        "status -q": [*patcher, "status", "-q", on],
        "nop": [*patcher, "nop", "-o", out, on],
        "call": [*patcher, "call", "-o", out, off_copy],
    }
    timed = [Command(words, records=False) for words in commands.values()]
    cp, *ours = (Sample(costs, "wall") for costs in race(timed, copies, rounds))
    subject = f"{what}: {sites:,} sites, {megabytes(image.stat().st_size)}"
    for verb, sample in zip(list(commands)[1:], ours, strict=True):
        yield Comparison(
            subject, f"patcher {verb}, times the time of cp", "wall", sample, cp,
            inverse=True, target=Target("at most", 3),
        )  # fmt: skip


def switched_off(scratch: Path, rounds: int, size: int) -> Iterator[Comparison]:
    """Programs whose sites are all NOPs, and the same programs built without -pg.

    What they are given to do is as long as `size` says.
    """
    lines, text = scratch / "lines", scratch / "text"
    lines.write_bytes(b"\n" * size)
    text.write_bytes(b"".join(real_programs.text(1 + size // 6)))
    for name, words in (
        ("lua", [str(real_programs.SCRIPT), str(lines)]),
        ("zstd", ["-q", "-6", "-c", str(text)]),
    ):
        build = real_programs.BUILD[name]
        plain, on = build(scratch / f"{name}.plain", ""), build(scratch / f"{name}.on")
        off = scratch / f"{name}.off"
        subprocess.run([sys.executable, "-m", "patcher", "nop", "-q", "-o", off, on], check=True)
        yield from off_against_plain(name, [str(off), *words], [str(plain), *words], rounds)


def off_against_plain(
    name: str, off: list[str], plain: list[str], rounds: int
) -> Iterator[Comparison]:
    """One program, which must print the same in both ways."""
    output = Path(off[0]).with_suffix(".output")
    printed = []
    for words in (off, plain):
        run(Command(words), output)
        printed.append(output.read_bytes())
    if printed[0] != printed[1]:
        raise BenchmarkError(f"{name} with its sites off prints something else")
    commands = [Command(words, records=False) for words in (off, plain)]
    costs = race(commands, Copies([], output.parent), rounds)
    measures = {"processor": "processor time", "instructions": "instructions"}
    for measure, what in measures.items():
        ours, peer = (Sample(cost, measure) for cost in costs)
        if peer.least:
            yield Comparison(
                "programs with all sites off", f"{name}, {what} of the same without -pg", measure,
                ours, peer, inverse=True, target=Target("at most", 1.01), paired=True,
            )  # fmt: skip


def running(sites: int, scratch: Path, rounds: int) -> Iterator[Comparison]:
    """Patcher on a program that runs, and on one that starts.

    A halt compares what it reads and reads back what it has written; a bare copy does neither.
    uftrace turns the sites of a program into calls of its own, which it records then.
    """
    program = images.calling(sites, scratch)
    subject = f"a program that runs: {sites:,} sites"
    for what, measured in zip(
        ("first written", "written before"), live.halts(program, rounds), strict=True
    ):
        yield Comparison(
            subject, f"halt, times a bare read and write, pages {what}", "wall",
            measured.ours, measured.peer, inverse=True, target=Target("at most", 2), paired=True,
        )  # fmt: skip
    ours, peer, why_not = live.starts(program, scratch, rounds)
    what = "patcher run adds, of what uftrace record -P . adds"
    if why_not:
        what = f"patcher run adds, times the program alone ({why_not})"
    yield Comparison(
        subject, what, "wall", ours, peer,
        inverse=True, target=None if why_not else Target("at most", 1), paired=True,
    )  # fmt: skip


def typical(modules: Sequence[Path]) -> Path:
    """The module of median size among those that have something to record."""
    calling = [module for module in modules if b"\0__fentry__\0" in module.read_bytes()]
    return sorted(calling, key=lambda module: module.stat().st_size)[len(calling) // 2]


def joined(modules: Sequence[Path], out: Path) -> Path:
    """One relocatable object of all of them."""
    subprocess.run(["ld", "-r", "-z", "muldefs", "-o", out, *modules], check=True)
    return out


def megabytes(size: int) -> str:
    """A size in bytes, for people."""
    return f"{size / 1e6:.0f} MB"
