"""What a person can ask of the recorder; one value that every step may read and none changes."""


class Options:
    """The recording options, by the names of the command line. See `recordmcount --help`."""

    __slots__ = (
        "warn", "output", "dry_run", "stats", "jobs", "symbols", "all_sections", "gc_sections",
        "pic", "quiet",
    )  # fmt: skip

    def __init__(
        self,
        *,
        warn: bool = False,
        output: str | None = None,
        dry_run: bool = False,
        stats: bool = False,
        jobs: int = 0,
        symbols: tuple[str, ...] = (),
        all_sections: bool = False,
        gc_sections: bool = False,
        pic: bool = False,
        quiet: bool = False,
    ) -> None:
        self.warn = warn
        self.output = output
        self.dry_run = dry_run
        self.stats = stats
        self.jobs = jobs
        self.symbols = symbols
        self.all_sections = all_sections
        self.gc_sections = gc_sections
        self.pic = pic
        self.quiet = quiet
