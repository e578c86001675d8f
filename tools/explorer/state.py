"""The parts of a state of the model; all of them can be hashed and compared."""

from enum import IntEnum
from typing import Any, NamedTuple

from .program import START

WRITER = 0


class Request(IntEnum):
    """What a CPU is asked to do and has not done yet, or does about requests."""

    NONE = 0
    SERIALISE = 1
    STOP = 2
    STOPPED = 3  # it stands between two instructions
    ASKING = 4  # it has asked the others, and waits for them


class Flight(NamedTuple):
    """A CPU is fetching at a site, from offset `start` on.

    `seen` has a mask for each byte, as in `code.Code`: the values that the CPU may see.
    """

    site: int
    start: int
    seen: tuple[int, ...]


class Inside(NamedTuple):
    """A CPU stands inside a site: it has executed the first instruction of two, `start` bytes."""

    site: int
    start: int


class Trap(NamedTuple):
    """A CPU has hit a breakpoint at a site and is at a node of the handler's program."""

    site: int
    node: int


Context = Flight | Inside | Trap | None  # None: between two instructions, and in no site
Place = int | str  # a byte of code by its number, or a variable by its name
Variables = tuple[tuple[str, Any], ...]


class Cpu(NamedTuple):
    """One CPU: what it executes, outside an NMI and inside, and its stores not yet visible.

    `node` is the writer's place in the protocol's program, `nmi` a place in that of the NMI.
    """

    node: int = START
    context: Context = None
    nmi: int | None = None
    nmi_context: Context = None
    stores: tuple[tuple[Place, Any], ...] = ()
    request: Request = Request.NONE


class State(NamedTuple):
    """The whole machine: a mask for each byte of code, the variables, and a number for each CPU.

    Variables that are 0 are left out. The model maps the numbers to states of CPUs.
    """

    code: tuple[int, ...]
    variables: Variables
    cpus: tuple[int, ...]


class Act(NamedTuple):
    """What a CPU did: `verb`, and in `detail` the verb's object."""

    cpu: int
    in_nmi: bool
    verb: str
    detail: Any = None


class Move(NamedTuple):
    """An act and the state after it; or what it violates."""

    act: Act
    state: State
    violation: str = ""
