"""What a person can ask of patcher, and the words that ask it."""

from recordmcount.asked import Values
from recordmcount.errors import UsageError
from recordmcount.grammar import LONGEST_NUMBER, Command, Option
from recordmcount.options import DEMANGLE, HELP, JSON, SCHEMA, SYMBOL, VERSION

VERBS = {
    "nop": "turn calls to mcount into NOPs",
    "call": "turn the NOPs back into calls, byte for byte",
    "status": "count and list the sites in each state: call, nop, foreign (neither)",
    "run": "run a command whose calls are NOPs before its first instruction",
    "trace": "tell which functions a process calls, while it runs",
}
EXIT_STATUS = "exit status: 0 done; 1 a file failed, or has a foreign site; 2 usage"
FILE = "an executable, a shared object or an object (.o, .ko) with a __mcount_loc table"
FORMATS = ("text", "json", "perfetto", "fxt", "folded")
BUFFER = "4M"  # for each processor, unless --buffer tells otherwise
UNITS = {"": 0, "K": 10, "M": 20, "G": 30}
SMALLEST_BUFFER, LARGEST_BUFFER = 1 << 12, 1 << 36  # bytes
STOP_WITHIN = 2  # seconds, unless --timeout tells otherwise
LOOK_EVERY = 1  # second, unless --interval tells otherwise
SELECTION = (
    Option(
        "--functions",
        "only sites in functions named so, of which there must be one; C++ and Rust as in the "
        "source, with or without parameters, or as in the symbol table; repeatable",
        value="GLOB", repeatable=True,
    ),
    Option(
        "--notrace", "no site in functions named so, whatever --functions says; repeatable",
        value="GLOB", repeatable=True,
    ),
    Option(
        "--parts",
        "a name also means the parts and copies that compilers make of its function: NAME.isra.0, "
        ".part, .constprop, .cold",
    ),
    SYMBOL,
)  # fmt: skip
PID = Option(
    "--pid", "switch the sites of this running process, or look at them, instead of files'",
    value="PID", number=range(1, 1 << 22),
)  # fmt: skip
LOADED = Option(
    "--module", "only sites of loaded files whose path or name is so; repeatable", "modules",
    value="GLOB", repeatable=True,
)  # fmt: skip
MODULE = Option(
    "--module", "with --pid: only sites of loaded files whose path or name is so; repeatable",
    "modules", value="GLOB", repeatable=True,
)  # fmt: skip
TIMEOUT = Option(
    "--timeout",
    f"with --pid: give up if a thread has not stopped after so many seconds; {STOP_WITHIN}",
    value="SECONDS", number=range(1, 3601),
)  # fmt: skip
PROTOCOL = Option(
    "--protocol",
    "with --pid: stop, which halts all threads while code changes, and is the default; or "
    "breakpoint, which halts none: if patcher is then killed by SIGKILL in the middle, the process "
    "dies where it hits a breakpoint",
    value="NAME",
)  # fmt: skip
PROTOCOLS = ("stop", "breakpoint")
TARGET = Option(
    "--target",
    "with --pid: the NOPs that compilers leave (-fpatchable-function-entry, -mnop-mcount) become "
    "calls of this function, SYMBOL, MODULE:SYMBOL or the address 0x...; it is called as "
    "__fentry__ is: at the entry of functions, with their arguments in registers, all of which it "
    "must keep, and the stack off by 8 bytes",
    value="FUNCTION",
)  # fmt: skip
OF_PROCESS = (PID, MODULE, TIMEOUT)
WATCH = Option(
    "--watch", "with --pid: look again and again until the process ends, and tell what changes; "
    "draws on a terminal",
)  # fmt: skip
INTERVAL = Option(
    "--interval", f"with --watch: look every so many seconds; {LOOK_EVERY}",
    value="SECONDS", number=range(1, 3601),
)  # fmt: skip
ABOUT = (DEMANGLE, JSON, SCHEMA, HELP)


class PatcherOptions(Values):
    """What is asked of a verb."""

    verb = ""
    functions: tuple[str, ...] = ()
    notrace: tuple[str, ...] = ()
    symbols: tuple[str, ...] = ()
    dry_run = False
    quiet = False
    json = False
    parts = False
    demangle = False
    pid = 0
    modules: tuple[str, ...] = ()
    timeout = 0  # none was given
    protocol: str | None = None
    target: str | None = None
    watch = False
    interval = 0  # none was given

    def check(self) -> None:
        """Raise UsageError where words make no sense together."""
        if self.protocol and self.protocol not in PROTOCOLS:
            raise UsageError(f"--protocol is {' or '.join(PROTOCOLS)}, not '{self.protocol}'")
        if self.interval and not self.watch:
            raise UsageError("--interval is for --watch")
        if self.watch and not self.pid:
            raise UsageError("--watch is for --pid")
        if not self.pid:
            if self.modules or self.timeout or self.protocol:
                raise UsageError("--module, --timeout and --protocol are for --pid")
            if self.target:
                raise UsageError("--target is for --pid: what a file calls, its linker decides")
            super().check()
        elif self.files:
            raise UsageError("--pid is for a process, and takes no files; --module selects them")
        elif self.output is not None:
            raise UsageError("-o is for a file, and --pid for a process")


class RunOptions(Values):
    """What is asked of `run`; `files` are the command and its arguments."""

    calls: tuple[str, ...] = ()
    nop = False
    modules: tuple[str, ...] = ()
    symbols: tuple[str, ...] = ()
    parts = False
    follow = False
    children = False
    quiet = False
    verbose = False

    def check(self) -> None:
        """Raise UsageError where words make no sense together."""
        if not self.files:
            raise UsageError("no command")
        if self.quiet and self.verbose:
            raise UsageError("-q and -v: say one of them")


class TraceOptions(Values):
    """What is asked of `trace`; `files` are the command and its arguments."""

    functions: tuple[str, ...] = ()
    notrace: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    symbols: tuple[str, ...] = ()
    parts = False
    pid = 0
    tid: tuple[str, ...] = ()
    timeout = 0  # none was given
    count = False
    graph = False
    top = False
    detach = False
    follow_fork = False
    flight_recorder = False
    duration = 0  # none was given
    events = 0  # none was given
    buffer: str | None = None
    format: str | None = None
    output: str | None = None
    quiet = False

    def check(self) -> None:
        """Raise UsageError where words make no sense together."""
        if not self.pid and not self.files:
            raise UsageError("no process: say --pid PID, or a command")
        if self.pid and self.files:
            raise UsageError("--pid is for a process that runs, and takes no command")
        ways = {"--count": self.count, "--graph": self.graph, "--top": self.top}
        asked = [name for name, is_asked in ways.items() if is_asked]
        if len(asked) > 1:
            raise UsageError(f"{' and '.join(asked)}: say one of them")
        if asked and asked[0] != "--graph" and (self.events or self.flight_recorder):
            raise UsageError(f"{asked[0]} counts calls, and has no events")
        if self.detach and (self.files or asked or self.output):
            raise UsageError("--detach is for --pid, and ends what another patcher has begun")
        if self.format and self.format not in FORMATS:
            raise UsageError(f"--format is {', '.join(FORMATS)}, not '{self.format}'")
        if self.count and self.format not in (None, "text", "json"):
            raise UsageError("counts are told as text or json")
        if self.top and (self.output or self.format):
            raise UsageError("--top is for people, and takes no -o and no --format; --count does")
        if self.tid and (self.count or self.top):
            raise UsageError("counts are of all threads: --tid is for events")
        if self.flight_recorder and self.events:
            raise UsageError("--flight-recorder keeps the newest events, and --events the first")
        if self.follow_fork and self.flight_recorder:
            raise UsageError("--follow-fork is for events as they come, and for counts")
        if not all(tid.isdecimal() for tid in self.tid):
            raise UsageError("--tid takes a number")
        self.buffer_size()

    def buffer_size(self) -> int:
        """Return how many bytes the events of a processor may take, a power of two."""
        text = self.buffer or BUFFER
        number, unit = text[:-1], text[-1].upper()
        if unit.isdecimal():
            number, unit = text, ""
        if not number.isdecimal() or unit not in UNITS or len(number) > LONGEST_NUMBER:
            raise UsageError(f"--buffer is a size as 64K, 4M or 1G, not '{text}'")
        size = int(number) << UNITS[unit]
        if not SMALLEST_BUFFER <= size <= LARGEST_BUFFER:
            raise UsageError("--buffer is from 4K to 64G")
        return 1 << (size - 1).bit_length()


def declare() -> tuple[Command, PatcherOptions]:
    """Declare the command line before its verb."""
    command = Command(
        "patcher",
        ["VERB [options] FILE..."],
        "Switch the recorded mcount/__fentry__ sites of x86 ELF files, linked or not, and of "
        "processes while they run.",
        [VERSION, HELP],
        verbs=list(VERBS.items()),
        epilog=f"`patcher VERB --help` tells more.\n{EXIT_STATUS}",
    )
    return command, PatcherOptions()


def declare_verb(verb: str, *options: Option) -> tuple[Command, PatcherOptions]:
    """Declare the command line of a verb."""
    purpose = VERBS[verb]
    command = Command(
        f"patcher {verb}",
        ["[options] FILE... | --pid PID"],
        f"{purpose[0].upper()}{purpose[1:]}.",
        [*SELECTION, *OF_PROCESS, *options, *ABOUT],
        arguments=[("FILE", FILE)],
        epilog=EXIT_STATUS,
    )
    return command, PatcherOptions(verb=verb)
