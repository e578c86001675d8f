"""The command line: words -> one action per file -> lines and exit status.

What takes long to import is imported by the actions, so that `patcher --help` answers at once.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from recordmcount import __version__
from recordmcount.arguments import Parser
from recordmcount.console import say
from recordmcount.errors import RecordError

from .errors import PatchError

if TYPE_CHECKING:
    from .memory.elffile import ElfFile
    from .switch import Selection

VERBS = {
    "nop": "turn calls to mcount into NOPs",
    "call": "turn them back, byte for byte",
    "status": "count the sites in each state, and list what is neither call nor NOP",
}


def main(words: Sequence[str]) -> int:
    """Run `patcher` with these words; returns the exit status."""
    parser = _parser()
    arguments = parser.parse_args(words)
    out = getattr(arguments, "out", None)
    if out == "":
        parser.error("-o wants a file")
    if out is not None and len(arguments.files) > 1:
        parser.error("-o is for one file")
    good = True
    for path in arguments.files:
        good &= _process(path, arguments)
    return 0 if good else 1


def _parser() -> Parser:
    parser = Parser(
        prog="patcher",
        description="Switch the recorded mcount/__fentry__ sites of linked x86 files.",
        epilog="exit status: 0 done; 1 a file failed, or has a foreign site; 2 usage",
    )
    parser.add_argument("-V", "--version", action="version", version=f"patcher {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, purpose in VERBS.items():
        verb = verbs.add_parser(
            name, help=purpose, description=f"{purpose[0].upper()}{purpose[1:]}."
        )
        _add_selection(verb)
        if name != "status":
            _add_output(verb)
    return parser


def _add_selection(verb: ArgumentParser) -> None:
    add = verb.add_argument
    files = "an executable or a shared object with a __mcount_loc table"
    add("files", nargs="+", metavar="FILE", help=files)
    functions = "only sites in functions named so in the symbol table (C++: mangled); repeatable"
    add("--functions", action="append", default=[], metavar="GLOB", help=functions)
    notrace = "no site in functions named so, whatever --functions says; repeatable"
    add("--notrace", action="append", default=[], metavar="GLOB", help=notrace)
    symbol = "a further name of mcount, as in gcc's -mfentry-name; repeatable"
    add("--symbol", action="append", default=[], metavar="NAME", help=symbol)


def _add_output(verb: ArgumentParser) -> None:
    add = verb.add_argument
    out = "write the result to OUT and leave the one FILE alone"
    add("-o", "--output", dest="out", metavar="OUT", help=out)
    add("-n", "--dry-run", action="store_true", help="change nothing, print what would be changed")
    add("-q", "--quiet", action="store_true", help="print errors only")


def _process(path: str, arguments: Namespace) -> bool:
    """Whether the file is as it should be, and could be reported."""
    from .memory.elffile import ElfFile

    action = _status if arguments.verb == "status" else _switch
    try:
        with ElfFile(path) as file:
            return action(file, arguments)
    except (PatchError, RecordError) as error:
        say(2, [str(error)])
    except OSError as error:
        say(2, [f"{path}: {error.strerror or error}"])
    return False


def _status(file: "ElfFile", arguments: Namespace) -> bool:
    from recordmcount.image import State, odd_entries

    from .switch import count, describe, read, select, sites_in_words

    selection = _selection(arguments)
    table = read(file, selection.names)
    selected = select(file.path, table, selection)
    numbers = [f"{number} {state}" for state, number in count(table, selected).items()]
    foreign = list(map(table.site, table.where(selected, State.FOREIGN)))
    counted = f"{sites_in_words(len(selected))}: {', '.join(numbers)}"
    lines = ["; ".join([counted, *odd_entries(table.dead, table.repeated)])]
    lines += [f"{site.label}: foreign: {describe(site)}" for site in foreign]
    return say(1, [f"{file.path}: {line}" for line in lines]) and not foreign


def _switch(file: "ElfFile", arguments: Namespace) -> bool:
    from recordmcount.image import State

    from .switch import plan, read, select, sites_in_words, switch

    selection = _selection(arguments)
    table = read(file, selection.names)
    selected = select(file.path, table, selection)
    wanted = plan(file.path, table, selected, State(arguments.verb))
    switch(file, wanted, arguments.out, dry_run=arguments.dry_run)
    if arguments.dry_run:
        return say(1, [f"{file.path}: {change}" for change in wanted.batch])
    if arguments.quiet:
        return True
    already = len(selected) - len(wanted.numbers)
    turned = f"{sites_in_words(len(wanted.numbers))} turned to {arguments.verb}"
    return say(1, [f"{file.path}: {turned}, {already} already"])


def _selection(arguments: Namespace) -> "Selection":
    from .switch import Selection

    return Selection(tuple(arguments.functions), tuple(arguments.notrace), tuple(arguments.symbol))
