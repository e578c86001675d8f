"""Objects and linked files with many recorded sites, to switch and to report on."""

import subprocess
import sys
from collections.abc import Sequence
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


def twice(modules: Sequence[Path], out: Path) -> Path:
    """One relocatable object that has all of them twice.

    What is defined in the second half has local symbols: each function has its own, in either half.
    """
    once, again = (out.with_name(f"{name}.o") for name in ("once", "again"))
    _run("ld", "-r", "-z", "muldefs", "-o", once, *modules)
    # Of sections with such a name the linker would keep the first.
    name = ".this_module"
    renamed = f"--rename-section=.gnu.linkonce{name}={name}"
    _run("objcopy", "--wildcard", "--localize-symbol=*", renamed, once, again)
    _run("ld", "-r", "-o", out, once, again)
    once.unlink()
    again.unlink()
    return out


def linked(recorded: Path, scratch: Path) -> Path:
    """A static executable of an object of many modules: real code, in real proportions."""
    root, image = scratch / "root.o", scratch / "modules"
    _gcc("-c", "-x", "c", "-", "-o", root, source=ROOT)
    # What other modules or the kernel define is left out, as nothing is run.
    _run("ld", "-static", "--unresolved-symbols=ignore-all", "-o", image, recorded, root)
    return image


# A function of 48 bytes, as they are on average in 4.9 MB of 100,000.
CALLED = """\
.globl f{number}
.type f{number}, @function
f{number}:
    call __fentry__
    lea 1(%rdi), %eax
    ret
.size f{number}, .-f{number}
.skip 39, 0x90
"""
# Calls all of them in turn, and says for each line that comes how long it did nothing, at most.
CALLER = """\
#include <fcntl.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>
extern int (*const table[])(int);
static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}
int main(int count, char **words) {
    if (count > 1) return 0;
    fcntl(0, F_SETFL, O_NONBLOCK);
    double before = now(), longest = 0;
    for (unsigned turn = 0, at = 0;; turn++) {
        for (int i = 0; i < 64; i++) table[at++ % COUNT](i);
        double after = now();
        if (after - before > longest) longest = after - before;
        before = after;
        if (turn % 1024) continue;
        char line[16];
        int size = read(0, line, sizeof line);
        if (size == 0) return 0;
        if (size > 0) {
            printf("%.9f\\n", longest);
            fflush(stdout);
            before = now();
            longest = 0;
        }
    }
}
"""


def calling(count: int, scratch: Path) -> Path:
    """A program of so many functions, by the __fentry__ of the C library, that calls them all.

    It ends at once if it is given an argument. uftrace patches such a program, too.
    """
    plain, caller, program = (scratch / name for name in ("calls.o", "caller.o", "calling"))
    functions = "".join(CALLED.format(number=number) for number in range(count))
    table = "".join(f".quad f{number}\n" for number in range(count))
    source = f".text\n.balign 4096\n{functions}.data\n.globl table\ntable:\n{table}"
    note = '.section .note.GNU-stack,"",@progbits\n'
    _gcc("-c", "-x", "assembler", "-", "-o", plain, source=source + note)
    _record(plain, plain)
    _gcc("-O1", f"-DCOUNT={count}", "-c", "-x", "c", "-", "-o", caller, source=CALLER)
    _gcc("-no-pie", "-o", program, caller, plain)
    return program


def of_tiny_functions(count: int, scratch: Path) -> Path:
    """A shared object that is nearly nothing but sites: each function is of 16 bytes."""
    plain, recorded, image = (scratch / name for name in ("tiny.o", "tiny.recorded.o", "tiny.so"))
    source = "".join(FUNCTION.format(number=number) for number in range(count))
    _gcc("-c", "-x", "assembler", "-", "-o", plain, source=source)
    _record(plain, recorded, "--pic")
    _gcc("-shared", "-nostdlib", "-o", image, recorded)
    return image


# 25 of a unit's functions are called through __fentry__, the others are what makes it large.
UNIT = """\
struct s{unit} {{ struct s{unit} *next; long value, more[8]; const char *name; }};
int use(void *, long);
{functions}
"""
LINED = """\
{silent}int u{unit}_f{number}(struct s{unit} *list, long n, long m)
{{
  long sum = n;
  for (struct s{unit} *each = list; each; each = each->next) {{
    if (each->value > m)
      sum += each->value * n;
    else if (each->name)
      sum -= use(each, sum + {number});
    each->more[n & 7] = sum;
  }}
  while (n-- > m)
    sum ^= use(list, n);
  return use(list, sum);
}}
"""
SILENT = "__attribute__((no_instrument_function)) "
SITES_OF_UNIT, FUNCTIONS_OF_UNIT = 25, 250


def with_lines(units: int, scratch: Path) -> Path:
    """A shared object of so many units, 25 sites in 250 functions each, with line tables."""
    objects = []
    for unit in range(units):
        functions = "".join(
            LINED.format(
                silent=SILENT if number % (FUNCTIONS_OF_UNIT // SITES_OF_UNIT) else "",
                unit=unit, number=number,
            )
            for number in range(FUNCTIONS_OF_UNIT)
        )  # fmt: skip
        path = scratch / f"unit{unit}.c"
        path.write_text(UNIT.format(unit=unit, functions=functions))
        objects.append(path.with_suffix(".o"))
        _gcc("-c", "-O1", "-g", "-fPIC", "-pg", "-mfentry", "-o", objects[-1], path)
        _record(objects[-1], objects[-1], "--pic")
    image = scratch / "lines.so"
    _gcc("-shared", "-nostdlib", "-o", image, *objects)
    return image


def _record(path: Path, out: Path, *options: str) -> None:
    _run(sys.executable, "-m", "recordmcount", *options, "-o", out, path)


def _run(*words: str | Path) -> None:
    subprocess.run(words, check=True)


def _gcc(*words: str | Path, source: str = "") -> None:
    subprocess.run(["gcc", *words], check=True, input=source, text=True)
