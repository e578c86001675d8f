"""The command line: words -> options and files -> results -> lines and exit status.

The recording path imports nothing that is not needed to record. Verbs import what they like, when
they are called.
"""

import posix
import sys

from . import __version__
from .console import end_when_interrupted, say
from .grammar import UsageError, parse
from .options import Options, declare

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from .grammar import Command

    # Lines for stdout and for stderr, counts, whether it failed: of one file.
    Answer = tuple[list[str], list[str], tuple[int, ...], bool]

VERBS = ("report",)
# Below this many files one process is done before others would have started.
FILES_WORTH_FORKING = 16


class ListError(Exception):
    """A @LIST cannot be read; the text says which and why."""


def main(words: "Sequence[str]") -> int:
    """Run `recordmcount` with these words; returns the exit status."""
    end_when_interrupted()
    if words and words[0] in VERBS:
        return _verb(words[0], words[1:])
    command, options = declare()
    try:
        parse(command, words, options)
        if options.information:
            return 0 if say(1, _inform(options.information, command)) else 1
        if not options.files:
            raise UsageError("no files")
        if options.alloc and not options.image:
            raise UsageError("--alloc is for --image")
        if options.image and options.for_objects:
            raise UsageError("--gc-sections, --pic, --kernel and --all-sections are for objects")
        files = list(_expand(options.files))
        if options.output and len(files) > 1:
            raise UsageError("-o is for one file")
    except UsageError as error:
        from .help import refuse

        return refuse(command, error)
    except ListError as error:
        say(2, [str(error)])
        return 1
    return _record_all(files, options)


def _verb(name: str, words: "Sequence[str]") -> int:
    from importlib import import_module

    from .verb import run

    module = import_module(f"recordmcount.{name}.command")
    return run(module.declare(), module.execute, words)


def _expand(files: "Iterable[str]") -> "Iterator[str]":
    """Give the files, each @LIST replaced by what it lists."""
    for file in files:
        if file.startswith("@"):
            content = _read_list(file[1:])
            separator = b"\0" if b"\0" in content else b"\n"
            for name in content.split(separator):
                if name.strip():
                    yield name.decode(sys.getfilesystemencoding(), "surrogateescape")
        else:
            yield file


def _read_list(path: str) -> bytes:
    content = b""
    try:
        fd = 0 if path == "-" else posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
        while piece := posix.read(fd, 1 << 16):
            content += piece
    except OSError as error:
        raise ListError(f"{path}: {error.strerror}") from error
    return content


def _record_all(files: list[str], options: Options) -> int:
    from .record.file import describe, record

    # Many files are shared out; of few, each is: a large object is worth several processes.
    shared_out = options.jobs or len(files) >= FILES_WORTH_FORKING
    inner = 1 if shared_out and len(files) > 1 else options.jobs

    def work(number: int) -> "Answer":
        result = record(files[number], options, inner)
        return result.out, result.err, result.counts, result.failed

    answers: Iterable[Answer | None] = map(work, range(len(files)))
    if shared_out:
        from . import jobs

        answers = jobs.run(len(files), options.jobs or jobs.available(), work)
    totals: tuple[int, ...] = (0, 0, 0)
    good = readable = True
    for file, answer in zip(files, answers, strict=True):
        out, err, counts, failed = answer or _died(file)
        readable = readable and say(1, out)
        good &= say(2, err) and not failed
        if not failed:
            totals = tuple(map(sum, zip(totals, counts, strict=True)))
    if options.stats and len(files) > 1:
        readable = readable and say(1, [f"total: {describe(totals)}"])
    return 0 if good and readable else 1


def _died(file: str) -> "Answer":
    return [], [f"{file}: the process that recorded it died", f"{file}: failed"], (), True


def _inform(what: str, command: "Command") -> list[str]:
    """Answer a question about the program."""
    folder = __file__.rpartition("/")[0]
    if what == "version":
        return [f"recordmcount {__version__}"]
    if what == "print_dir":
        return [f"{folder}/glue"]
    if what == "print_command":
        from shlex import join

        # A virtual environment's python starts more slowly than the one behind it.
        python: str = getattr(sys, "_base_executable", sys.executable)
        return [join([python, "-I", "-S", f"{folder}/__main__.py"])]
    from .help import help_of

    return help_of(command)
