"""The report of a deviation: printed once, complete, the same at any time and place.

It has what the kernel's ftrace_bug prints, and the symbol, the module and both codes decoded.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from errno import errorcode
from typing import Self

from patcher.errors import PatchError

from .records import Flags, Update


@dataclass(frozen=True, slots=True)
class Bug:
    """A deviation of code, or another failure to change it.

    `what` is the error in words and `errno` its name, empty if it has none. The other fields are
    for the site at run-time address `address`; without one, the whole batch of `changes` changes
    failed. `actual` is empty if it is unknown what stands there. `flags` and `users`, the count of
    ops that trace the site, are those before the update.
    """

    what: str
    errno: str
    changes: int
    address: int | None = None
    symbol: str = ""
    module: str = ""
    machine: int = 0
    operation: str = ""
    actual: bytes = b""
    expected: tuple[bytes, ...] = ()
    flags: Flags = Flags.NONE
    users: int = 0

    @classmethod
    def of(cls, error: BaseException, updates: Sequence[Update]) -> Self:
        """Make the report of `error`, raised while `updates`, none of them settled, were made."""
        if not isinstance(error, PatchError):
            return cls(f"{type(error).__name__}: {error}", "", len(updates))
        name = errorcode[error.errno]
        for update in updates:
            record = update.record
            size = len(record.code)
            if error.address is not None and 0 <= error.address - record.address < size:
                return cls(
                    str(error), name, len(updates), record.address, record.point.symbol,
                    str(record.module.identity), record.module.machine, update.verb, error.actual,
                    error.expected or (record.code,), record.flags, record.users,
                )  # fmt: skip
        return cls(str(error), name, len(updates))

    def __str__(self) -> str:
        return "\n".join((f"ftrace: {self.what}", *map("  {0[0]:<10} {0[1]}".format, self._rows())))

    def _rows(self) -> Iterable[tuple[str, str]]:
        if self.address is None:
            return [("errno", self.errno or "none"), ("changes", str(self.changes))]
        expected = [("expected", self._decoded(code)) for code in self.expected]
        flags = [flag.name or "" for flag in self.flags]
        return [
            ("errno", self.errno or "none"),
            ("address", f"{self.address:#x}"),
            ("symbol", self.symbol or "unknown"),
            ("module", self.module),
            ("operation", self.operation),
            ("actual", self._decoded(self.actual) if self.actual else "unknown"),
            *expected,
            ("flags", " ".join(flags) or "none"),
            ("users", str(self.users)),
        ]

    def _decoded(self, code: bytes) -> str:
        from patcher.disassembly import disassemble  # slow to import, rarely needed

        return f"{code.hex(' ')}  {disassemble(code, self.address or 0, self.machine)}"
