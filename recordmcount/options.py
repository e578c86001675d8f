"""The words that ask something of the recorder; `asked` has what they ask for."""

from .asked import Options
from .grammar import Command, Option

MOST_JOBS = 4096
HELP = Option("-h --help", "print this help", information=True)
VERSION = Option("-V --version", "print the version", information=True)
SYMBOL = Option(
    "--symbol", "a further function to look for, as in gcc's -mfentry-name; repeatable", "symbols",
    value="NAME", repeatable=True,
)  # fmt: skip
ALL_SECTIONS = Option(
    "--all-sections",
    "record every loaded text section, also those that no kernel's tracer may touch",
)
KERNEL = Option(
    "--kernel",
    "record only the sections that a kernel's tracer expects (the default where an object is seen "
    "to be of a kernel)",
)
OUTPUT = Option(
    "-o --output", "write the result to OUT and leave the one FILE alone", value="OUT"
)  # fmt: skip
DRY_RUN = Option("-n --dry-run", "change nothing, print what would be done")
JSON = Option("--json", "print JSON")
DEMANGLE = Option("--demangle", "show names of C++ and Rust as they stand in the source")
JOBS = Option(
    "-j --jobs", "processes (default: one a processor, where there is much to read)",
    value="N", number=range(1, MOST_JOBS + 1),
)  # fmt: skip
SCHEDULER = Option(
    "--scheduler", "have the files read by the workers of a Dask scheduler, as tcp://host:8786",
    value="ADDRESS",
)  # fmt: skip
SCHEMA = Option("--schema", "print the JSON's schema", information=True)


def declare() -> tuple[Command, Options]:
    """Declare the command line of recording."""
    command = Command(
        "recordmcount",
        ["[-w] [options] FILE... | @LIST", "report [options] FILE...",
         "verify [options] PATH...", "diff [options] OLD NEW"],
        "Record every call to mcount or __fentry__ in relocatable x86 objects (and in the members "
        "of static libraries) in a __mcount_loc table, as the Linux build's recordmcount does, "
        "and every call to __return__ in __return_loc.",
        [
            Option(
                "-w", "name the sections whose calls are not recorded but turned into NOPs", "warn"
            ),
            OUTPUT,
            DRY_RUN,
            Option("--stats", "print counts for each file, and in all"),
            Option(
                "-j --jobs",
                "processes for many files, or for a large one (default: one a processor)",
                value="N", number=range(1, MOST_JOBS + 1),
            ),
            SYMBOL,
            ALL_SECTIONS,
            KERNEL,
            Option(
                "--gc-sections",
                "one table for each text section, linked to it, so that the linker's --gc-sections "
                "drops both or none",
            ),
            Option(
                "--pic",
                "writable tables, for PIE and shared objects without text relocations (implied by "
                "PIC calls, which gcc emits and clang does not)",
            ),
            Option(
                "--image",
                "record executables and shared objects that are linked already: a table that is "
                "not loaded, for tools",
            ),
            Option(
                "--alloc",
                "with --image: a table that is loaded and relocated, which the program finds "
                "between __start___mcount_loc and __stop___mcount_loc",
            ),
            Option("-q --quiet", "no warnings"),
            VERSION,
            HELP,
            Option(
                "--print-dir", "print the folder of the Make, Kbuild and CMake files",
                information=True,
            ),
            Option(
                "--print-command", "print the fastest command line to record one object",
                information=True,
            ),
        ],
        arguments=[
            ("FILE", "an object (.o, .ko), an archive (.a), or an --image; changed in place"),
            ("@LIST", "a file that names one FILE a line (or separated by NULs); @- is stdin"),
        ],
        verbs=[
            ("report", "show every call site of objects, libraries and linked files"),
            ("verify", "tell whether tables are true to the code, for builds and CI"),
            ("diff", "show what changed between two builds"),
        ],
        epilog="`recordmcount VERB --help` tells more.\n"
        "exit status: 0 done, 1 a file failed, 2 usage",
    )  # fmt: skip
    return command, Options()
