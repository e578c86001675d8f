"""The verb `status`: which sites are calls, NOPs, or neither."""

from __future__ import annotations

from patcher.options import PatcherOptions, declare_verb
from recordmcount.console import say
from recordmcount.grammar import Command, Option

from .files import each_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from patcher.memory.elffile import ElfFile
    from patcher.report.shapes import Examined


def declare(verb: str) -> tuple[Command, PatcherOptions]:
    """Declare the command line."""
    return declare_verb(verb, Option("-q --quiet", "count, do not list"))


def execute(options: PatcherOptions) -> int:
    """Look at all files; returns the exit status."""
    return each_file(options, _examine)


def _examine(options: PatcherOptions, file: ElfFile) -> tuple[bool, Examined | None]:
    """Tell of a file; whether no site is foreign, and what goes into the document."""
    from patcher.files.switch import read, select
    from patcher.report.document import examined
    from patcher.report.text import examined_lines
    from recordmcount.sites.state import State

    table = read(file, options.symbols)
    selected = select(file.path, table, options.functions, options.notrace)
    good = not table.sites.where(selected, State.FOREIGN)
    told = examined(file.object, table, selected, listed=options.json or not options.quiet)
    if options.json:
        return good, told
    lines = [f"{file.path}: {line}" for line in examined_lines(told)]
    return say(1, lines) and good, None
