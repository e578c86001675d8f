"""One action for each of many files: what fails is told, and the others are done."""

from __future__ import annotations

from errno import ENOMEM

from patcher.memory.elffile import ElfFile
from patcher.options import PatcherOptions
from recordmcount.console import put, say
from recordmcount.errors import Error
from recordmcount.progress import over, start
from recordmcount.verb import give

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    # Whether a file is as it should be and could be told, and what goes into the document.
    Action = Callable[[PatcherOptions, ElfFile], tuple[bool, Mapping[str, Any] | None]]


def each_file(options: PatcherOptions, action: Action, *, to_read: bool = False) -> int:
    """Open each file and do the action; with --json print the document; returns the exit status.

    `to_read` tells that files are only read: then they may be compressed.
    """
    if options.information == "schema":
        return _print_schema()
    files: list[Mapping[str, Any]] = []
    errors: list[Mapping[str, Any]] = []
    good = True
    count = len(options.files)
    for path in over(options.files, start(count, quiet=options.quiet or options.json)):
        done = _try(options, path, action, to_read=to_read)
        if isinstance(done, Error | OSError):
            from patcher.report.document import failed

            failure = failed(path, done)
            say(2, [failure["message"]])
            errors.append(failure)
            good = False
        else:
            is_good, told = done
            good &= is_good
            files += [told] if told is not None else []
    if options.json:
        from patcher.report.document import run
        from recordmcount.report.json import dump

        document = run(options.verb, files, errors, dry_run=options.dry_run)
        good &= put(dump(document))
    return 0 if good else 1


def _try(
    options: PatcherOptions, path: str, action: Action, *, to_read: bool
) -> tuple[bool, Mapping[str, Any] | None] | Error | OSError:
    """Do the action for one file, or tell why it could not be done."""
    try:
        with ElfFile(path, to_read=to_read) as file:
            return action(options, file)
    except (Error, OSError) as error:
        return error
    except MemoryError:
        return OSError(ENOMEM, "out of memory")
    except ImportError as error:  # what few files need is imported for them
        return Error(path, str(error))


def _print_schema() -> int:
    from patcher.report.document import SCHEMA
    from recordmcount.report.json import dump, schema

    return give(dump(schema(SCHEMA)))
