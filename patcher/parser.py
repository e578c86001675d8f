"""The whole command line, by argparse: every option, help, and what makes no sense."""

from __future__ import annotations

from argparse import ArgumentParser

from recordmcount import __version__
from recordmcount.arguments import Parser

from .arguments import Arguments

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

VERBS = {
    "nop": "turn calls to mcount into NOPs",
    "call": "turn them back, byte for byte",
    "status": "count and list the sites in each state: call, nop, foreign (neither)",
}


def parse(words: Sequence[str]) -> Arguments:
    """What these words ask for. Raises SystemExit after help, the version, or a usage error."""
    parser = _parser()
    found = parser.parse_args(words)
    if not found.schema:
        if not found.files:
            parser.error("no files")
        if found.out == "":
            parser.error("-o wants a file")
        if found.out is not None and len(found.files) > 1:
            parser.error("-o is for one file")
    arguments = Arguments(found.verb)
    for name, value in vars(found).items():
        setattr(arguments, name, value)
    return arguments


def _parser() -> Parser:
    parser = Parser(
        prog="patcher",
        description="Switch the recorded mcount/__fentry__ sites of x86 ELF files, linked or not.",
        epilog="exit status: 0 done; 1 a file failed, or has a foreign site; 2 usage",
    )
    parser.add_argument("-V", "--version", action="version", version=f"patcher {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, purpose in VERBS.items():
        verb = verbs.add_parser(
            name, help=purpose, description=f"{purpose[0].upper()}{purpose[1:]}."
        )
        _add_selection(verb)
        if name == "status":
            verb.set_defaults(out=None, dry_run=False)
            verb.add_argument("-q", "--quiet", action="store_true", help="count, do not list")
        else:
            _add_output(verb)
        verb.add_argument("--json", action="store_true", help="print JSON")
        verb.add_argument("--schema", action="store_true", help="print the JSON's schema")
    return parser


def _add_selection(verb: ArgumentParser) -> None:
    add = verb.add_argument
    files = "an executable, a shared object or an object (.o, .ko) with a __mcount_loc table"
    add("files", nargs="*", metavar="FILE", help=files)
    functions = (
        "only sites in functions named so in the symbol table (C++: mangled), "
        "of which there must be one; repeatable"
    )
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
