"""Objects and linked files with many recorded sites, for patcher to switch."""

import subprocess
import sys
from pathlib import Path

# Called by the modules' functions, and where nothing starts: the image is never run.
ROOT = "void __fentry__(void) {}\nvoid _start(void) {}\n"
FUNCTION = """\
.globl f{number}
.type f{number}, @function
f{number}:
    call *__fentry__@GOTPCREL(%rip)
    lea 1(%rdi), %eax
    ret
.size f{number}, .-f{number}
.p2align 4
"""


def recorded(joined: Path) -> Path:
    """The object with a table of its sites."""
    out = joined.with_name(f"recorded.{joined.name}")
    _record(joined, out)
    return out


def of_modules(recorded: Path, scratch: Path) -> Path:
    """A static executable of an object of many modules: real code, in real proportions."""
    root, image = scratch / "root.o", scratch / "modules"
    _gcc("-c", "-x", "c", "-", "-o", root, source=ROOT)
    # What other modules or the kernel define is left out, as nothing is run.
    words = ["ld", "-static", "-z", "muldefs", "--unresolved-symbols=ignore-all"]
    subprocess.run([*words, "-o", image, recorded, root], check=True)
    return image


def of_tiny_functions(count: int, scratch: Path) -> Path:
    """A shared object that is nearly nothing but sites: each function is of 16 bytes."""
    plain, recorded, image = (scratch / name for name in ("tiny.o", "tiny.recorded.o", "tiny.so"))
    source = "".join(FUNCTION.format(number=number) for number in range(count))
    _gcc("-c", "-x", "assembler", "-", "-o", plain, source=source)
    _record(plain, recorded, "--pic")
    _gcc("-shared", "-nostdlib", "-o", image, recorded)
    return image


def _record(path: Path, out: Path, *options: str) -> None:
    words = [sys.executable, "-m", "recordmcount", *options, "-o", str(out), str(path)]
    subprocess.run(words, check=True)


def _gcc(*words: str | Path, source: str = "") -> None:
    subprocess.run(["gcc", *words], check=True, input=source, text=True)
