"""The programs of others that ours is compared with; where one is missing, the test fails."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.command import ROOT, Finished


def need(program: str) -> str:
    """Return the path of a program on PATH; without it the test fails."""
    path = shutil.which(program)
    if path is None:
        pytest.fail(f"{program} is not installed")
    return path


@dataclass(frozen=True)
class Peers:
    """The recorders of Debian's linux-kbuild package, for x86-64 unless an argument says else.

    Each method works on the object in place, as the kernel's build system has it do.
    """

    c_path: Path
    perl_path: Path
    objtool_path: Path

    def c(self, *arguments: str | Path) -> Finished:
        """Run the C `recordmcount` with these options and files."""
        return _finished([self.c_path, *arguments])

    def perl(self, path: Path, *, bits: int = 64) -> Finished:
        """Run `recordmcount.pl` with the arguments of scripts/Makefile.build."""
        machine = {64: ("x86_64", "elf_x86_64"), 32: ("i386", "elf_i386")}[bits]
        flags = f"-m{bits}"
        return _finished([
            need("perl"), self.perl_path, machine[0], "little", str(bits), "objdump", "objcopy",
            f"gcc {flags}", f"ld -m {machine[1]}", "nm", "rm -f", "mv -f", "0", path,
        ])  # fmt: skip

    def objtool(self, path: Path) -> Finished:
        """Run `objtool --mcount`."""
        return _finished([self.objtool_path, "--mcount", path])


def find_peers() -> Peers:
    """Return the peers that `tools/kernel` has unpacked; without one, fail."""
    kbuild = ROOT / ".cache" / "kernel" / "cloud" / "kbuild"
    peers = Peers(
        kbuild / "scripts" / "recordmcount",
        kbuild / "scripts" / "recordmcount.pl",
        kbuild / "tools" / "objtool" / "objtool",
    )
    for path in (peers.c_path, peers.perl_path, peers.objtool_path):
        if not path.exists():
            pytest.fail(f"{path} is missing: run tools/kernel")
    return peers


def _finished(command: list[str | Path]) -> Finished:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    return Finished(done.returncode, done.stdout, done.stderr)
