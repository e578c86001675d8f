"""Build a C++ program step by step, as a test of linkers wants it: compile, record, link, run."""

import dataclasses
import os
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fixtures.build import build
from fixtures.manifest import FOLDER, fixtures
from tests.support import command
from tests.support.peers import need

SOURCES = ("first.cc", "second.cc", "unused.cc")
EXIT_STATUS = 33
"""What main of first.cc returns."""

KINDS = {  # how to compile, to record and to link
    "exe": ("-fno-pic", (), "-no-pie"),
    "pie": ("-fpie", ("--pic",), "-pie"),
    "shared": ("-fPIC", ("--pic",), "-shared"),
}


class Flavour(NamedTuple):
    """How functions are instrumented, and what is linked to the sources to make a program."""

    flags: tuple[str, ...]
    runtime: tuple[str, ...]


# The program has its own __fentry__, so calls can be direct.
FENTRY = Flavour(("-pg", "-mfentry", "-ffunction-sections"), ("table.c", "tracer.c"))
# Without unwind tables nothing refers to sections, so that assemblers leave section symbols out.
NO_UNWIND = Flavour(
    (*FENTRY.flags, "-fno-exceptions", "-fno-asynchronous-unwind-tables"), FENTRY.runtime
)
# glibc has mcount, so calls go by way of PLT or GOT.
MCOUNT = Flavour(("-pg",), ("table.c",))
OWN_MCOUNT = Flavour(("-pg",), FENTRY.runtime)


class Said(NamedTuple):
    """What a program printed: link-time virtual addresses less that of the ELF header.

    `entries` is its table in order, `returns` where calls made returned to.
    """

    entries: list[int]
    returns: set[int]


@dataclass(frozen=True)
class Program:
    """A program in the making, in a folder of its own; `kind` is a key of KINDS."""

    folder: Path
    compiler: str
    kind: str
    flavour: Flavour = FENTRY
    machine: str = "-m64"

    def compile(self, sources: Iterable[str] = SOURCES) -> list[Path]:
        flags = (KINDS[self.kind][0], *self.flavour.flags)
        return [self._compile(source, self.compiler, *flags) for source in sources]

    def record(self, objects: Iterable[Path], *options: str) -> None:
        done = command.call("recordmcount", *KINDS[self.kind][1], *options, *objects)
        assert done == (0, "", "")

    def join(self, linker: Iterable[str], objects: Iterable[Path]) -> Path:
        """Make one object of several by `ld -r`."""
        joined = self.folder / "joined.o"
        tool([*linker, "-r", "-o", joined, *objects])
        return joined

    def link(self, linker: str, objects: Iterable[Path], *flags: str) -> Path:
        """Link with the runtime; raises AssertionError with what the linker said, if anything."""
        need(f"ld.{linker}" if linker != "mold" else linker)
        runtime = [
            self._compile(source, "gcc", "-fPIC", "-mgeneral-regs-only")
            for source in self.flavour.runtime
        ]
        image = self.folder / "image.so"
        how = (f"-fuse-ld={linker}", KINDS[self.kind][2], self.machine, *flags)
        tool(["g++", *how, "-o", image, *objects, *runtime])
        return image

    def run(self, image: Path) -> Said:
        """Run the program; a shared object, which has its main, becomes part of one first."""
        if self.kind == "shared":
            shared, image = image, self.folder / "program"
            tool(["gcc", self.machine, "-o", image, shared])
        done = subprocess.run([image], check=False, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (EXIT_STATUS, "")
        rows = [line.split() for line in done.stdout.splitlines()]
        return Said(
            [int(value, 16) for what, value in rows if what == "entry"],
            {int(value, 16) for what, value in rows if what == "return"},
        )

    def _compile(self, source: str, compiler: str, *flags: str) -> Path:
        """Return a copy, in the folder, of the object, which is compiled once and kept."""
        name = f"linked-{compiler}-{Path(source).stem}"
        row = dataclasses.replace(
            fixtures()["gcc-first"],
            name=name,
            source=FOLDER / source,
            compiler=compiler,
            flags=("-O2", self.machine, *flags),
        )
        return Path(shutil.copy(build(row), self.folder / f"{name}.o"))


def tool(words: Iterable[str | os.PathLike[str]]) -> None:
    """Run a tool that has no reason to say anything."""
    done = subprocess.run(
        list(words), check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stdout
