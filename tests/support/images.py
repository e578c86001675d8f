"""Build small programs whose table is recorded and linked, and count the calls they make.

    one = build(tmp_path, linker="lld", flags=("-mfentry", "-fpie"), link=("-pie",))
    calls(one)          # how many calls of mcount or __fentry__ were made at run time

The counter is not instrumented. It is preloaded, or linked in where there is no loader.
"""

import os
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from tests.support import command

# Four functions, one of them static; `odd` and `even` call each other.
WORK = """
int even(unsigned int n);
int odd(unsigned int n) { return n ? even(n - 1) : 0; }
int even(unsigned int n) { return n ? odd(n - 1) : 1; }
static __attribute__((noinline)) int twice(int x) { return x + x; }
int work(int x) { return twice(x) + even((unsigned int)x); }
"""
MAIN = """
#include <stdio.h>
int work(int x);
int main(void) { int x = getchar() - '0'; printf("work %d\\n", work(x)); return 0; }
"""
# Instrumented functions expect every register to be as it was.
COUNTER = """
#include <stdio.h>
static volatile unsigned long calls __attribute__((used));
#ifdef __i386__
#define COUNT "push %eax; call 1f; 1: pop %eax; lock incl calls - 1b(%eax); pop %eax; ret"
#else
#define COUNT "lock incq calls(%rip); ret"
#endif
__attribute__((naked)) void mcount(void) { __asm__(COUNT); }
__attribute__((naked)) void __fentry__(void) { __asm__(COUNT); }
__attribute__((destructor)) static void print_calls(void) { printf("calls %lu\\n", calls); }
"""
WORK_FUNCTIONS = {"odd", "even", "twice", "work"}
CALLS = 6  # of `work` with 3: work, twice, even, odd, even, odd


class Built(NamedTuple):
    """`image` has the table; `program` is run, with `counter` preloaded if there is one."""

    image: Path
    program: Path
    counter: Path | None


def build(
    folder: Path,
    *,
    compiler: str = "gcc",
    linker: str = "bfd",
    flags: Sequence[str] = ("-fno-pic",),
    record: Sequence[str] = (),
    link: Sequence[str] = ("-no-pie",),
    own_counter: bool = False,
    work: str = WORK,
) -> Built:
    """Compile WORK with -pg and `flags`, record it, and link it by `linker` with `link`.

    With `-shared` in `link` the image is a library. With `own_counter` the counter is part of
    the image, so calls of it can be direct.
    """
    work_object = compile_object(folder, "work", work, compiler, "-O0", "-pg", *flags)
    done = command.call("recordmcount", *record, work_object)
    assert done == (0, "", ""), done
    # Everything else is built by gcc, and as position-independent as the link wants it.
    shared = "-shared" in link
    machine = [flag for flag in flags if flag in ("-m32", "-mx32")]
    plain = [*machine, "-fPIE"] if shared else _plain(flags)
    main_object = compile_object(folder, "main", MAIN, "gcc", *plain)
    program = folder / "program"
    image = folder / "libwork.so" if shared else program
    objects = [work_object, *([] if shared else [main_object])]
    if own_counter:
        objects.append(compile_object(folder, "counter", COUNTER, "gcc", *plain))
    tool("gcc", f"-fuse-ld={linker}", "-o", image, *objects, *link)
    if shared:
        tool("gcc", *machine, "-pie", "-o", program, main_object, image)
    if own_counter:
        return Built(image, program, None)
    counter = folder / "libcounter.so"
    counter.write_bytes(_counter(*machine))
    return Built(image, program, counter)


@cache
def _counter(*machine: str) -> bytes:
    """The library that is preloaded."""
    with TemporaryDirectory() as folder:
        made = compile_object(Path(folder), "preloaded", COUNTER, "gcc", "-fPIC", *machine)
        library = Path(folder, "libcounter.so")
        tool("gcc", *machine, "-shared", "-o", library, made)
        return library.read_bytes()


def compile_object(folder: Path, name: str, source: str, compiler: str, *flags: str) -> Path:
    """Compile C `source` to `name`.o."""
    path = folder / f"{name}.c"
    path.write_text(source)
    if any(flag.startswith("-g") for flag in flags):  # the folder's name is in the object
        return _compile(path, compiler, flags)
    made = path.with_suffix(".o")
    made.write_bytes(_compiled(name, source, compiler, flags, os.environ["PATH"]))
    return made


@cache
def _compiled(name: str, source: str, compiler: str, flags: Sequence[str], _path: str) -> bytes:
    """The object of a source: hundreds of tests have the same, as that of MAIN."""
    with TemporaryDirectory() as folder:
        path = Path(folder, f"{name}.c")
        path.write_text(source)
        return _compile(path, compiler, flags).read_bytes()


def _compile(path: Path, compiler: str, flags: Sequence[str]) -> Path:
    tool(compiler, *flags, "-c", path, "-o", path.with_suffix(".o"))
    return path.with_suffix(".o")


def calls(built: Built) -> int:
    """Run the program, which must work as ever; how often mcount or __fentry__ was called."""
    environment = {**os.environ, "LD_PRELOAD": str(built.counter or "")}
    done = subprocess.run(
        [built.program], input="3", check=False, capture_output=True, text=True, env=environment
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    said = dict(line.split() for line in done.stdout.splitlines())
    assert said["work"] == "6"
    return int(said["calls"])


def tool(*words: str | Path) -> None:
    """Run a compiler or linker; raises AssertionError with what it said if it fails."""
    done = subprocess.run(
        words, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout


def section(path: Path, name: str) -> tuple[int, int, int]:
    """(file offset, link-time virtual address, size) of a section."""
    with path.open("rb") as stream:
        found = ELFFile(stream).get_section_by_name(name)
        assert found is not None, name
        return int(found["sh_offset"]), int(found["sh_addr"]), int(found["sh_size"])


def symbol(path: Path, name: str) -> int:
    """The link-time virtual address of a symbol in .symtab."""
    with path.open("rb") as stream:
        table = ELFFile(stream).get_section_by_name(".symtab")
        assert isinstance(table, SymbolTableSection)
        found = table.get_symbol_by_name(name)
        assert found is not None, name
        return int(found[0]["st_value"])


def write(path: Path, offset: int, data: bytes) -> None:
    """Put `data` at a file offset of `path`."""
    with path.open("r+b") as stream:
        stream.seek(offset)
        stream.write(data)


def without_section_headers(path: Path) -> None:
    """Take e_shoff, e_shnum and e_shstrndx from a file, as tools that save space do."""
    is_64 = path.read_bytes()[4] == 2
    write(path, 0x28 if is_64 else 0x20, bytes(8 if is_64 else 4))
    write(path, 0x3C if is_64 else 0x30, bytes(4))


def _plain(flags: Sequence[str]) -> list[str]:
    """Of the flags for instrumented code, those for any code."""
    return [flag for flag in flags if flag.startswith(("-fpi", "-fPI", "-fno-pi", "-m32", "-mx32"))]
