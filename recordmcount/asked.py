"""What is asked of the recorder, whatever words asked it: a build that names a file needs no more.

`options` has the words.
"""

from .errors import UsageError


class Values:
    """What the words of a command line ask for, by the attributes of its options.

    A subclass gives each attribute its type, and the value it has if no word gives it another.
    `information` is the attribute of the option, if there is one, that asks for something else.
    """

    files: "tuple[str, ...]" = ()
    output: "str | None" = None
    information = ""

    def __init__(self, **values: object) -> None:
        self.__dict__.update(values)

    def check(self) -> None:
        """Raise UsageError where words make no sense together."""
        if not self.files:
            raise UsageError("no files")
        if self.output and len(self.files) > 1:
            raise UsageError("-o is for one file")


class Options(Values):
    """The recording options; every step may read them and none changes them."""

    warn = False
    dry_run = False
    stats = False
    jobs = 0  # as many as there are processors
    symbols: "tuple[str, ...]" = ()
    all_sections = False
    kernel = False
    gc_sections = False
    pic = False
    image = False
    alloc = False
    quiet = False

    def check(self) -> None:
        """Raise UsageError where words make no sense together."""
        super().check()
        if self.alloc and not self.image:
            raise UsageError("--alloc is for --image")
        if self.image and (self.gc_sections or self.pic or self.kernel or self.all_sections):
            raise UsageError("--gc-sections, --pic, --kernel and --all-sections are for objects")
