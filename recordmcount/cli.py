"""The command line: words -> options and files -> results -> lines and exit status.

The recording path imports nothing that is not needed to record; `argparse` alone would take
longer than recording an object. Other verbs import what they like, when they are called.
"""

import gc
import posix
import sys

from . import __version__
from .console import end_when_interrupted, say
from .options import Options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

USAGE = "usage: recordmcount [-w] [options] FILE... | @LIST\n"
HELP = (
    USAGE
    + """\
       recordmcount report [options] FILE...

Record every call to mcount or __fentry__ in relocatable x86 objects (and in the members of
static libraries) in a __mcount_loc table, as the Linux build's recordmcount does.

  FILE               an object (.o, .ko) or an archive (.a); changed in place
  @LIST              a file that names one FILE a line (or separated by NULs); @- is stdin
  -w                 name the sections whose calls are not recorded but turned into NOPs
  -o, --output OUT   write the result to OUT and leave the one FILE alone
  -n, --dry-run      change nothing, print what would be done
  --stats            print counts for each file, and in all
  -j, --jobs N       processes for many files, or for a large one (default: one a processor)
  --symbol NAME      a further function to look for, as in gcc's -mfentry-name; repeatable
  --all-sections     record every loaded text section, not only those the kernel records
  --gc-sections      one table for each text section, linked to it, so that the linker's
                     --gc-sections drops both or none
  --pic              writable tables, for PIE and shared objects without text relocations
                     (implied by PIC calls, which gcc emits and clang does not)
  -q, --quiet        no warnings
  -V, --version      print the version
  -h, --help         print this help
  --print-dir        print the folder of the Make, Kbuild and CMake files
  --print-command    print the fastest command line to record one object

verb: `recordmcount report --help` tells more.
exit status: 0 done, 1 a file failed, 2 usage
"""
)
SWITCHES = {
    "-w": "warn",
    "-n": "dry_run",
    "--dry-run": "dry_run",
    "--stats": "stats",
    "--all-sections": "all_sections",
    "--gc-sections": "gc_sections",
    "--pic": "pic",
    "-q": "quiet",
    "--quiet": "quiet",
}
WITH_VALUE = {
    "-o": "output",
    "--output": "output",
    "-j": "jobs",
    "--jobs": "jobs",
    "--symbol": "symbols",
}
INFORMATION = ("-V", "--version", "-h", "--help", "--print-dir", "--print-command")
VERBS = ("report",)
# Below this many files one process is done before others would have started.
FILES_WORTH_FORKING = 16


class UsageError(Exception):
    """The words of the command line make no sense; the text says why."""


class ListError(Exception):
    """A @LIST cannot be read; the text says which and why."""


def main(words: "Sequence[str]") -> int:
    """Run `recordmcount` with these words; returns the exit status."""
    end_when_interrupted()
    if words and words[0] in VERBS:
        return _verb(words[0], words[1:])
    try:
        options, files, information = parse(words)
        if information:
            return 0 if say(1, [_inform(information)]) else 1
        if not files:
            raise UsageError("no files")
        files = list(_expand(files))
        if options.output and len(files) > 1:
            raise UsageError("-o is for one file")
    except UsageError as error:
        say(2, [f"recordmcount: {error}", USAGE.rstrip()])
        return 2
    except ListError as error:
        say(2, [str(error)])
        return 1
    return _record_all(files, options)


def _verb(name: str, words: "Sequence[str]") -> int:
    from importlib import import_module

    status: int = import_module(f"recordmcount.{name}.command").main(words)
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:  # nobody reads it
        return 1
    return status


def parse(words: "Sequence[str]") -> tuple[Options, list[str], str]:
    """(options, files, the one word that asks for information or "")."""
    values: dict[str, object] = {}
    symbols: list[str] = []
    files: list[str] = []
    rest = iter(words)
    for word in rest:
        if word == "--":
            files += rest
        elif word in INFORMATION:
            return Options(), [], word
        elif word in SWITCHES:
            values[SWITCHES[word]] = True
        elif word == "-" or not word.startswith("-"):
            files.append(word)
        else:
            name, value = _option_value(word, rest)
            if name == "symbols":
                symbols.append(value)
            else:
                values[name] = _number(word, value) if name == "jobs" else value
    options = Options(symbols=tuple(symbols), **values)  # type: ignore[arg-type]
    return options, files, ""


def _option_value(word: str, rest: "Iterator[str]") -> tuple[str, str]:
    """The option's name and value, for `--name VALUE`, `--name=VALUE`, `-n VALUE`, `-nVALUE`."""
    if word.startswith("--"):
        option, equals, value = word.partition("=")
    else:
        option, value = word[:2], word[2:]
        equals = value
    if option not in WITH_VALUE:
        raise UsageError(f"unknown option '{word}'")
    if not equals:
        value = next(rest, "")
    if not value:
        raise UsageError(f"option '{option}' wants a value")
    return WITH_VALUE[option], value


def _number(word: str, value: str) -> int:
    if not value.isdecimal() or not 1 <= int(value) <= 4096:
        raise UsageError(f"option '{word}' wants a number of processes, not '{value}'")
    return int(value)


def _expand(files: "Iterable[str]") -> "Iterator[str]":
    """The files, with each @LIST replaced by what it lists."""
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
    from . import jobs
    from .record.file import describe, record

    gc.disable()  # no cycles are made, and looking for them would take a tenth of the time

    def work(number: int) -> "tuple[list[str], list[str], tuple[int, ...], bool]":
        result = record(files[number], options, inner)
        return result.out, result.err, result.counts, result.failed

    # Many files are shared out; of few, each is: a large object is worth several processes.
    processes = options.jobs or jobs.available()
    outer = processes if options.jobs or len(files) >= FILES_WORTH_FORKING else 1
    inner = processes if outer == 1 or len(files) == 1 else 1
    totals: tuple[int, ...] = (0, 0, 0)
    good = readable = True
    for file, answer in zip(files, jobs.run(len(files), outer, work), strict=True):
        out, err, counts, failed = answer or _died(file)
        readable = readable and say(1, out)
        good &= say(2, err) and not failed
        if not failed:
            totals = tuple(map(sum, zip(totals, counts, strict=True)))
    if options.stats and len(files) > 1:
        readable = readable and say(1, [f"total: {describe(totals)}"])
    return 0 if good and readable else 1


def _died(file: str) -> "tuple[list[str], list[str], tuple[int, ...], bool]":
    return [], [f"{file}: the process that recorded it died", f"{file}: failed"], (), True


def _inform(word: str) -> str:
    if word in ("-V", "--version"):
        return f"recordmcount {__version__}"
    if word in ("-h", "--help"):
        return HELP.rstrip()
    folder = __file__.rpartition("/")[0]
    if word == "--print-dir":
        return f"{folder}/glue"
    from shlex import join

    # A virtual environment's python starts more slowly than the one behind it.
    python: str = getattr(sys, "_base_executable", sys.executable)
    return join([python, "-I", "-S", f"{folder}/__main__.py"])
