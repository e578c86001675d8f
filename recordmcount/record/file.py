"""Record one file: open, find, plan, commit. What to say about it is returned, not printed."""

import posix

from recordmcount import commit, mcount_loc
from recordmcount.elf import object as elf
from recordmcount.elf.open import open_file, reader
from recordmcount.errors import FormatError, RecordError, UnrecognizedError, location, reason
from recordmcount.sites import calls

from .plan import Plan, make_plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from recordmcount.elf.object import Object
    from recordmcount.options import Options

# Compilers put the symbols, most relocations and the section headers at the end of an object.
TAIL = 1 << 15
NEVER_RECORDED = "/ftrace.o"  # the tracer does not trace itself
# errno values (Linux); the `errno` module is one import more.
EPERM, EACCES, ETXTBSY, EROFS = 1, 13, 26, 30


class Result:
    """What became of one file: lines for stdout and stderr, counts, and whether it failed.

    `counts` are sites recorded, calls turned into NOPs, and references to mcount that are no call.
    """

    __slots__ = ("out", "err", "counts", "failed")

    def __init__(self) -> None:
        self.out: list[str] = []
        self.err: list[str] = []
        self.counts: tuple[int, ...] = (0, 0, 0)
        self.failed = False


def record(path: str, options: "Options", processes: int = 1) -> Result:
    """Record the object or archive at `path`; every failure ends up in the result.

    A large object is searched by so many `processes`, 0 of them being one a processor.
    """
    result = Result()
    if path.endswith(NEVER_RECORDED) and not options.output:
        return result
    try:
        for file in _record(path, options, result, processes):
            _record_named(path, file, options, result)
        if result.failed:  # what a thin archive names has been told
            result.err.append(f"{path}: failed")
            return result
        if options.stats:
            result.out.append(f"{path}: {describe(result.counts)}")
        return result
    except UnrecognizedError as error:
        why = error.compatible
    except RecordError as error:
        why = str(error)
    except OSError as error:
        why = f"{path}: {reason(error)}"
    except MemoryError:
        why = f"{path}: out of memory"
    except ImportError as error:  # a part of this program that is read only when it is needed
        why = f"{path}: {error}"
    result.failed = True
    result.err += [why, f"{path}: failed"]
    return result


def describe(counts: tuple[int, ...]) -> str:
    """Return the counts of a result in words."""
    recorded, turned_off, references = counts
    return f"{recorded} recorded, {turned_off} made NOPs, {references} other references"


def _record(path: str, options: "Options", result: Result, processes: int) -> list[str]:
    """Record one file; return the files that are to be recorded in its stead (a thin archive's)."""
    fd, writable = _open(path, read_only=options.dry_run or options.output is not None)
    try:
        status = posix.fstat(fd)
        read = _reader(fd, status.st_size)
        if read(0, len(elf.MAGIC)) != elf.MAGIC and (found := _archive(path, read)):
            return _record_archive(path, found, fd, status, options, result)
        obj = elf.Object(path, status.st_size, read)
        plan = plan_object(obj, options, result, processes)
        if options.dry_run or not (plan or options.output):
            return []
        if options.output or plan.edits or not writable or status.st_nlink > 1:
            chunks = commit.patched(obj, plan.all_edits, plan.appended)
            _replace(path, fd, chunks, options, status)
        else:
            commit.append(path, fd, obj.size, (obj.header, plan.header), plan.appended)
    finally:
        _close(fd)
    return []


def _archive(path: str, read: "Callable[[int, int], bytes]") -> str:
    """Tell which archive it is, if any, that does not begin as ELF; refuse what has no code."""
    from recordmcount.elf import filetype  # rare: not imported for an object

    found = filetype.of(read(0, filetype.START))
    filetype.refuse(path, found, filetype.ADVICE)
    return found if found in filetype.ARCHIVES else ""


def _record_archive(
    path: str, found: str, fd: int, status: posix.stat_result, options: "Options", result: Result
) -> list[str]:
    from recordmcount.elf import archive, filetype  # rare: not imported for an object

    content = reader(fd)(0, status.st_size)
    if found == filetype.THIN_ARCHIVE:
        if options.output:
            raise FormatError(path, "a thin archive has no objects in it: -o is not for it")
        return archive.files(path, content)

    def new_member(name: str, member: bytes) -> bytes:
        member_path = f"{path}({name})"
        filetype.refuse(member_path, filetype.of(member), filetype.ADVICE)
        if not member.startswith(elf.MAGIC):
            return member
        obj = elf.Object(member_path, len(member), lambda at, size: member[at : at + size])
        plan = plan_object(obj, options, result)
        return b"".join(commit.patched(obj, plan.all_edits, plan.appended)) if plan else member

    new = archive.rebuild(path, content, new_member)
    if not options.dry_run and (options.output or new != content):
        _replace(path, fd, [new], options, status)
    return []


def _record_named(path: str, file: str, options: "Options", result: Result) -> None:
    """Record a file that the thin archive `path` names, for itself; the archive stays as it is.

    Its symbol index stays true, for no global symbol comes or goes.
    """
    from recordmcount.elf import filetype

    found = filetype.X86_ELF
    try:
        fd = open_file(file)
        try:
            found = filetype.of(reader(fd)(0, filetype.START))
        finally:
            _close(fd)
    except (RecordError, OSError):
        pass  # it is said below
    if found == filetype.OTHER:  # as any archive may hold what is no object
        return
    member = Result()
    if found in filetype.ARCHIVES:  # it may be the same one again
        member.failed = True
        member.err = [f"{file}: {found} in {path}: record it by itself", f"{file}: failed"]
    else:
        member = record(file, options)
    result.out += member.out
    result.err += member.err
    result.failed = result.failed or member.failed
    result.counts = tuple(map(sum, zip(result.counts, member.counts, strict=True)))


def plan_object(obj: "Object", options: "Options", result: Result, processes: int = 1) -> Plan:
    """Plan one object; counts and messages go to `result`. Raises RecordError."""
    if obj.type != elf.ET_REL:
        compatible = f"unrecognized ET_REL file {obj.path}"
        raise UnrecognizedError(obj.path, "not a relocatable object", compatible)
    if obj.path.endswith(NEVER_RECORDED):
        return Plan([], [])
    if obj.named(mcount_loc.NAME):
        if not options.quiet:
            result.err.append(f"warning: {mcount_loc.NAME.decode()} already exists: {obj.path}")
        return Plan([], [])
    obj.refuse_slim_lto()
    found = calls.find(obj, options.symbols, processes)
    if not options.quiet:
        for section, offset, what in found.unsupported:
            where = location(obj.section(section).name, offset)
            result.err.append(f"{obj.path}: warning: {where}{what}, not recorded")
    plan = make_plan(obj, found, options)
    recorded = sum(map(len, plan.recorded))
    ignored = sum(map(len, plan.ignored))
    counts = (recorded, ignored, found.references)
    result.counts = tuple(map(sum, zip(result.counts, counts, strict=True)))
    if options.warn:
        for section in dict.fromkeys(part.section for part in plan.ignored):
            name = obj.section(section).name
            result.out.append(f"Section {name} has mcount callers being ignored")
    if options.dry_run:
        result.out += _describe_plan(obj, plan)
    return plan


def _describe_plan(obj: "Object", plan: Plan) -> "list[str]":
    lines = []
    for parts, becomes in ((plan.recorded, "entry"), (plan.ignored, "nop")):
        for part in parts:
            name = obj.section(part.section).name
            lines += [
                f"{obj.path}: {location(name, s.offset)}{s.form.name} -> {becomes}" for s in part
            ]
    if plan:
        lines.append(f"{obj.path}: {len(plan.edits)} edits, {len(plan.appended)} bytes appended")
    return lines


def _open(path: str, *, read_only: bool) -> tuple[int, bool]:
    """Open a file: (its descriptor, whether that is for writing too, and locked).

    While we waited for the lock another file may have been put at the path. The one that is open
    then may live on by another name, under which nobody asked for it to change.
    """
    while True:
        fd, writable = _open_once(path, read_only=read_only)
        if not writable:
            return fd, False
        commit.lock(fd)
        try:
            is_there = _same_file(posix.fstat(fd), posix.stat(path))
        except OSError:
            _close(fd)
            raise
        if is_there:
            return fd, True
        _close(fd)


def _same_file(one: posix.stat_result, other: posix.stat_result) -> bool:
    return (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)


def _open_once(path: str, *, read_only: bool) -> tuple[int, bool]:
    if not read_only:
        try:
            return open_file(path, writable=True), True
        except OSError as error:
            # A file that may only be read can still be replaced, if its folder allows.
            if error.errno not in (EACCES, EPERM, ETXTBSY, EROFS):
                raise
    return open_file(path), False


def _reader(fd: int, size: int) -> "Callable[[int, int], bytes]":
    """Make read(offset, size) for a file; most of that is in its tail, which is read once."""
    start = max(0, size - TAIL)
    pread = reader(fd)
    tail = pread(start, size - start)

    def read(offset: int, length: int) -> bytes:
        if offset >= start:
            return tail[offset - start : offset - start + length]
        return pread(offset, length)

    return read


def _close(fd: int) -> None:
    try:
        posix.close(fd)
    except OSError:
        pass  # what was written has been flushed, and its errors have been told


def _replace(
    path: str,
    fd: int,
    chunks: "Iterable[bytes]",
    options: "Options",
    before: posix.stat_result,
) -> None:
    def fill(target: int) -> None:
        commit.write_each(target, chunks)

    if options.output:
        commit.replace(options.output, fd, fill, owner=False)
    else:
        commit.replace(path, fd, fill, before=before)
