"""What can go wrong while patching: one root, and the errno that the kernel's ftrace would give."""

from __future__ import annotations

from errno import EACCES, EBUSY, EFAULT, EINVAL, ENODEV, ENOENT, ENOEXEC, EPERM, ERANGE, ESRCH

from recordmcount.errors import Error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar, Self

    from recordmcount.sites.site import Site


class PatchError(Error):
    """Code was not patched; nothing was written unless the message says so.

    `path` is the file, `what` the reason in plain words. Where the fault lies at one site,
    `address` is its address as the patched memory counts (a link-time virtual address for a
    linked file, a file offset for an object), `symbol` its `function` or `function+0xoffset`,
    `actual` the bytes that stand there and `expected` those that should. `str()` is the line a
    person reads: `path: symbol (0xaddress): what`. A site of an object, which nobody looks for by
    file offset, has no address and a symbol that says all: `function (section+0xoffset)`.
    """

    errno: ClassVar[int]

    def __init__(
        self,
        path: str,
        what: str,
        *,
        address: int | None = None,
        symbol: str = "",
        actual: bytes = b"",
        expected: tuple[bytes, ...] = (),
    ) -> None:
        super().__init__(path, what)
        self.address = address
        self.symbol = symbol
        self.actual = actual
        self.expected = expected

    def __str__(self) -> str:
        if self.address is None:
            return ": ".join(filter(None, (self.path, self.symbol, self.what)))
        place = f"{self.symbol} ({self.address:#x})" if self.symbol else f"{self.address:#x}"
        return f"{self.path}: {place}: {self.what}"


class ReadError(PatchError):
    """The bytes of a site could not be read."""

    errno = EFAULT


class CompareError(PatchError):
    """The bytes of a site are not those that must stand there."""

    errno = EINVAL

    @classmethod
    def of(cls, path: str, site: Site, what: str) -> Self:
        """Make the error for a site; one of an object has a label, and no address."""
        if site.in_object:
            return cls(path, what, symbol=site.label, actual=site.code, expected=site.expected)
        return cls(
            path, what,
            address=site.position, symbol=site.place, actual=site.code, expected=site.expected,
        )  # fmt: skip


class WriteError(PatchError):
    """The bytes of a site could not be written."""

    errno = EPERM


class StandingError(WriteError):
    """A breakpoint of ours could not be removed, or may still be hit; its handler stays."""


class NoSiteError(PatchError):
    """What was asked for is no site of this file, or the file has none."""

    errno = ENOENT


class NoModuleError(PatchError):
    """What was asked for lies in no live module."""

    errno = ENOENT


class ModuleError(PatchError):
    """A module cannot be loaded where it is said to be; nothing of it was registered."""

    errno = ENOEXEC


class StateError(PatchError):
    """What was asked for does not fit what stands or is registered, as two ops of one name."""

    errno = EBUSY


class HaltError(StateError):
    """A process cannot be halted for now, or another patcher has changed its sites.

    Nothing was written, and all its threads run.
    """


class ReachError(PatchError):
    """A call cannot reach its target from where it stands; nothing was written."""

    errno = ERANGE


class TargetError(PatchError):
    """What is to be called is no function of the process, or must not be called."""

    errno = EINVAL


class DisabledError(PatchError):
    """The switch was thrown by an earlier deviation; no code is touched any more."""

    errno = ENODEV


class NoProcessError(PatchError):
    """There is no such process, it has ended, or it is a kernel thread."""

    errno = ESRCH


class AccessError(PatchError):
    """The kernel does not let this user trace the process."""

    errno = EACCES
