"""The steps that protocols are made of, and the driver that carries them out on a real machine.

A protocol is a generator. Each step that it yields is one act of the CPU that runs it; what the
act finds is sent back, and its failure is thrown in where it was yielded. `run` carries the steps
out, one after the other. tools/explore interleaves the same generators with the acts of other CPUs,
in every order: what is proven there is what runs here.

Stores, of variables and of code, become visible to other CPUs in any order, until a step that says
otherwise.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from inspect import GEN_CLOSED, getgeneratorstate
from typing import Any, TypeVar

from patcher import modify
from patcher.modify import Batch

from .machine import Machine, Value


@dataclass(frozen=True, slots=True)
class Verify:
    """Compare every site of the batch with what must stand there; ReadError, CompareError."""

    batch: Batch


@dataclass(frozen=True, slots=True)
class ReadBack:
    """Compare every site of the batch with what was written there; ReadError, WriteError."""

    batch: Batch


@dataclass(frozen=True, slots=True)
class Read:
    """The `size` bytes of code at `address`; ReadError."""

    address: int
    size: int


@dataclass(frozen=True, slots=True)
class Write:
    """Store code: each of `data` at its address. WriteError; then the first few may be written."""

    addresses: Sequence[int]
    data: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class Load:
    """The value of a shared variable."""

    variable: str


@dataclass(frozen=True, slots=True)
class Store:
    """Give a shared variable a value."""

    variable: str
    value: Value


@dataclass(frozen=True, slots=True)
class Add:
    """Add to a shared variable, indivisibly, and give what it is then; a fence."""

    variable: str
    number: int


@dataclass(frozen=True, slots=True)
class Fence:
    """Return when this CPU's stores are visible to all, and what it fetched is dropped."""


@dataclass(frozen=True, slots=True)
class WaitZero:
    """Return when a shared variable is 0; count in `statistic` if that took waiting."""

    variable: str
    statistic: str


@dataclass(frozen=True, slots=True)
class Exchange:
    """Wait until a shared variable is `old`, and in the same indivisible act make it `new`.

    A fence. It counts in `statistic` if that took waiting.
    """

    variable: str
    old: int
    new: int
    statistic: str


@dataclass(frozen=True, slots=True)
class Count:
    """Add one to a statistic, by which nothing is decided."""

    statistic: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Return when every other CPU stands between two instructions; a fence."""


@dataclass(frozen=True, slots=True)
class Resume:
    """Let the stopped CPUs go on, each serialised before its next instruction; a fence."""


@dataclass(frozen=True, slots=True)
class Sync:
    """Return when every CPU has been serialised since; a fence."""


@dataclass(frozen=True, slots=True)
class InstructionPointers:
    """The run-time addresses at which CPUs go on; those in sites are enough. StateError."""


@dataclass(frozen=True, slots=True)
class Body:
    """In a handler of interrupts: here runs what the interrupt came for."""

    function: Callable[[], None]


Step = (
    Verify | ReadBack | Read | Write | Load | Store | Add | Fence | WaitZero | Exchange
    | Count | Stop | Resume | Sync | InstructionPointers | Body
)  # fmt: skip
Result = TypeVar("Result")
Steps = Generator[Step, Any, Result]

# How each kind of step is carried out on a real machine.
ACTS: dict[type[Step], Callable[[Machine, Any], Any]] = {
    Verify: lambda machine, step: modify.verify(machine.memory, step.batch),
    ReadBack: lambda machine, step: modify.read_back(machine.memory, step.batch),
    Read: lambda machine, step: machine.memory.read(step.address, step.size),
    Write: lambda machine, step: machine.memory.scatter(step.addresses, step.data),
    Load: lambda machine, step: machine.load(step.variable),
    Store: lambda machine, step: machine.store(step.variable, step.value),
    Add: lambda machine, step: machine.add(step.variable, step.number),
    Fence: lambda _machine, _step: None,  # the machine's own lock has ordered the stores
    WaitZero: lambda machine, step: machine.exchange(step.variable, 0, 0, step.statistic),
    Exchange: lambda machine, step: machine.exchange(
        step.variable, step.old, step.new, step.statistic
    ),
    Count: lambda machine, step: machine.count(step.statistic),
    Stop: lambda machine, _: machine.stop(),
    Resume: lambda machine, _: machine.resume(),
    Sync: lambda machine, _: machine.sync(),
    InstructionPointers: lambda machine, _: machine.instruction_pointers(),
    Body: lambda _, step: step.function(),
}


def run(machine: Machine, steps: Steps[Result]) -> Result:
    """Carry out the steps, and return or raise what the protocol does.

    Whatever an act raises is thrown in, be it an interrupt from the keyboard: the protocol cleans
    up.
    """
    fault = None
    while True:
        try:
            step = steps.throw(fault) if fault else next(steps)
            while True:
                step = steps.send(ACTS[type(step)](machine, step))
        except BaseException as error:
            if getgeneratorstate(steps) != GEN_CLOSED:
                fault = error
            elif isinstance(error, StopIteration):
                result: Result = error.value
                return result
            else:
                raise
