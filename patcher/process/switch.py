"""Switch the sites of a process: planned while it runs, made as is asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from patcher.errors import (
    CompareError,
    HaltError,
    ModuleError,
    NoModuleError,
    NoSiteError,
    ReadError,
    StateError,
)
from patcher.files import switch
from patcher.files.switch import Plan
from patcher.modify import Batch, check_shape, verify
from patcher.protocols import stop_machine
from recordmcount.sites.state import State

from . import batches
from .functions import Goal
from .live_sites import LiveSites
from .live_switch import LiveSwitch
from .mending import CarryOut, Select, mend
from .recursion import refuse_recursion
from .target import Target
from .traces import refuse_sites

ONLY_SLEDS = (
    "all these sites are NOPs of the compiler's, and no file tells what they are to call: say "
    "--target SYMBOL"
)
NO_SLED = (
    "none of these sites is a NOP of the compiler's (-fpatchable-function-entry, -mnop-mcount), "
    "which --target is for"
)
# How often a plan may be outdated by the time the threads stand. Then it is made in their halt,
# where nothing can outdate it, and which it makes longer.
ATTEMPTS = 3

# Modules, and for each the plan that was carried out, or would be.
Made = tuple[Sequence[LiveSites], Sequence[Plan]]


def select(
    name: str,
    modules: Sequence[LiveSites],
    globs: Sequence[str] = (),
    notrace: Sequence[str] = (),
    *,
    parts: bool = False,
) -> list[Sequence[int]]:
    """Number the sites of each module that sites.select chooses, by its arguments.

    Raises NoSiteError where a glob is like no function with a site of any module.
    """
    if not globs and not notrace:
        return [range(len(module)) for module in modules]
    from recordmcount.sites import select as by_name  # slow to import, and not always needed

    found = [by_name.select(module, globs, notrace, parts=parts) for module in modules]
    idle = [
        glob
        for glob in dict.fromkeys((*globs, *notrace))
        if all(glob in unlike for _, unlike in found)
    ]
    if idle:
        advice = "" if parts else next(
            filter(None, (by_name.advice(module, idle) for module in modules)), ""
        )  # fmt: skip
        raise NoSiteError(name, f"no site in a function like {' or '.join(idle)}{advice}")
    return [numbers for numbers, _ in found]


def plan(
    target: Target,
    modules: Sequence[LiveSites],
    selected: Sequence[Sequence[int]],
    state: State,
    goal: Goal | None = None,
) -> list[Plan]:
    """Tell what must change in each module so that all its selected sites are in `state`.

    What no file tells the call of, sleds, becomes a call of `goal`, and without one stays; with one
    nothing else is selected. Raises CompareError if a site is foreign, HaltError if one is traced,
    ReachError if the goal is too far away, TargetError if it must not be called.
    """
    if state is State.CALL:
        selected = [
            _callable(module, some, goal) for module, some in zip(modules, selected, strict=True)
        ]
    refuse_sites(target, modules, selected)
    if goal:
        refuse_recursion(target, modules, selected, goal)
    return [
        _with_more(
            switch.plan(f"{target.name}: {module.file.path}", LiveSwitch(module, goal), some, state)
        )
        for module, some in zip(modules, selected, strict=True)
    ]


def _callable(module: LiveSites, numbers: Sequence[int], goal: Goal | None) -> Sequence[int]:
    """Choose the sites whose call is known: the file's own, or if there is a goal, the sleds'."""
    sleds = module.without_call(numbers)
    if goal:  # which is to be called at entries: it may not keep what a function returns
        returns = module.returns(sleds)
        return sorted({*sleds}.difference(returns)) if returns else sleds
    return sorted({*numbers}.difference(sleds)) if sleds else numbers


def _with_more(wanted: Plan) -> Plan:
    """Add what is in the state, and yet must change.

    For `nop` what a killed patcher left half written, though that does nothing; for a goal the
    calls of something else.
    """
    table = wanted.table
    if not isinstance(table, LiveSwitch):
        return wanted
    if wanted.state is State.NOP:
        more = table.sites.halves.intersection(wanted.selected)
    else:
        more = {*table.calling_else(wanted.selected)}
    if not more:
        return wanted
    numbers = sorted(more.union(wanted.numbers))
    batch = table.batch(numbers, wanted.state)
    return Plan(table, wanted.state, wanted.selected, numbers, wanted.left, batch)


def make(
    target: Target,
    globs: Sequence[str],
    choose: Select,
    state: State,
    carry_out: CarryOut | None = None,
    goal: str = "",
) -> Made:
    """Bring the sites that `choose` selects, of modules like `globs`, to `state`.

    With a `goal`, spelled as for LiveFunctions.find, the sleds among them become calls of it. That
    is done `in_a_halt` if nothing else is said. Returns what was changed, or what would be if
    `carry_out` is `compare`. Raises PatchError; nothing was written then, but before a WriteError.
    """
    carry_out = carry_out or in_a_halt
    attempt = partial(_try, target, globs, choose, state, carry_out, goal)
    made = _outlast(target, attempt, may_halt=carry_out is not by_breakpoints)
    if state is State.NOP and carry_out is in_a_halt:
        mend(target, globs, choose, made[0], in_a_halt)
    return made


def _outlast(target: Target, attempt: Callable[[], Made], *, may_halt: bool) -> Made:
    """Return what an attempt gives, though modules come and go; the last one is made in a halt."""
    for _ in range(ATTEMPTS):
        files: Sequence[object] = ()
        try:
            files = target.files()
            return attempt()
        except HaltError:
            raise
        except NoModuleError:
            if files and target.files() == files:
                raise  # else it may be executing a program, of which nothing was mapped yet
        except (CompareError, ReadError, ModuleError, StateError):
            pass  # modules may come and go meanwhile, and another be where one was
    if not may_halt:
        return attempt()
    target.machine.stop()
    try:
        return attempt()
    finally:
        target.machine.resume()


def _try(
    target: Target,
    globs: Sequence[str],
    choose: Select,
    state: State,
    carry_out: CarryOut,
    goal: str,
) -> Made:
    """Plan and make the changes. Raises StateError if the plan was outdated; nothing was written.

    A site that is foreign by the plan is a CompareError.
    """
    modules = target.modules(globs)
    to = target.functions.find(goal) if goal else None
    plans = plan(target, modules, choose(modules), state, to)
    if not any(each.selected for each in plans):
        raise NoSiteError(target.name, NO_SLED if goal else ONLY_SLEDS)
    try:
        carry_out(target, modules, plans)
    except CompareError as error:
        what = "its code is changed by others meanwhile: try again"
        raise StateError(target.name, what) from error
    return modules, plans


def compare(target: Target, modules: Sequence[LiveSites], plans: Sequence[Plan]) -> None:
    """Compare all sites of the plans, and change nothing. Raises ReadError or CompareError."""
    verify(target.machine.memory, _join(target, modules, plans))


def in_a_halt(target: Target, modules: Sequence[LiveSites], plans: Sequence[Plan]) -> None:
    """Make the changes of all plans in one halt of all threads.

    Raises PatchError; nothing was written then, but before a WriteError.
    """
    memory = target.machine.memory
    batch = _join(target, modules, plans)
    check_shape(memory.path, batch)
    if len(batch):
        batches.prepare(memory, modules, batch)
        if not target.machine.threads:
            verify(memory, batch)  # what is outdated halts nothing; and then all is in caches
        stop_machine.modify(target.machine, batch)


def by_breakpoints(target: Target, modules: Sequence[LiveSites], plans: Sequence[Plan]) -> None:
    """Make the changes of all plans while the threads run. Raises as breakpoints.modify does."""
    from . import breakpoints  # slow to import, and seldom asked for

    batch = _join(target, modules, plans)
    check_shape(target.name, batch)
    if len(batch):
        breakpoints.modify(target, batch)


def _join(target: Target, modules: Sequence[LiveSites], plans: Sequence[Plan]) -> Batch:
    return batches.join(target.machine.memory, modules, [each.batch for each in plans])
