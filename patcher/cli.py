"""The command line: words -> one action per file -> lines or JSON, and exit status.

What takes long to import is imported by the actions, so that `patcher --help` answers at once.
"""

import gc
from argparse import ArgumentParser, Namespace

from recordmcount import __version__
from recordmcount.arguments import Parser
from recordmcount.console import say
from recordmcount.errors import RecordError

from .errors import PatchError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from .memory.elffile import ElfFile

VERBS = {
    "nop": "turn calls to mcount into NOPs",
    "call": "turn them back, byte for byte",
    "status": "count and list the sites in each state: call, nop, foreign (neither)",
}


def main(words: "Sequence[str]") -> int:
    """Run `patcher` with these words; returns the exit status."""
    parser = _parser()
    arguments = parser.parse_args(words)
    if arguments.schema:
        from .report import SCHEMA

        return 0 if say(1, [SCHEMA.read_text("utf-8").rstrip()]) else 1
    if not arguments.files:
        parser.error("no files")
    if arguments.out == "":
        parser.error("-o wants a file")
    if arguments.out is not None and len(arguments.files) > 1:
        parser.error("-o is for one file")
    gc.disable()  # hardly any cycles are made, and looking for them takes long
    run = _Run(arguments)
    good = True
    for path in arguments.files:
        good &= run.process(path)
    return 0 if run.finish() and good else 1


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


class _Run:
    """One verb over many files: what to say of each at once, or of all as one JSON document."""

    def __init__(self, arguments: Namespace) -> None:
        self._arguments = arguments
        self._files: list[dict[str, Any]] = []
        self._errors: list[dict[str, Any]] = []

    def process(self, path: str) -> bool:
        """Whether the file is as it should be, and could be reported."""
        from .memory.elffile import ElfFile

        action = self._status if self._arguments.verb == "status" else self._switch
        try:
            with ElfFile(path) as file:
                return action(file)
        except (PatchError, RecordError, OSError) as error:
            from .lines import in_words

            say(2, [in_words(path, error)])
            if self._arguments.json:
                from .report import error_json

                self._errors.append(error_json(path, error))
        return False

    def finish(self) -> bool:
        """Print the JSON, if that was asked for; whether it could be."""
        if not self._arguments.json:
            return True
        from .report import document

        dry_run = self._arguments.dry_run
        text = document(self._arguments.verb, self._files, self._errors, dry_run=dry_run)
        return say(1, [text])

    def _status(self, file: "ElfFile") -> bool:
        from recordmcount.state import State

        from .switch import read, select

        table = read(file, self._arguments.symbol)
        selected = select(file.path, table, self._arguments.functions, self._arguments.notrace)
        good = not table.where(selected, State.FOREIGN)
        if self._arguments.json:
            from .report import status_json

            self._files.append(status_json(file.object, table, selected))
            return good
        from .lines import status_lines

        lines = status_lines(table, selected, listed=not self._arguments.quiet)
        return say(1, [f"{file.path}: {line}" for line in lines]) and good

    def _switch(self, file: "ElfFile") -> bool:
        from recordmcount.state import State

        from .switch import plan, read, select, switch, warning

        arguments = self._arguments
        table = read(file, arguments.symbol)
        selected = select(file.path, table, arguments.functions, arguments.notrace)
        wanted = plan(
            file.path, table, selected, State.NOP if arguments.verb == "nop" else State.CALL
        )
        written = switch(file, wanted, arguments.out, dry_run=arguments.dry_run)
        if not arguments.quiet and (what := warning(file, wanted)):
            say(2, [f"{file.path}: warning: {what}"])
        if arguments.json:
            from .report import switch_json

            self._files.append(switch_json(file.object, wanted, written))
            return True
        if arguments.dry_run:
            from .lines import plan_lines

            return say(1, [f"{file.path}: {line}" for line in plan_lines(wanted)])
        return arguments.quiet or say(1, [f"{file.path}: {wanted}"])
