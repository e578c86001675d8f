"""The verbs `nop`, `call` and `status` for a process instead of files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from patcher.files.switch import count
from patcher.options import STOP_WITHIN, PatcherOptions
from patcher.process import traces
from patcher.process.live_sites import LiveSites
from patcher.process.live_switch import LiveSwitch
from patcher.process.switch import by_breakpoints, compare, in_a_halt, make, select
from patcher.process.target import Target
from patcher.report import document
from patcher.report.text import examined_lines, loaded_line, states_line, switched_lines
from recordmcount.console import put, say
from recordmcount.errors import Error
from recordmcount.report.json import dump, schema
from recordmcount.report.names import demangle
from recordmcount.sites.state import LIVE_STATES, State
from recordmcount.verb import give

if TYPE_CHECKING:
    from patcher.report.shapes import ExaminedModule, Process, SwitchedModule

Numbers = Sequence[int]
# Whether all is as it should be, what goes into the document, and the lines for people.
Told = tuple[bool, "Process", Sequence[str]]


def status(options: PatcherOptions) -> int:
    """Look at the process; returns the exit status."""
    return _of_process(options, _examine, to_read=True)


def switch(options: PatcherOptions) -> int:
    """Switch the sites of the process; returns the exit status."""
    return _of_process(options, _switch)


def _of_process(
    options: PatcherOptions,
    action: Callable[[PatcherOptions, Target], Told],
    *,
    to_read: bool = False,
) -> int:
    """Do the action for the process, and tell of it; returns the exit status."""
    if options.information == "schema":
        return give(dump(schema(document.SCHEMA)))
    told: Process | None = None
    errors = []
    lines: Sequence[str] = ()
    good = False
    name = f"process {options.pid}"
    try:
        timeout = options.timeout or STOP_WITHIN
        with Target(options.pid, timeout, options.symbols, to_read=to_read) as target:
            name = target.name
            good, told, lines = action(options, target)
    except (Error, OSError) as error:
        told = None
        errors = [document.failed(name, error)]
        say(2, [errors[0]["message"]])
    if options.json:
        made = document.of_process(options.verb, told, errors, dry_run=options.dry_run)
        return 0 if put(dump(made)) and good else 1
    return 0 if say(1, lines) and good else 1


def _select(options: PatcherOptions, target: Target, modules: Sequence[LiveSites]) -> list[Numbers]:
    return select(
        target.name, modules, options.functions, options.notrace, parts=options.parts
    )  # fmt: skip


def _examine(options: PatcherOptions, target: Target) -> Told:
    """Tell of the sites of a process; it is not halted for that."""
    modules, trace = traces.look(target, options.modules)
    selected = _select(options, target, modules)
    name = target.proc.stat().name
    told: list[ExaminedModule] = []
    lines: list[str] = [f"{target.name}: {traces.in_words(trace)}"] if trace else []
    total = dict.fromkeys(LIVE_STATES, 0)
    for module, numbers in zip(modules, selected, strict=True):
        states = count(LiveSwitch(module), numbers, LIVE_STATES)
        total = {state: total[state] + states[state] for state in LIVE_STATES}
        path = module.file.path
        lines.append(f"{path}: {loaded_line(document.loaded(module))}")
        if options.quiet and not options.json:
            lines.append(f"{path}: {states_line(states, module.dead, module.repeated)}")
            continue
        told.append(document.examined_module(module, numbers, states))
        if options.demangle:
            demangle(told[-1]["sites"])
        lines += [f"{path}: {line}" for line in examined_lines(told[-1])]
    process: Process = {
        "pid": options.pid, "name": name, "trace": document.traced(trace), "modules": told,
    }  # fmt: skip
    return traces.are_good(total, trace), process, [f"{target.name}: {states_line(total)}", *lines]


def _switch(options: PatcherOptions, target: Target) -> Told:
    """Switch the sites of a process, and tell of it."""
    state = State.NOP if options.verb == "nop" else State.CALL
    carry_out = by_breakpoints if options.protocol == "breakpoint" else in_a_halt
    modules, plans = make(
        target, options.modules, partial(_select, options, target), state,
        compare if options.dry_run else carry_out, options.target or "",
    )  # fmt: skip
    name = target.proc.stat().name
    told: list[SwitchedModule] = []
    lines: list[str] = []
    for module, plan in zip(modules, plans, strict=True):
        if options.json or options.dry_run:
            told.append(document.switched_module(module, plan))
            if options.demangle:
                demangle(told[-1]["changes"])
        if options.dry_run:
            lines += [f"{module.file.path}: {line}" for line in switched_lines(told[-1])]
        elif plan.selected:
            lines.append(f"{module.file.path}: {plan}")
    process: Process = {"pid": options.pid, "name": name, "modules": told}
    return True, process, [] if options.quiet else lines
