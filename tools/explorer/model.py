"""The machine of the explorer: the states it can be in, and the acts that may come next.

CPU 0 runs the protocol. The others execute the sites for ever, in any order; an NMI may arrive on
any CPU at any time, and execute any number of sites. Where this machine differs from a real one, it
can do more:

- Stores of plain variables and of each byte of code wait in their CPU's buffer. They land at any
  time, in any order, but not before an older one to the same place. Fences, atomic acts, and
  requests to other CPUs wait until the buffer is empty. Loads are made in order.
- A CPU that begins an instruction fetches its bytes one by one in any order, each at any time until
  it executes them. As they are fetched independently of each other, it is exact to keep for each
  byte the set of the values that stood there since the CPU began: any choice from these sets is
  what some order of fetches finds. An int3 as the first byte traps without the others.
- A CPU drops what it has fetched when it serialises, when it stops, and when an NMI arrives (the
  return from one serialises). It takes requests between two instructions, but neither in an NMI
  nor in the breakpoint handler; the requester goes on when all have taken the request.
- A call of two instructions is executed as two: what a CPU sees of it must be one code as a whole;
  then it stands inside the site, whatever happens, and begins anew at the second.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

from patcher.errors import StandingError
from patcher.modify import Batch
from patcher.protocols.steps import Body, InstructionPointers, Resume, Steps, Stop, Sync

from .code import Code
from .effects import assigned, effect
from .program import START, End, Program
from .state import (
    WRITER,
    Act,
    Context,
    Cpu,
    Flight,
    Inside,
    Move,
    Request,
    State,
    Trap,
    Variables,
)

UNHANDLED = "it takes an int3 that nobody handles"
MIXED = "it executes a mix of old and new bytes"
STALE = "it calls through a stale target: the protocol has ended, and what was called is gone"


def knows_no_breakpoint(_address: int) -> Steps[int | None]:
    """Handle no breakpoint: the handler of a machine that knows none."""
    yield from ()
    return None


class Scenario(NamedTuple):
    """What is explored: a protocol, the changes it makes, and what runs meanwhile.

    `cpus` is how many CPUs execute the sites, besides the writer. `nmi` gives the steps of an NMI,
    whose Body executes sites too; without it none arrives. `int3` gives the steps of the breakpoint
    handler for an address. When the protocol has ended, the variables `zero_at_end` must be 0.
    """

    batch: Batch
    steps: Callable[[], Steps[None]]
    cpus: int
    nmi: Callable[[], Steps[None]] | None = None
    int3: Callable[[int], Steps[int | None]] = knows_no_breakpoint
    zero_at_end: tuple[str, ...] = ()


class Model:
    """The states of one scenario, and the moves from each of them to the next."""

    def __init__(self, scenario: Scenario) -> None:
        self.code = Code(scenario.batch)
        self.protocol = Program(scenario.steps)
        self.nmi = Program(scenario.nmi or _no_nmi)
        self.handlers = [
            Program(partial(scenario.int3, address)) for address in scenario.batch.addresses
        ]
        self._takes_nmis = scenario.nmi is not None
        self._zero_at_end = scenario.zero_at_end
        self._cpus: list[Cpu] = []
        self._numbers: dict[Cpu, int] = {}
        self._after_stores: dict[tuple[int, int, int], int] = {}
        self._ways: dict[object, list[tuple[Act, Variables, int, str]]] = {}
        self.start = State(self.code.old, (), (self._number(Cpu()),) * (1 + scenario.cpus))

    def _number(self, cpu: Cpu) -> int:
        number = self._numbers.setdefault(cpu, len(self._cpus))
        if number == len(self._cpus):
            self._cpus.append(cpu)
        return number

    def cpu(self, state: State, number: int) -> Cpu:
        """Return one of the CPUs."""
        return self._cpus[state.cpus[number]]

    def with_cpu(self, state: State, number: int, cpu: Cpu) -> State:
        """Return the state with one of its CPUs replaced."""
        cpus = (*state.cpus[:number], self._number(cpu), *state.cpus[number + 1 :])
        return State(state.code, state.variables, cpus)

    def normal(self, state: State) -> State:
        """Return the state that stands for all that differ in the order of executing CPUs alone."""
        writer, *others = state.cpus
        cpus = (writer, *sorted(others))
        return state if cpus == state.cpus else State(state.code, state.variables, cpus)

    def end(self, state: State) -> End | None:
        """Return how the protocol has ended, if it has."""
        place = self.protocol.at(self.cpu(state, WRITER).node)
        return place if isinstance(place, End) else None

    def _is_over(self, state: State) -> bool:
        """Whether the protocol has done all it should."""
        end = self.end(state)
        return end is not None and not end.error

    def fault(self, state: State) -> str:
        """Say what is wrong, the protocol over and the machine at rest; "" if nothing."""
        end = self.end(state)
        cpus = [self._cpus[number] for number in state.cpus]
        if not end or any(cpu.stores or cpu.nmi is not None for cpu in cpus):
            return ""
        standing = isinstance(end.error, StandingError)
        not_zero = [
            name for name, _ in state.variables if name in self._zero_at_end and not standing
        ]
        wrong = {
            "a CPU is left stopped": any(cpu.request is Request.STOPPED for cpu in cpus),
            f"{' and '.join(not_zero)} is not 0": bool(not_zero),
            "the code is not what was planned": not end.error and state.code != self.code.new,
            "a site is neither what it was nor what it should be": (
                not standing and not self.code.is_whole(state.code)
            ),
        }
        what = next((what for what, applies in wrong.items() if applies), "")
        return what and f"the protocol has {'failed' if end.error else 'ended'}, and {what}"

    def moves(self, state: State) -> Iterator[Move]:
        """Yield all that may come next."""
        is_over = self._is_over(state)
        for number in range(len(state.cpus)):
            cpu = self.cpu(state, number)
            if cpu.stores:
                yield from self._landings(state, number, cpu)
            if number == WRITER and cpu.nmi is None:
                if self._takes_nmis:
                    yield self._nmi_arrives(state, number, cpu)
                yield from self._protocol(state, cpu)
            else:
                yield from self._alone(state, number, is_over=is_over)

    def _alone(self, state: State, number: int, *, is_over: bool) -> Iterator[Move]:
        """Let a CPU do what concerns no other; of them it matters whether the protocol is over.

        In most states the CPU is as in some state before, and only others are not.
        """
        key = number, state.cpus[number], state.code, state.variables, is_over
        if key not in self._ways:
            self._ways[key] = [
                (move.act, move.state.variables, move.state.cpus[number], move.violation)
                for move in self._ways_of(state, number, self.cpu(state, number))
            ]
        before, behind = state.cpus[:number], state.cpus[number + 1 :]
        for act, variables, after, violation in self._ways[key]:
            yield Move(act, State(state.code, variables, (*before, after, *behind)), violation)

    def _ways_of(self, state: State, number: int, cpu: Cpu) -> Iterator[Move]:
        if cpu.nmi is not None:
            yield from self._nmi(state, number, cpu, cpu.nmi)
            return
        if self._takes_nmis:
            yield self._nmi_arrives(state, number, cpu)
        if cpu.request is not Request.STOPPED:
            yield from self._execution(state, number, cpu)
            yield from self._serving(state, number, cpu)

    def _landings(self, state: State, number: int, cpu: Cpu) -> Iterator[Move]:
        """Let a store become visible to all: any that has no older one to the same place."""
        older = set()
        for index, (place, value) in enumerate(cpu.stores):
            if place in older:
                continue
            older.add(place)
            rest = cpu._replace(stores=cpu.stores[:index] + cpu.stores[index + 1 :])
            after = self.with_cpu(state, number, rest)
            if isinstance(place, str):
                after = after._replace(variables=assigned(after, place, value))
            else:
                after = self._with_byte(after, place, value)
            yield Move(Act(number, False, "lands", (place, value)), after)

    def _with_byte(self, state: State, place: int, mask: int) -> State:
        """Change a byte of code, which every CPU that is fetching it may see."""
        if state.code[place] == mask:
            return state
        code = (*state.code[:place], mask, *state.code[place + 1 :])
        cpus = tuple([self._cpu_after_store(number, place, mask) for number in state.cpus])
        return State(code, state.variables, cpus)

    def _cpu_after_store(self, number: int, place: int, mask: int) -> int:
        """Return the number of the CPU's state once the byte at `place` has become `mask`."""
        key = number, place, mask
        if key not in self._after_stores:
            cpu = self._cpus[number]
            context = self.code.after_store(cpu.context, place, mask)
            nmi_context = self.code.after_store(cpu.nmi_context, place, mask)
            after = cpu._replace(context=context, nmi_context=nmi_context)
            self._after_stores[key] = self._number(after)
        return self._after_stores[key]

    def _nmi_arrives(self, state: State, number: int, cpu: Cpu) -> Move:
        after = cpu._replace(context=_without_fetches(cpu.context), nmi=START)
        return Move(Act(number, True, "arrives"), self.with_cpu(state, number, after))

    def _nmi(self, state: State, number: int, cpu: Cpu, node: int) -> Iterator[Move]:
        """Take the steps of the NMI's handler, and execute sites in its body."""
        step = self.nmi.at(node)
        if not isinstance(step, Body):
            yield from self._step(state, number, step)
            return
        yield from self._execution(state, number, cpu)
        if cpu.nmi_context is None:
            after = self._answered(state, number, None)
            yield Move(Act(number, True, "does", step), after)

    def _execution(self, state: State, number: int, cpu: Cpu) -> Iterator[Move]:
        """Let a CPU execute the sites, in an NMI or not."""
        context = cpu.context if cpu.nmi is None else cpu.nmi_context
        if context is None:
            for site in range(len(self.code.sites)):
                yield self._beginning(state, number, site, 0)
        elif isinstance(context, Inside):
            yield self._beginning(state, number, *context)
        elif isinstance(context, Trap):
            yield from self._step(state, number, self.handlers[context.site].at(context.node))
        else:
            yield from self._flight(state, number, context)

    def _beginning(self, state: State, number: int, site: int, start: int) -> Move:
        flight = Flight(site, start, self.code.of_site(state.code, site)[start:])
        return self._executing(state, number, "begins", (site, start), flight)

    def _executing(
        self, state: State, number: int, verb: str, detail: Any, context: Context
    ) -> Move:
        cpu = self.cpu(state, number)
        in_nmi = cpu.nmi is not None
        after = cpu._replace(nmi_context=context) if in_nmi else cpu._replace(context=context)
        return Move(Act(number, in_nmi, verb, detail), self.with_cpu(state, number, after))

    def _flight(self, state: State, number: int, flight: Flight) -> Iterator[Move]:
        """Execute what the CPU has fetched: every outcome that this can have."""
        site, start, _ = flight
        outcome = self.code.outcome(flight)
        for mix in outcome.mixes[:1]:
            move = self._executing(state, number, "executes", (site, start, mix), None)
            yield move._replace(violation=MIXED)
        for whole in outcome.whole:
            inside = self.code.inside_after(flight, whole)
            done = whole[: inside.start] if inside else whole
            move = self._executing(state, number, "executes", (site, start, done), inside)
            stale = self._is_over(state) and self.code.is_old_call(flight, whole)
            yield move._replace(violation=STALE if stale else "")
        if outcome.traps:
            move = self._executing(state, number, "hits", site, Trap(site, START))
            unhandled = isinstance(self.handlers[site].at(START), End)
            yield move._replace(violation=UNHANDLED if unhandled else "")

    def _protocol(self, state: State, cpu: Cpu) -> Iterator[Move]:
        """Take the writer's next step."""
        step = self.protocol.at(cpu.node)
        if isinstance(step, InstructionPointers):
            act = Act(WRITER, False, "does", step)
            yield Move(act, self._answered(state, WRITER, self._inside(state)))
        elif isinstance(step, Sync | Stop | Resume):
            if not cpu.stores:
                yield from self._requesting(state, cpu, step)
        elif not isinstance(step, End):
            yield from self._step(state, WRITER, step)

    def _inside(self, state: State) -> tuple[int, ...]:
        """Return the addresses inside sites at which CPUs go on."""
        cpus = [self._cpus[number] for number in state.cpus]
        contexts = {
            _without_fetches(context) for cpu in cpus for context in (cpu.context, cpu.nmi_context)
        }
        inside = [context for context in contexts if isinstance(context, Inside)]
        return tuple(sorted(self.code.sites[site].address + start for site, start in inside))

    def _requesting(self, state: State, cpu: Cpu, step: Sync | Stop | Resume) -> Iterator[Move]:
        """Let the writer request something of the other CPUs, or go on when all have done it."""
        others = range(1, len(state.cpus))
        act = Act(WRITER, False, "does", step)
        if isinstance(step, Resume):
            resumed = self._with_requests(state, Request.NONE)
            yield Move(act, self._answered(resumed, WRITER, None))
        elif cpu.request is not Request.ASKING:
            asked = self.with_cpu(state, WRITER, cpu._replace(request=Request.ASKING))
            wanted = Request.STOP if isinstance(step, Stop) else Request.SERIALISE
            yield Move(act._replace(verb="asks"), self._with_requests(asked, wanted))
        else:
            done = Request.STOPPED if isinstance(step, Stop) else Request.NONE
            if all(self.cpu(state, other).request is done for other in others):
                free = self.with_cpu(state, WRITER, cpu._replace(request=Request.NONE))
                yield Move(act, self._answered(free, WRITER, None))

    def _with_requests(self, state: State, request: Request) -> State:
        for other in range(1, len(state.cpus)):
            asked = self.cpu(state, other)._replace(request=request)
            state = self.with_cpu(state, other, asked)
        return state

    def _serving(self, state: State, number: int, cpu: Cpu) -> Iterator[Move]:
        """Let the CPU do what it has been asked to."""
        if cpu.request is Request.NONE or cpu.stores or isinstance(cpu.context, Trap):
            return
        stops = cpu.request is Request.STOP
        done = Request.STOPPED if stops else Request.NONE
        after = self.with_cpu(
            state, number, cpu._replace(context=_without_fetches(cpu.context), request=done)
        )
        yield Move(Act(number, False, "stops" if stops else "serialises"), after)

    def _step(self, state: State, number: int, step: Any) -> Iterator[Move]:
        """Take a step of the program that the CPU is in: protocol, NMI or breakpoint handler."""
        cpu = self.cpu(state, number)
        done = effect(self.code, state, cpu, step)
        if done is None:
            return
        act = Act(number, cpu.nmi is not None, "does", step)
        after = self.with_cpu(state, number, cpu._replace(stores=done.stores))
        after = after._replace(variables=done.variables)
        context = cpu.context if cpu.nmi is None else cpu.nmi_context
        if done.violation:
            yield Move(act, state, done.violation)
        elif isinstance(context, Trap):
            yield self._handler_answered(after, act, context, done.answer)
        else:
            yield Move(act, self._answered(after, number, done.answer))

    def _answered(self, state: State, number: int, answer: Any) -> State:
        """Send an answer to the program of the CPU: the NMI's handler, or else the protocol."""
        cpu = self.cpu(state, number)
        if cpu.nmi is None:
            after = cpu._replace(node=self.protocol.after(cpu.node, answer))
        else:
            node = self.nmi.after(cpu.nmi, answer)
            after = cpu._replace(nmi=None if isinstance(self.nmi.at(node), End) else node)
        return self.with_cpu(state, number, after)

    def _handler_answered(self, state: State, act: Act, trap: Trap, answer: Any) -> Move:
        """Send an answer to the breakpoint handler, which returns how many bytes to skip."""
        program = self.handlers[trap.site]
        node = program.after(trap.node, answer)
        place = program.at(node)
        if not isinstance(place, End):
            return self._executing(state, act.cpu, act.verb, act.detail, Trap(trap.site, node))
        if place.result == len(self.code.sites[trap.site].old):
            return self._executing(state, act.cpu, "skips", trap.site, None)
        return Move(act, state, UNHANDLED)


def _without_fetches(context: Context) -> Context:
    """Return where a CPU is that drops what it has fetched."""
    if isinstance(context, Flight):
        return Inside(context.site, context.start) if context.start else None
    return context


def _no_nmi() -> Steps[None]:
    yield from ()
