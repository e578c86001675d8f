"""Records: what is known of each point of a loaded module, and what is to be done with it.

Words and meanings are those of the kernel's struct dyn_ftrace and ftrace_check_record
(kernel/trace/ftrace.c; the flag DISABLED and the delayed enabling of modules since Linux 4.5).
"""

from collections.abc import Mapping, Sequence
from enum import Flag, StrEnum, auto
from types import MappingProxyType
from typing import NamedTuple

from patcher.errors import ReachError
from recordmcount import x86_code

from .modules import Kind, Module, Point
from .ops import Ops, target_of

NO_PREFERRED_NOPS: Mapping[int, bytes] = MappingProxyType({})


class Flags(Flag):
    """ENABLED: a call, or the hook's jump, stands there. DISABLED: it may not be touched yet."""

    NONE = 0
    ENABLED = auto()
    DISABLED = auto()


class Verb(StrEnum):
    """What is done with a record; the last two are for trampolines and hooks."""

    IGNORE = "IGNORE"
    MAKE_CALL = "MAKE_CALL"
    MAKE_NOP = "MAKE_NOP"
    MODIFY_CALL = "MODIFY_CALL"
    UPDATE_FUNC = "UPDATE_FUNC"
    MODIFY_JUMP = "MODIFY_JUMP"


class Record:
    """One point of a loaded module.

    `users` is the count of ops that trace the function, `code` what is known to stand there,
    `target` the run-time address that it calls: None for a call as it was linked, or for no call.
    `nop` is what replaces the call: the one of its length in bytes in `nops`, or else the file's.
    """

    __slots__ = ("module", "point", "nop", "flags", "users", "code", "target")

    def __init__(
        self, module: Module, point: Point, nops: Mapping[int, bytes] = NO_PREFERRED_NOPS
    ) -> None:
        self.module = module
        self.point = point
        self.nop = nops.get(len(point.nop), point.nop)
        self.flags = Flags.DISABLED
        if point.code == point.call:
            self.flags |= Flags.ENABLED
        self.users = 0
        self.code = point.code
        self.target: int | None = None

    @property
    def address(self) -> int:
        """Run-time address of the first byte."""
        return self.point.address

    @property
    def is_site(self) -> bool:
        """Whether ops can trace it: trampolines and hooks are no sites."""
        return self.point.kind is Kind.SITE

    def code_for(self, target: int | None) -> bytes:
        """Encode the call of `target`, or the hook's jump to it. Raises ReachError.

        With None that is the call as it was linked, or no jump.
        """
        length = len(self.point.call)
        is_hook = self.point.kind is Kind.HOOK
        if target is None:
            return self.nop if is_hook else self.point.call
        at, machine = self.address, self.module.machine
        if is_hook:
            code = x86_code.jump(at, target, machine)
        else:
            code = x86_code.call_like(self.point.call, at, target, machine)
        if code is None:
            raise ReachError(
                self.module.path, f"{length} bytes cannot reach {target:#x} from here",
                address=self.address, symbol=self.point.symbol,
            )  # fmt: skip
        return code


class Update(NamedTuple):
    """What a record becomes once its code is `code`; `users` is the count of ops that trace it."""

    record: Record
    verb: Verb
    flags: Flags
    users: int
    code: bytes
    target: int | None

    def settle(self) -> None:
        """Bring the record up to date, its code having become `code`."""
        record = self.record
        record.flags, record.users = self.flags, self.users
        record.code, record.target = self.code, self.target


def verb(record: Record, tracing: Sequence[Ops], dispatcher: int | None, flags: Flags) -> Verb:
    """Choose what must be done with a site in state `flags` that exactly `tracing` trace."""
    if Flags.DISABLED in flags:
        return Verb.IGNORE
    if not tracing:
        return Verb.MAKE_NOP if Flags.ENABLED in flags else Verb.IGNORE
    if Flags.ENABLED not in flags:
        return Verb.MAKE_CALL
    is_right = record.target == target_of(tracing, dispatcher)
    return Verb.IGNORE if is_right else Verb.MODIFY_CALL


def plan(record: Record, tracing: Sequence[Ops], dispatcher: int | None, flags: Flags) -> Update:
    """Plan the update of a site in state `flags` that exactly `tracing` trace.

    Raises ReachError if the target of its new call is out of reach.
    """
    what = verb(record, tracing, dispatcher, flags)
    if what is Verb.IGNORE:
        return Update(record, what, flags, len(tracing), record.code, record.target)
    target = target_of(tracing, dispatcher) if tracing else None
    return change(record, what, target, flags=flags, users=len(tracing))


def change(record: Record, what: Verb, target: int | None, *, flags: Flags, users: int) -> Update:
    """Make the update that does `what`. Raises ReachError if `target` is out of reach."""
    code = record.nop if what is Verb.MAKE_NOP else record.code_for(target)
    flags = flags & ~Flags.ENABLED if code == record.nop else flags | Flags.ENABLED
    return Update(record, what, flags, users, code, target)
