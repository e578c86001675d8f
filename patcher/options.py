"""What a person can ask of patcher, and the words that ask it."""

from recordmcount.grammar import Command, Option, Values
from recordmcount.options import DEMANGLE, HELP, JSON, SCHEMA, SYMBOL, VERSION

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
