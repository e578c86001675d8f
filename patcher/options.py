"""What a person can ask of patcher, and the words that ask it."""

from recordmcount.grammar import Command, Option, Values
from recordmcount.options import HELP, JSON, SCHEMA, SYMBOL, VERSION

VERBS = {
    "nop": "turn calls to mcount into NOPs",
    "call": "turn the NOPs back into calls, byte for byte",
    "status": "count and list the sites in each state: call, nop, foreign (neither)",
}
EXIT_STATUS = "exit status: 0 done; 1 a file failed, or has a foreign site; 2 usage"
FILE = "an executable, a shared object or an object (.o, .ko) with a __mcount_loc table"
SELECTION = (
    Option(
        "--functions",
        "only sites in functions named so in the symbol table (C++: mangled), of which there must "
        "be one; repeatable",
        value="GLOB", repeatable=True,
    ),
    Option(
        "--notrace", "no site in functions named so, whatever --functions says; repeatable",
        value="GLOB", repeatable=True,
    ),
    SYMBOL,
)  # fmt: skip
ABOUT = (JSON, SCHEMA, HELP)


class PatcherOptions(Values):
    """What is asked of a verb."""

    verb = ""
    functions: tuple[str, ...] = ()
    notrace: tuple[str, ...] = ()
    symbols: tuple[str, ...] = ()
    dry_run = False
    quiet = False
    json = False


def declare() -> tuple[Command, PatcherOptions]:
    """Declare the command line before its verb."""
    command = Command(
        "patcher",
        ["VERB [options] FILE..."],
        "Switch the recorded mcount/__fentry__ sites of x86 ELF files, linked or not.",
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
        ["[options] FILE..."],
        f"{purpose[0].upper()}{purpose[1:]}.",
        [*SELECTION, *options, *ABOUT],
        arguments=[("FILE", FILE)],
        epilog=EXIT_STATUS,
    )
    return command, PatcherOptions(verb=verb)
