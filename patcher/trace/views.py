"""Who is shown a trace: a file or a pipe, by events as they come."""

from __future__ import annotations

import os
from collections.abc import Sequence
from stat import S_ISREG

from patcher.closing import Closing

from .family import Family
from .formats.writer import Writer
from .stream import Round

BUSY = 1 << 12  # events of a round after which the next one begins at once
LONG, SHORT = 0.05, 0.0  # seconds between rounds


class Output(Closing):
    """Where a trace is written: the file at `path`, or the standard output. Raises OSError.

    What is in a file stays until something is written: the trace may be refused yet.
    """

    def __init__(self, path: str | None) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
        self._fd = 1 if path is None else os.open(path, flags, 0o666)
        self._name = path or "standard output"
        self._is_old = path is not None and S_ISREG(os.fstat(self._fd).st_mode)

    def close(self) -> None:
        """Close the file."""
        if self._fd != 1:
            os.close(self._fd)

    def write(self, content: bytes) -> bool:
        """Write all of it; False where nobody reads it any more. Raises OSError."""
        if self._is_old:
            os.ftruncate(self._fd, 0)
            self._is_old = False
        rest = memoryview(content)
        while rest:
            try:
                rest = rest[os.write(self._fd, rest) :]
            except BrokenPipeError:
                return False
            except OSError as error:
                error.filename = self._name  # which a write does not tell
                raise
        return True


class View:
    """Who is shown what happens. `events` and `lost` are how much there was of either, so far."""

    wait = LONG

    def __init__(self, output: Output) -> None:
        self._output = output
        self.events = 0
        self.lost = 0

    def show(self, *, is_last: bool) -> bool:
        """Show what is new; the last time what is left. False where no more is wanted."""
        raise NotImplementedError

    def end(self) -> None:
        """Show what stands at the end."""

    def tell(self, line: str) -> bool:  # noqa: ARG002
        """Tell what is worth a line, if it can be told only here; False if it cannot."""
        return False

    def take(self, signals: Sequence[int]) -> None:
        """Do what signals ask for, other than to end."""


class Events(View):
    """Events in a format, `most` of them if that is not 0. Raises OSError."""

    def __init__(self, output: Output, family: Family, writer: Writer, most: int) -> None:
        super().__init__(output)
        self._family = family
        self._writer = writer
        self._most = most
        self._is_full = False
        self._is_read = output.write(writer.begin())

    def show(self, *, is_last: bool) -> bool:
        """Write the events that are new; the last time all that there are, round by round."""
        self._family.look()
        found = self._family.read()
        while self._write(found) and is_last and not found.is_all:
            found = self._family.read()
        return self._write(self._family.read(is_last=True)) if is_last else self._is_wanted

    @property
    def _is_wanted(self) -> bool:
        return self._is_read and not self._is_full

    def _write(self, found: Round) -> bool:
        """Write what a round gave; tell whether more is wanted."""
        if self._is_full:
            return False
        events = found.events
        if self._most:
            events = events[: self._most - self.events]
        self.events += len(events)
        self._is_full = bool(self._most) and self.events == self._most
        content = self._writer.events(events)
        for cpu, count in () if self._is_full else found.lost.items():
            self.lost += count  # they found no room behind these events
            content += self._writer.lost(cpu, count, found.time)
        if self._is_read:
            self._is_read = self._output.write(content)
        self.wait = SHORT if len(events) >= BUSY else LONG
        return self._is_wanted

    def end(self) -> None:
        """Write what stands at the end."""
        if self._is_read:
            self._output.write(self._writer.end())
