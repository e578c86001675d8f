"""The verb `run`: a command is run whose sites are off before its first instruction."""

from __future__ import annotations

from patcher.options import LOADED, VERBS, RunOptions
from recordmcount.console import say
from recordmcount.grammar import Command, Option
from recordmcount.options import HELP, SYMBOL

OPTIONS = (
    Option("--nop", "all sites become NOPs; this is so unless --call says otherwise"),
    Option(
        "--call", "sites in functions named so are calls, all others NOPs; repeatable", "calls",
        value="GLOB", repeatable=True,
    ),
    LOADED,
    Option(
        "--parts",
        "with --call, a name also means the parts and copies that compilers make of its function: "
        "NAME.isra.0, .part, .constprop, .cold",
    ),
    SYMBOL,
    Option("--follow", "stay, and switch what is opened by dlopen as well"),
    Option("--children", "stay, and switch the programs of child processes as well"),
    Option("-q --quiet", "print errors only; without it, that there is no site is told"),
    Option("-v --verbose", "tell what was switched"),
    HELP,
)  # fmt: skip
EXIT_STATUS = (
    "exit status: that of the command, which ends by the same signal as well; 127 it was not "
    "found; 126 it cannot be executed, or not be traced without losing its rights; 2 usage"
)


def declare(verb: str) -> tuple[Command, RunOptions]:
    """Declare the command line."""
    purpose = VERBS[verb]
    command = Command(
        f"patcher {verb}",
        ["[options] [--] COMMAND [ARGUMENT...]"],
        f"{purpose[0].upper()}{purpose[1:]}: those of the program, and those of each library "
        "before its constructors run. What cannot be switched runs as it is, and is told.",
        OPTIONS,
        arguments=[("COMMAND", "a program; what follows it is for the program")],
        epilog=EXIT_STATUS,
        passes_on=True,
    )
    return command, RunOptions()


def execute(options: RunOptions) -> int:
    """Become the command; returns only if that cannot be, with the exit status."""
    from patcher.errors import AccessError
    from patcher.run.launch import launch
    from patcher.run.policy import Policy
    from patcher.run.program import NOT_EXECUTABLE, NoCommandError

    policy = Policy(
        options.calls, options.modules, options.symbols,
        parts=options.parts, follows=options.follow, children=options.children,
    )  # fmt: skip
    try:
        error: NoCommandError = launch(
            options.files, policy, is_quiet=options.quiet, is_verbose=options.verbose
        )
    except NoCommandError as failed:
        error = failed
    except AccessError as refused:
        say(2, [str(refused)])
        return NOT_EXECUTABLE
    say(2, [str(error)])
    return error.status
