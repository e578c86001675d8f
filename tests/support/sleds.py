"""Build programs with sleds, and a function to be called from them.

A program answers each line on its standard input, as those of `live` do: it does the work of
`work`, and says how many calls of `counter` the thread that did it has made.
"""

from collections.abc import Sequence
from pathlib import Path

from tests.support import images, live
from tests.support.processes import PRELUDE

COUNTER = """
#define QUIET __attribute__((patchable_function_entry(0), no_instrument_function))
__attribute__((noinline)) int work(int);
static __thread volatile unsigned long calls __attribute__((used));
#ifdef __i386__
#define COUNT "incl %gs:calls@ntpoff; ret"
#else
#define COUNT "incq %fs:calls@tpoff; ret"
#endif
__attribute__((naked)) QUIET void counter(void) { __asm__(COUNT); }
__attribute__((naked)) QUIET void idle(void) { __asm__("ret"); }
"""
SITES = 3  # of live.WORK


def without_sleds(source: str) -> str:
    """The prelude's own functions are to have none."""
    none = "__attribute__((patchable_function_entry(0), no_instrument_function))"
    return source.replace("static void", f"{none} static void")


def build(
    folder: Path,
    main: str = live.MAIN,
    *,
    flags: Sequence[str] = ("-fpatchable-function-entry=5",),
    link: Sequence[str | Path] = (),
    work: str = live.WORK,
    compiler: str = "gcc",
    name: str = "target",
) -> Path:
    """Compile a program with its own counter and live.WORK, each of whose functions has a sled."""
    answer = live.ANSWER.replace("#define QUIET __attribute__((no_instrument_function))\n", "")
    source = without_sleds(PRELUDE) + COUNTER + answer + work + main
    flags = ("-O1", "-pthread", "-ftls-model=local-exec", "-Wno-attributes", *flags)
    compiled = images.compile_object(folder, name, source, compiler, *flags)
    machine = [flag for flag in flags if flag.startswith("-m3")]
    images.tool(compiler, *machine, "-pthread", "-rdynamic", compiled, "-o", folder / name, *link)
    return folder / name
