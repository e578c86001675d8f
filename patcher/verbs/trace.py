"""The verb `trace`: which functions a running process calls, by whom, in which thread, and when."""

from __future__ import annotations

from patcher.options import (
    BUFFER,
    FORMATS,
    LOADED,
    SELECTION,
    STOP_WITHIN,
    VERBS,
    TraceOptions,
)  # fmt: skip
from recordmcount.errors import UnreachableError
from recordmcount.grammar import Command, Option
from recordmcount.options import HELP

MISSING = "not installed; trace needs it: pip install capstone keystone-engine"
OPTIONS = (
    Option("--pid", "trace this running process", value="PID", number=range(1, 1 << 22)),
    *SELECTION,
    LOADED,
    Option("--count", "count the calls of each function, which costs least"),
    Option("--top", "show which functions are called most, second by second"),
    Option(
        "--graph", "tell how calls are nested, and how long each takes where its function has "
        "return sites (gcc -minstrument-return=call)",
    ),
    Option("--tid", "tell of this thread only; repeatable", value="TID", repeatable=True),
    Option("--duration", "end after so many seconds", value="SECONDS", number=range(1, 1 << 20)),
    Option("--events", "end after so many events", value="COUNT", number=range(1, 10**9)),
    Option(
        "--buffer", f"how much memory events of a processor may take until they are read; {BUFFER}",
        value="SIZE",
    ),
    Option("--flight-recorder", "keep the newest events, and tell of them at the end"),
    Option("-o", "write to this file instead of the standard output", "output", value="FILE"),
    Option("--format", f"{', '.join(FORMATS)}; text", value="NAME"),
    Option("--follow-fork", "trace child processes as well, from when they are seen"),
    Option(
        "--detach", "end what a patcher has begun that was killed: sites become what they were",
    ),
    Option(
        "--timeout", f"give up if a thread has not stopped after so many seconds; {STOP_WITHIN}",
        value="SECONDS", number=range(1, 3601),
    ),
    Option("-q --quiet", "do not tell how it went on the standard error"),
    Option("--schema", "print the schema of the JSON of --count", information=True),
    HELP,
)  # fmt: skip
EPILOG = (
    "Ctrl-C ends a trace. Sites become what they were, also where patcher was killed: by the next "
    "trace, or by --detach. While it maps memory into the process, a few milliseconds at the start "
    "and at the end, a process of its own does that, which no signal but SIGKILL by its own number "
    "ends; that would end the traced process as well.\n"
    "exit status: 0 done, that of the command if there is one; 1 it failed; 2 usage"
)


def declare(verb: str) -> tuple[Command, TraceOptions]:
    """Declare the command line."""
    purpose = VERBS[verb]
    command = Command(
        f"patcher {verb}",
        ["[options] --pid PID", "[options] [--] COMMAND [ARGUMENT...]"],
        f"{purpose[0].upper()}{purpose[1:]}: the functions chosen become calls of code that "
        "writes events, and what they were before when the trace ends. Nothing need be started "
        "anew.",
        OPTIONS,
        arguments=[("COMMAND", "a program; what follows it is for the program")],
        epilog=EPILOG,
        passes_on=True,
    )
    return command, TraceOptions()


def execute(options: TraceOptions) -> int:
    """Trace; returns the exit status."""
    if options.information == "schema":
        from patcher.report.counts import SCHEMA
        from recordmcount.report.json import dump, schema
        from recordmcount.verb import give

        return give(dump(schema(SCHEMA)))
    try:
        from .tracing import trace
    except ImportError as error:
        raise UnreachableError(f"{error.name}", MISSING) from None
    return trace(options)
