"""What can go wrong while recording: one root, so that a caller needs one `except`."""


class RecordError(Exception):
    """A file could not be recorded; the file is as it was.

    `path` is the file (`archive.a(member.o)` for a member), `what` the reason in plain words.
    Where the fault lies inside a section, `section` is its name and `offset` a section offset
    in bytes. `str()` is the line a person reads: `path: section+0xoffset: what`.
    """

    def __init__(
        self, path: str, what: str, section: str | None = None, offset: int | None = None
    ) -> None:
        super().__init__(path, what, section, offset)
        self.path = path
        self.what = what
        self.section = section
        self.offset = offset

    def __str__(self) -> str:
        return f"{self.path}: {place(self.section, self.offset)}{self.what}"


class FormatError(RecordError):
    """The bytes are not a sound ELF object, or use a feature that is not supported."""


class UnrecognizedError(FormatError):
    """Not an object this tool is for; `what` is the kernel tool's own wording, path included."""

    def __str__(self) -> str:
        return self.what


class OutputError(RecordError):
    """The result could not be written; whatever had been written was taken back."""


def place(section: str | None, offset: int | None) -> str:
    """`section+0xoffset: ` as far as it is known, for the front of a message."""
    if section is None:
        return ""
    return f"{section}: " if offset is None else f"{section}+{offset:#x}: "
