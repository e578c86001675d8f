"""Functions find everything as it was when their sites are traced, by every kind of site."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen

import pytest

from tests.support import command, images, live
from tests.support.processes import PRELUDE, finish, started
from tests.support.traced import Tracing, tracing

pytestmark = pytest.mark.process

CALL = {5: "call __fentry__", 6: "call *__fentry__@GOTPCREL(%rip)"}
each_way = pytest.mark.parametrize("sequences", ["1", "0"], ids=["restartable", "locked"])


def ask(process: Popen[str]) -> dict[str, str]:
    """What the program says to a line: words by their names."""
    assert process.stdin
    assert process.stdout
    process.stdin.write("\n")
    process.stdin.flush()
    said: dict[str, str] = {}
    while (line := process.stdout.readline()) != "done\n":
        assert line, said
        name, _, rest = line.partition(" ")
        said[name] = rest.strip()
    return said


@contextmanager
def traced(program: Path, sequences: str = "1", **options: bool) -> Iterator[Tracing]:
    """Ask a program untraced, traced, and untraced again: it must say the same."""
    with started(program, GLIBC_TUNABLES=f"glibc.pthread.rseq={sequences}") as process:
        before = ask(process)
        with tracing(process.pid, **options) as trace:
            assert ask(process) == before
            trace.stop() if not options.get("counts") else trace.end()
            yield trace
        assert ask(process) == before
        finish(process)


# --- registers ------------------------------------------------------------------------------------

REGISTERS = (
    "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp",
    "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
)  # fmt: skip
VECTORS = [f"xmm{number}" for number in range(16)]
# What stands before the site, its length, what stands behind it, and the section of its table.
KINDS = {
    "plain": ("", 5, "", "__mcount_loc"),
    "endbr": ("endbr64", 5, "", "__mcount_loc"),
    "chained": ("push %r10", 5, "pop %r10", "__mcount_loc"),
    "chained_endbr": ("endbr64; push %r10", 5, "pop %r10", "__mcount_loc"),
    "six_bytes": ("", 6, "", "__mcount_loc"),
    "framed": ("push %rbp; mov %rsp, %rbp", 5, "pop %rbp", "__mcount_loc"),
    "unframed": ("sub $24, %rsp", 5, "add $24, %rsp", "__mcount_loc"),
}
RETURN = "at_end"
UNTOLD = {"unframed"}  # whose caller nobody can tell
PROBE = f"""
#define QUIET __attribute__((no_instrument_function))
unsigned long given[{len(REGISTERS)}], found[{len(REGISTERS)}];
unsigned char vectors[256] __attribute__((aligned(16))), found_vectors[256]
    __attribute__((aligned(16)));
void (*function)(void);
unsigned long stack_before, stack_behind;
void probe(void);
FUNCTIONS
QUIET static const char *wrong(int with_r11) {{
    static const char *names[] = {{ {", ".join(f'"{name}"' for name in REGISTERS)} }};
    for (int each = 0; each < {len(REGISTERS)}; each++)
        if (found[each] != given[each] && (with_r11 || strcmp(names[each], "r11")))
            return names[each];
    if (memcmp(vectors, found_vectors, sizeof vectors)) return "a vector register";
    return stack_before != stack_behind ? "rsp" : "none";
}}
QUIET int main(void) {{
    char line[8];
    ready();
    while (read(0, line, sizeof line) > 0) {{
        for (int each = 0; each < {len(REGISTERS)}; each++)
            given[each] = 0x0123456789abcdefUL * (each + 3);
        for (int each = 0; each < 256; each++) vectors[each] = each * 7 + 1;
        ASK
        puts("done");
        fflush(stdout);
    }}
    return 0;
}}
__attribute__((naked)) void __fentry__(void) {{ __asm__("ret"); }}
__attribute__((naked)) void __return__(void) {{ __asm__("ret"); }}
"""


def assembly(*lines: str) -> str:
    body = "\\n".join(line for each in lines for line in each.split("; ") if line)
    return f'__asm__(".text\\n{body}\\n");\n'


def probe() -> str:
    """A function that fills all registers, calls `function`, and sees that rsp is as it was."""
    saved = ("rbx", "rbp", "r12", "r13", "r14", "r15")
    load = [f"movups vectors+{16 * at}(%rip), %{name}" for at, name in enumerate(VECTORS)]
    load += [f"mov given+{8 * at}(%rip), %{name}" for at, name in enumerate(REGISTERS)]
    return assembly(
        ".globl probe", ".type probe, @function", "probe:", *(f"push %{name}" for name in saved),
        *load, "mov %rsp, stack_before(%rip)", "call *function(%rip)",
        "mov %rsp, stack_behind(%rip)", *(f"pop %{name}" for name in reversed(saved)), "ret",
        ".size probe, .-probe",
    )  # fmt: skip


def function(name: str, before: str, length: int, behind: str, table: str) -> str:
    """A function with a site; what it finds behind that it keeps, and returns."""
    keep = [f"movups %{each}, found_vectors+{16 * at}(%rip)" for at, each in enumerate(VECTORS)]
    keep += [f"mov %{each}, found+{8 * at}(%rip)" for at, each in enumerate(REGISTERS)]
    return f"void {name}(void);\n" + assembly(
        f".type {name}, @function", f".globl {name}", f"{name}:", before, f"1: {CALL[length]}",
        behind, *keep, "ret", f".size {name}, .-{name}",
        f".pushsection {table}, \\\"a\\\", @progbits", ".quad 1b", ".popsection",
    )  # fmt: skip


def function_with_end() -> str:
    """A function whose only site is directly before it returns; its caller looks afterwards."""
    keep = [f"movups %{each}, found_vectors+{16 * at}(%rip)" for at, each in enumerate(VECTORS)]
    keep += [f"mov %{each}, found+{8 * at}(%rip)" for at, each in enumerate(REGISTERS)]
    return f"void {RETURN}(void); void jumped_to(void);\n" + assembly(
        f".type {RETURN}, @function", f".globl {RETURN}", f"{RETURN}:", "nop",
        "1: call __return__", "jmp jumped_to", f".size {RETURN}, .-{RETURN}",
        ".type jumped_to, @function", "jumped_to:", *keep, "ret", ".size jumped_to, .-jumped_to",
        ".pushsection __return_loc, \\\"a\\\", @progbits", ".quad 1b", ".popsection",
    )  # fmt: skip


@pytest.fixture(scope="module", params=["calls", "nops"])
def probing(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A program with all kinds of sites, which are calls, or were turned off in the file."""
    folder = tmp_path_factory.mktemp("probe")
    functions = [probe(), function_with_end()]
    functions += [function(name, *kind) for name, kind in KINDS.items()]
    asked = [
        f'function = {name}; probe(); printf("{name} %s\\n", wrong({int(name == RETURN)}));'
        for name in (*KINDS, RETURN)
    ]
    source = PROBE.replace("FUNCTIONS", "".join(functions)).replace("ASK", "\n".join(asked))
    path, program = folder / "probe.c", folder / "probe"
    path.write_text(live.without_instrumentation(PRELUDE) + source)
    images.tool("gcc", "-O1", "-fno-pie", "-no-pie", "-Wl,--no-relax", path, "-o", program)
    if request.param == "nops":
        assert command.run("patcher", "nop", program).status == 0
    return program


@each_way
def test_every_register_survives_and_the_caller_is_told_where_it_is_certain(
    sequences: str, probing: Path
) -> None:
    with traced(probing, sequences, exits=True) as trace:
        told = [(name, "0x0" if name in UNTOLD else "probe") for name in (*KINDS, RETURN)]
        assert trace.told() == told


@each_way
def test_every_register_survives_where_calls_are_counted(sequences: str, probing: Path) -> None:
    with traced(probing, sequences, counts=True) as trace:
        assert trace.counts() == dict.fromkeys(KINDS, 1)


# --- functions as compilers make them -------------------------------------------------------------

COMPILED = """
#include <stdarg.h>
#define OWN __attribute__((noinline, noclone)) static
OWN double added(int count, ...) {
    va_list list;
    double sum = 0;
    va_start(list, count);
    for (int each = 0; each < count; each++)
        sum += each & 1 ? va_arg(list, double) : va_arg(list, int);
    va_end(list);
    return sum;
}
OWN long nested(long x) {
    long offset = x * 3;
    INNER __attribute__((noinline)) long inner(long y) { offset++; return y + offset; }
    return inner(x) + inner(2);
}
OWN long many(long a, long b, long c, long d, long e, long f, long g, long h, double i, float j) {
    return a + 2 * b + 3 * c + 4 * d + 5 * e + 6 * f + 7 * g + 8 * h + (long)(9 * i + 10 * j);
}
struct large { long words[9]; };
OWN struct large returned(long x) { struct large all = { { x, x + 1, x + 2 } }; return all; }
OWN _Complex double rotated(_Complex double x) { return x * 1i; }
OWN __int128 wide(__int128 x) { return x * 3; }
OWN long double longest(long double x) { return x / 3; }
OWN long deep(long x) {
    long rest = x ? deep(x - 1) : 0;
    __asm__ volatile("" : "+r"(rest));
    return rest + 1;
}
typedef float vector __attribute__((vector_size(16)));
OWN vector twice(vector x) { return x + x; }
OWN int ask(int number) {
    vector some = twice((vector){ number, 1, 2, 3 });
    printf("added %g\\n", added(7, 1, 2.5, 3, -4.25, 5, 6.125, 7));
    printf("nested %ld\\n", nested(number));
    printf("many %ld\\n", many(1, 2, 3, 4, 5, 6, 7, 8, 9.5, 10.25f));
    printf("returned %ld\\n", returned(number).words[2]);
    printf("rotated %g\\n", __real__ rotated(2 + 3i));
    printf("wide %ld\\n", (long)(wide((__int128)number << 64) >> 64));
    printf("longest %Lg\\n", longest(number));
    printf("deep %ld\\n", deep(3));
    printf("twice %g\\n", some[0]);
    return number;
}
QUIET int main(void) {
    char line[8];
    ready();
    while (read(0, line, sizeof line) > 0) { ask(5); puts("done"); fflush(stdout); }
    return 0;
}
"""
HOOKS = "".join(
    f'__attribute__((naked)) QUIET void {name}(void) {{ __asm__("ret"); }}\n'
    for name in ("__fentry__", "__return__", "mcount")
)
# A NOP of the compiler's own behind a PUSH might be padding, and is no site (see docs/limits.md).
INNER = "#ifndef INNER\n#define INNER\n#endif\n"
CALLED = [
    ("twice", "ask"), ("added", "ask"), ("nested", "ask"), ("inner.0", "nested"),
    ("inner.0", "nested"), ("many", "ask"), ("returned", "ask"), ("rotated", "ask"),
    ("wide", "ask"), ("longest", "ask"), ("deep", "ask"), ("deep", "deep"), ("deep", "deep"),
    ("deep", "deep"),
]  # fmt: skip
FENTRY = ("-pg", "-mfentry")
BUILDS = {
    "fentry": FENTRY,
    "optimized": (*FENTRY, "-O2"),
    "unoptimized": (*FENTRY, "-O0"),
    "endbr64": (*FENTRY, "-fcf-protection"),
    "nop": (*FENTRY, "-mrecord-mcount", "-mnop-mcount", "-fno-pie", "-DINNER=QUIET"),
    "through the GOT": (*FENTRY, "-fno-plt", "-fPIE"),
    "mcount": ("-pg", "-mno-fentry"),
    "mcount with frames": ("-pg", "-mno-fentry", "-fno-omit-frame-pointer"),
    "sleds": ("-fpatchable-function-entry=5",),
    "sleds with endbr64": ("-fpatchable-function-entry=5", "-fcf-protection"),
}


def build(folder: Path, *flags: str) -> Path:
    """Compile COMPILED, record it unless the compiler does, and link it."""
    quiet = "__attribute__((no_instrument_function, patchable_function_entry(0)))"
    source = live.without_instrumentation(PRELUDE) + f"#define QUIET {quiet}\n" + INNER + COMPILED
    compiled = images.compile_object(folder, "target", source + HOOKS, "gcc", "-O1", *flags)
    if "-mnop-mcount" not in flags and "-pg" in flags:
        assert command.run("recordmcount", compiled).status == 0
    images.tool(
        "gcc", "-no-pie" if "-fno-pie" in flags else "-pie", compiled, "-o", folder / "target"
    )
    return folder / "target"


@pytest.mark.parametrize("kind", BUILDS)
def test_functions_do_what_they_do_and_are_told(kind: str, tmp_path: Path) -> None:
    flags = BUILDS[kind]
    wanted = [each for each in CALLED if "-DINNER=QUIET" not in flags or each[0] != "inner.0"]
    with traced(build(tmp_path, *flags)) as trace:
        assert [each for each in trace.told() if each[0] != "ask"] == wanted


def test_functions_that_tell_their_ends_do_what_they_do(tmp_path: Path) -> None:
    """Results are in registers when a function ends: in RAX, RDX, XMM0, and in those of x87."""
    program = build(tmp_path, *FENTRY, "-fno-pie", "-minstrument-return=call")
    with traced(program, exits=True) as trace:
        told = Counter(name for name, _ in trace.told())
        ends = Counter(
            trace.names.function(event.site)
            for event in trace.events
            if trace.names.is_return(event.site)
        )
    entries = Counter(name for name, _ in CALLED)
    assert told - Counter(ask=2) == entries + entries
    assert ends - Counter(ask=1) == entries
