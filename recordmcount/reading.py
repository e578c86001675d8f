"""What is asked of whoever reads many files: what it prints, and who reads for it."""

from __future__ import annotations

import os

from .asked import Values
from .errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeVar

    from .errors import Error
    from .folders import Files

    Answer = TypeVar("Answer")

# What may be named, and read: for the help of each verb that does.
PATHS = (
    "an object, a static library, an executable, a shared object, a kernel image, one of these "
    "compressed, or a folder, whose files of such sorts are meant"
)


class Reading(Values):
    """In which of `FORMATS`, the first being the default, a verb tells of files, and who reads."""

    FORMATS: tuple[str, ...] = ()

    json = False
    format: str | None = None
    symbols: tuple[str, ...] = ()
    jobs = 0  # as many as there are processors, where it is worth it
    scheduler: str | None = None

    def check(self) -> None:
        """Raise UsageError where words make no sense together."""
        super().check()
        self.format = self.format or ("json" if self.json else self.FORMATS[0])
        if self.format not in self.FORMATS:
            raise UsageError(f"no format '{self.format}': {', '.join(self.FORMATS)}")
        if self.json and self.format != "json":
            raise UsageError("--json is --format json")
        if self.jobs and self.scheduler:
            raise UsageError("-j is for processes here, --scheduler for those elsewhere")

    @property
    def folder(self) -> str:
        """The folder that relative paths are from, for who reads in another one; else ""."""
        return os.getcwd() if self.scheduler else ""

    def read(
        self, work: Callable[[str], Answer], files: Files, failed: Callable[[Error], Answer]
    ) -> Iterator[Answer]:
        """Give work(path) of each file, or failed(what is wrong), in order; and show how far it is.

        Raises UnreachableError, as `spread` does.
        """
        from .progress import over, start
        from .spread import How, spread

        progress = start(files.count(), quiet=self.format in ("json", "sarif"))
        return over(spread(work, files, How(self.jobs, self.scheduler), failed), progress)
