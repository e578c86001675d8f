"""The command line: words -> options and files -> results -> lines and exit status.

The recording path imports nothing that is not needed to record. Verbs import what they like, when
they are called.
"""

import posix
import sys

from . import __version__
from .asked import Options
from .console import put, say  # at once: what fails must still be told
from .elf.open import keep_standard_streams
from .errors import Error, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    # Lines for stdout and for stderr, counts, whether it failed: of one file.
    Answer = tuple[list[str], list[str], tuple[int, ...], bool]

VERBS = ("report", "verify", "diff")
# Below this many files one process is done before others would have started.
FILES_WORTH_FORKING = 16


def main(words: "Sequence[str]") -> int:
    """Run `recordmcount` with these words; returns the exit status."""
    keep_standard_streams()
    if words and words[0] in VERBS:
        return _verb(words[0], words[1:])
    try:
        options = _asked(words)
        if options.information:
            return 0 if _inform(options.information) else 1
        options.check()
        _refuse_verb(options.files[0])
        if len(options.files) > 1 or options.files[0].startswith("@"):
            from .named_files import each_once, expanded  # a build names one object at a time

            options.files = tuple(expanded(options.files))
            if options.files:  # a @LIST may be empty
                options.check()
            options.files = tuple(each_once(options.files))
        return _record_all(options.files, options)
    except UsageError as error:
        from .help import refuse
        from .options import declare

        return refuse(declare()[0], error)
    except Error as error:  # a @LIST
        say(2, [str(error)])
    except MemoryError:  # of one file it is told with that file
        say(2, ["recordmcount: out of memory"])
    return 1


def _asked(words: "Sequence[str]") -> Options:
    """Tell what these words ask for. Raises UsageError."""
    if not any(word.startswith("-") for word in words):
        return Options(files=tuple(words))
    from .grammar import parse  # a build nearly always names a file, and nothing else
    from .options import declare

    command, options = declare()
    return parse(command, words, options)


def _verb(name: str, words: "Sequence[str]") -> int:
    from .verb import run

    module = module_of(name)
    return run(module.declare(), module.execute, words)


def module_of(verb: str) -> "Any":
    """Import what a verb is made of: `declare` and `execute`, as `verb` has them."""
    from importlib import import_module

    return import_module(f"recordmcount.{verb}.command")


def _refuse_verb(word: str) -> None:
    """Raise UsageError where the first file is none, but most likely meant as a verb."""
    if "." in word or "/" in word or word.startswith("@"):  # nearly always
        return
    try:
        posix.stat(word)
    except FileNotFoundError:
        from .nearest import question

        if word in VERBS:
            raise UsageError(f"the verb '{word}' must be the first word") from None
        if meant := question(word, VERBS):
            raise UsageError(f"no verb '{word}'{meant} (a file of that name: ./{word})") from None
    except OSError:
        pass  # whoever opens it will say so


def _record_all(files: "Sequence[str]", options: Options) -> int:
    from .record.file import describe, record

    # Many files are shared out; of few, each is: a large object is worth several processes.
    shared_out = options.jobs or len(files) >= FILES_WORTH_FORKING
    inner = 1 if shared_out and len(files) > 1 else options.jobs

    def work(number: int) -> "Answer":
        result = record(files[number], options, inner)
        return result.out, result.err, result.counts, result.failed

    def again(number: int) -> "Answer":
        out, err, counts, failed = work(number)
        if err and not failed and not any(counts):
            # It has a table, and that may be the work of the process that did not live to tell.
            what = "a process that had it died: what was done is not counted"
            err = [f"{files[number]}: warning: {what}"]
        return out, err, counts, failed

    progress = None
    if posix.isatty(2) and len(files) > 1:
        from .progress import start

        progress = start(len(files), quiet=options.quiet)
    answers: Iterable[Answer] = map(work, range(len(files)))
    if shared_out:
        from . import jobs

        watch = progress.at if progress else None
        answers = jobs.run(len(files), options.jobs or jobs.available(), work, again, watch)
    if progress:
        from .progress import over

        answers = over(answers, progress)
    totals: tuple[int, ...] = (0, 0, 0)
    good = readable = True
    for out, err, counts, failed in answers:
        if out:
            readable = readable and say(1, out)
        if err:
            good &= say(2, err)
        if failed:
            good = False
        else:
            totals = tuple(map(sum, zip(totals, counts, strict=True)))
    if options.stats and len(files) > 1:
        readable = readable and say(1, [f"total: {describe(totals)}"])
    return 0 if good and readable else 1


def _inform(what: str) -> bool:
    """Answer a question about the program; False where nobody can read it."""
    folder = __file__.rpartition("/")[0]
    if what == "version":
        return say(1, [f"recordmcount {__version__}"])
    if what == "print_dir":
        return put(f"{folder}/glue")
    if what == "print_command":
        from shlex import join

        # A virtual environment's python starts more slowly than the one behind it.
        python: str = getattr(sys, "_base_executable", sys.executable)
        return put(join([python, "-I", "-S", f"{folder}/__main__.py"]))
    from .help import help_of
    from .options import declare

    return say(1, help_of(declare()[0]))
