"""The verbs `nop` and `call`: sites are turned into NOPs, and back."""

from __future__ import annotations

from patcher.options import PROTOCOL, TARGET, PatcherOptions, declare_verb
from recordmcount.console import say
from recordmcount.grammar import Command, Option
from recordmcount.options import DRY_RUN, OUTPUT

from .files import each_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from patcher.memory.elffile import ElfFile
    from patcher.report.shapes import Switched


def declare(verb: str) -> tuple[Command, PatcherOptions]:
    """Declare the command line."""
    of_process = (TARGET, PROTOCOL) if verb == "call" else (PROTOCOL,)
    quiet = Option("-q --quiet", "print errors only")
    return declare_verb(verb, *of_process, OUTPUT, DRY_RUN, quiet)


def execute(options: PatcherOptions) -> int:
    """Switch all files, or a process; returns the exit status."""
    if options.pid:
        from .process import switch

        return switch(options)
    return each_file(options, _switch)


def _switch(options: PatcherOptions, file: ElfFile) -> tuple[bool, Switched | None]:
    """Switch a file; whether that could be told, and what goes into the document."""
    from patcher.files.switch import begin, plan, read, select, switch, warnings
    from recordmcount.sites.state import State

    if not options.dry_run:
        begin(file, options.output)
    table = read(file, options.symbols)
    selected = select(file.path, table, options.functions, options.notrace, parts=options.parts)
    state = State.NOP if options.verb == "nop" else State.CALL
    wanted = plan(file.path, table, selected, state)
    told: Switched | None = None
    if options.json or options.dry_run:  # first: nothing is done that cannot be told
        from patcher.report.document import switched
        from recordmcount.report.names import demangle

        told = switched(file.object, wanted)
        if options.demangle:
            demangle(told["changes"])
    written = switch(file, wanted, options.output, dry_run=options.dry_run)
    if not options.quiet:
        say(2, [f"{file.path}: warning: {what}" for what in warnings(file, wanted)])
    if told is None:
        return options.quiet or say(1, [f"{file.path}: {wanted}"]), None
    if options.json:
        return True, {**told, "written": written}
    from patcher.report.text import switched_lines

    return say(1, [f"{file.path}: {line}" for line in switched_lines(told)]), None
