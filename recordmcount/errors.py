"""What can go wrong: one root for both packages, so that a caller needs one `except`."""


class Error(Exception):
    """Something is wrong with the file or memory `path`; `what` says what, in plain words.

    `path` is `archive.a(member.o)` for a member. `str()` is the line that a person reads.
    """

    def __init__(self, path: str, what: str) -> None:
        super().__init__(path, what)
        self.path = path
        self.what = what

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"


class UsageError(Error):
    """The words of a command line make no sense; `what` says why, and no path has to do with it."""

    def __init__(self, what: str) -> None:
        super().__init__("", what)

    def __str__(self) -> str:
        return self.what


class RecordError(Error):
    """A file could not be read or recorded; the file is as it was.

    Where the fault lies inside a section, `section` is its name and `offset` a section offset
    in bytes. `str()` is then `path: section+0xoffset: what`.
    """

    def __init__(
        self, path: str, what: str, section: str | None = None, offset: int | None = None
    ) -> None:
        super().__init__(path, what)
        self.section = section
        self.offset = offset

    def __str__(self) -> str:
        return f"{self.path}: {location(self.section, self.offset)}{self.what}"


class FormatError(RecordError):
    """The bytes are not a sound ELF object, or use a feature that is not supported."""


class UnrecognizedError(FormatError):
    """The file is not of a type this tool is for.

    `compatible` is the same in the words of the kernel's recordmcount, path included, and `advice`
    what to do instead, if there is something; `what` then ends in it.
    """

    def __init__(self, path: str, what: str, compatible: str, advice: str = "") -> None:
        super().__init__(path, f"{what}: {advice}" if advice else what)
        self.compatible = compatible
        self.advice = advice


class NotRegularError(UnrecognizedError):
    """The path names a folder, a FIFO, a device or a socket."""

    def __init__(self, path: str, what: str = "not a regular file", advice: str = "") -> None:
        super().__init__(path, what, f"not a regular file: {path}", advice)


class UnreachableError(Error):
    """There is no Dask scheduler, or it has no workers; `path` is its address."""


class OutputError(RecordError):
    """The result could not be written; whatever had been written was taken back."""


def location(section: str | None, offset: int | None) -> str:
    """Return `section+0xoffset: ` as far as it is known, for the front of a message."""
    if section is None:
        return ""
    return f"{section}: " if offset is None else f"{section}+{offset:#x}: "


def reason(error: OSError) -> str:
    """Return the system's words for an error, without Python's decoration."""
    return error.strerror or str(error)
