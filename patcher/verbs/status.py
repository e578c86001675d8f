"""The verb `status`: which sites are calls, NOPs, or neither."""

from __future__ import annotations

from patcher.options import INTERVAL, WATCH, PatcherOptions, declare_verb
from recordmcount.console import say
from recordmcount.grammar import Command, Option

from .files import each_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from patcher.memory.elffile import ElfFile
    from patcher.report.shapes import Examined


def declare(verb: str) -> tuple[Command, PatcherOptions]:
    """Declare the command line."""
    return declare_verb(verb, WATCH, INTERVAL, Option("-q --quiet", "count, do not list"))


def execute(options: PatcherOptions) -> int:
    """Look at all files, or at a process; returns the exit status."""
    if options.watch and not options.information:
        from .watch import watch

        return watch(options)
    if options.pid:
        from .process import status

        return status(options)
    return each_file(options, _examine, to_read=True)


def _examine(options: PatcherOptions, file: ElfFile) -> tuple[bool, Examined | None]:
    """Tell of a file; whether no site is foreign, and what goes into the document."""
    from patcher.files.switch import count, read, select
    from recordmcount.sites.state import State

    table = read(file, options.symbols)
    selected = select(file.path, table, options.functions, options.notrace, parts=options.parts)
    states = count(table, selected)
    good = not states[State.FOREIGN]
    if options.quiet and not options.json:
        from recordmcount.sites.words import counted

        line = counted(states.items(), table.sites.dead, table.sites.repeated)
        return say(1, [f"{file.path}: {line}"]) and good, None
    from patcher.report.document import examined
    from recordmcount.report.names import demangle

    told = examined(file.object, table, selected, states)
    if options.demangle:
        demangle(told["sites"])
    if options.json:
        return good, told
    from patcher.report.text import examined_lines

    lines = [f"{file.path}: {line}" for line in examined_lines(told)]
    return say(1, lines) and good, None
