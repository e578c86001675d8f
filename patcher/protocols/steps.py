"""The steps that protocols are made of, and the driver that carries them out on a real machine.

There are three protocols, each safe in one more situation than the one before: `stop_machine` if
every CPU that executes the code can be stopped, `nmi` also if interrupts that cannot be masked
execute it, `breakpoint` while all CPUs run. Each module has a `modify(machine, batch)`; callers
outside this room take `partial(modify, machine)`.

A protocol changes a site as one instruction. Where the old code is a call of two instructions (of
12 or 13 bytes, or `nop; call`), a CPU may stand between them; then the protocol changes nothing
(see `instruction_pointers`). Between the NOPs of a sled as well; but out of these `stop_machine`
has it step.

There must be one writer at a time: threads that change the same machine need a lock around
`modify`.

A protocol is a generator. Each step that it yields is one act of the CPU that runs the protocol:
the result of the act is sent back into the generator, a failure is thrown into it. `run` carries
out the steps one after the other. tools/explore interleaves the same generators with the acts of
other CPUs, in every order: what is proven there is what runs here.

Stores to variables and to code become visible to other CPUs in any order, unless a step says
otherwise.
"""

from collections.abc import Callable, Generator, Sequence
from types import GeneratorType
from typing import Any, TypeVar, dataclass_transform

from patcher import modify
from patcher.modify import Batch

from .machine import Machine, Value


@dataclass_transform(frozen_default=True)
class Act:
    """What a frozen dataclass is; `dataclasses` takes longer to import than a protocol takes."""

    def __init_subclass__(cls) -> None:
        type.__setattr__(cls, "__match_args__", tuple(cls.__annotations__))

    def __init__(self, *values: object) -> None:
        vars(self).update(zip(type(self).__annotations__, values, strict=True))

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((type(self), *vars(self).values()))

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({fields})"


class Verify(Act):
    """Compare every site of the batch with its old code. Raises ReadError or CompareError."""

    batch: Batch


class ReadBack(Act):
    """Compare every site of the batch with its new code. Raises ReadError or WriteError."""

    batch: Batch


class Read(Act):
    """Read `size` bytes of code at `address`. Raises ReadError."""

    address: int
    size: int


class Write(Act):
    """Store each of `data` at its address. Raises WriteError; the first few may be written then."""

    addresses: Sequence[int]
    data: Sequence[bytes]


class Load(Act):
    """Load the value of a shared variable."""

    variable: str


class Store(Act):
    """Store a value in a shared variable."""

    variable: str
    value: Value


class Add(Act):
    """Add to a shared variable atomically and return the sum; a fence."""

    variable: str
    number: int


class Fence(Act):
    """Return when this CPU's stores are visible to all, and it has dropped what it had fetched."""


class WaitZero(Act):
    """Return when a shared variable is 0; add one to `statistic` if it had to wait."""

    variable: str
    statistic: str


class Exchange(Act):
    """Wait until a shared variable is `old`, and in the same atomic act make it `new`; a fence.

    Adds one to `statistic` if it had to wait.
    """

    variable: str
    old: int
    new: int
    statistic: str


class Count(Act):
    """Add one to a statistic; no protocol reads statistics."""

    statistic: str


class Stop(Act):
    """Return when every other CPU stands between two instructions; a fence."""


class Resume(Act):
    """Let the stopped CPUs go on; each serialises before its next instruction. A fence."""


class Sync(Act):
    """Return when every CPU has serialised since the step began; a fence."""


class InstructionPointers(Act):
    """Find the run-time addresses, at least those in sites, where CPUs go on. Raises StateError."""


class StepOut(Act):
    """Have each stopped CPU go on where `to` says, a function of where it would go on."""

    to: Callable[[int], int]


class Body(Act):
    """Run what the interrupt came for; a step of an interrupt's handler."""

    function: Callable[[], None]


Step = (
    Verify | ReadBack | Read | Write | Load | Store | Add | Fence | WaitZero | Exchange
    | Count | Stop | Resume | Sync | InstructionPointers | StepOut | Body
)  # fmt: skip
Result = TypeVar("Result")
Steps = Generator[Step, Any, Result]

# How a real machine carries out each step.
ACTS: dict[type[Step], Callable[[Machine, Any], Any]] = {
    Verify: lambda machine, step: modify.verify(machine.memory, step.batch),
    ReadBack: lambda machine, step: modify.read_back(machine.memory, step.batch),
    Read: lambda machine, step: machine.memory.read(step.address, step.size),
    Write: lambda machine, step: machine.memory.scatter(step.addresses, step.data),
    Load: lambda machine, step: machine.load(step.variable),
    Store: lambda machine, step: machine.store(step.variable, step.value),
    Add: lambda machine, step: machine.add(step.variable, step.number),
    Fence: lambda _machine, _step: None,  # the machine's lock has ordered the stores
    WaitZero: lambda machine, step: machine.exchange(step.variable, 0, 0, step.statistic),
    Exchange: lambda machine, step: machine.exchange(
        step.variable, step.old, step.new, step.statistic
    ),
    Count: lambda machine, step: machine.count(step.statistic),
    Stop: lambda machine, _: machine.stop(),
    Resume: lambda machine, _: machine.resume(),
    Sync: lambda machine, _: machine.sync(),
    InstructionPointers: lambda machine, _: machine.instruction_pointers(),
    StepOut: lambda machine, step: machine.step_out(step.to),
    Body: lambda _, step: step.function(),
}


def run(machine: Machine, steps: Steps[Result]) -> Result:
    """Carry out the steps; return what the protocol returns, or raise what it raises.

    Whatever an act raises is thrown into the protocol, even a KeyboardInterrupt, so that the
    protocol can clean up.
    """
    fault = None
    while True:
        try:
            step = steps.throw(fault) if fault else next(steps)
            while True:
                step = steps.send(ACTS[type(step)](machine, step))
        except BaseException as error:
            if isinstance(steps, GeneratorType) and steps.gi_frame:  # it has not ended
                fault = error
            elif isinstance(error, StopIteration):
                result: Result = error.value
                return result
            else:
                raise
