"""Record one file: open, find, plan, commit. What to say about it is returned, not printed."""

import posix

from recordmcount import commit, mcount_loc
from recordmcount.elf import object as elf
from recordmcount.elf.open import open_file, reader
from recordmcount.errors import Error, FormatError, RecordError, UnrecognizedError, location, reason
from recordmcount.sites import calls

from .plan import Plan, make_plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from recordmcount.asked import Options
    from recordmcount.elf.archive import Change, Member
    from recordmcount.elf.object import Object

# Compilers put the symbols, most relocations and the section headers at the end of an object.
TAIL = 1 << 15
TRACER = "/ftrace.o"  # a kernel's, which does not trace itself
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
        result.err.append(error.compatible)
        why = str(error) if error.advice else ""
    except Error as error:
        why = str(error)
    except OSError as error:
        why = f"{path}: {reason(error)}"
    except MemoryError:
        why = f"{path}: out of memory"
    except ImportError as error:  # a part of this program that is read only when it is needed
        why = f"{path}: {error}"
    result.failed = True
    result.err += [line for line in (why, f"{path}: failed") if line]
    return result


def describe(counts: tuple[int, ...]) -> str:
    """Return the counts of a result in words."""
    recorded, turned_off, references = counts
    return f"{recorded} recorded, {turned_off} made NOPs, {references} other references"


def _record(path: str, options: "Options", result: Result, processes: int) -> list[str]:
    """Record one file; return the files that are to be recorded in its stead (a thin archive's)."""
    read_only = options.dry_run or options.output is not None
    fd, status, writable = _open(path, read_only=read_only)
    try:
        read = _reader(fd, 0, status.st_size)
        if read(0, len(elf.MAGIC)) != elf.MAGIC and (found := _archive(path, read)):
            return _record_archive(path, found, fd, status, options, result)
        obj = elf.Object(path, status.st_size, read)
        if options.image:
            plan = _plan_image(obj, options, result)
        else:
            plan = plan_object(obj, options, result, processes)
        if options.dry_run or not (plan or options.output):
            return []
        is_new = options.image or options.output or plan.edits  # a program may run from an image
        if is_new or not (writable and commit.may_append(fd, status)):
            parts: list[bytes | tuple[int, int]] = [(0, obj.size), plan.appended]
            _replace(path, fd, status, options, parts, plan.all_edits)
        else:
            commit.append(path, fd, obj.size, (obj.header, plan.header), plan.appended)
            _clean(path, fd)
    finally:
        commit.close(fd)
    return []


def _archive(path: str, read: "Callable[[int, int], bytes]") -> str:
    """Tell which archive it is, if any, that does not begin as ELF; refuse what has no code."""
    from recordmcount.elf import filetype  # rare: not imported for an object

    start = read(0, filetype.START)
    found = filetype.of(start)
    if found in filetype.NOT_CODE:
        raise elf.unrecognized(path, start, found, filetype.ADVICE_ON_FILES[found])
    filetype.refuse(path, found, filetype.ADVICE_ON_FILES)
    return found if found in filetype.ARCHIVES else ""


def _record_archive(
    path: str, found: str, fd: int, status: posix.stat_result, options: "Options", result: Result
) -> list[str]:
    from recordmcount.elf import archive, filetype  # rare: not imported for an object

    if options.image:
        raise FormatError(path, "an archive of objects, not a linked image")
    if found == filetype.THIN_ARCHIVE:
        if options.output:
            raise FormatError(path, "a thin archive has no objects in it: -o is not for it")
        return archive.files(path, status.st_size, reader(fd))
    objects: list[str] = []
    budget = elf.Budget(path, status.st_size)

    def change(name: str, member: "Member") -> "Change | None":
        member_path = f"{path}({name})"
        read = _reader(fd, member.offset, member.size)
        filetype.refuse(member_path, filetype.of(read(0, filetype.START)), filetype.ADVICE)
        if read(0, len(elf.MAGIC)) != elf.MAGIC:
            return None
        objects.append(name)
        plan = plan_object(elf.Object(member_path, member.size, read, budget), options, result)
        return (plan.all_edits, plan.appended) if plan else None

    new = archive.rebuild(path, status.st_size, reader(fd), change)
    if not objects and not options.quiet:
        result.err.append(f"{path}: warning: {filetype.NO_OBJECTS}")
    if options.dry_run or not (new or options.output):
        return []
    if new:
        _replace(path, fd, status, options, new.parts, new.edits)
    else:
        _replace(path, fd, status, options, [(0, status.st_size)], [])
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
            commit.close(fd)
    except (RecordError, OSError):
        pass  # it is said below
    # Any archive may hold what is no object.
    if found == filetype.OTHER or found in filetype.NOT_CODE:
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


def _plan_image(obj: "Object", options: "Options", result: Result) -> Plan:
    """Plan one image that is linked already; counts and messages go to `result`."""
    from . import image  # rare

    plan = image.plan(obj, options)
    if not options.quiet:
        result.err += plan.warnings
    result.counts = (len(plan.addresses), 0, 0)
    if options.dry_run:
        result.out += image.describe(obj.path, plan)
    return plan


def plan_object(obj: "Object", options: "Options", result: Result, processes: int = 1) -> Plan:
    """Plan one object; counts and messages go to `result`. Raises RecordError."""
    if obj.type != elf.ET_REL:
        from recordmcount.elf import filetype  # rare

        raise elf.unrecognized(obj.path, obj.header, *filetype.no_object(obj))
    obj.refuse_without_code()
    if obj.named(mcount_loc.NAME):
        if not options.quiet:
            result.err.append(f"warning: {mcount_loc.NAME.decode()} already exists: {obj.path}")
            result.err += _of_table(obj, options)
        return Plan([], [])
    found = calls.find(obj, options.symbols, processes)
    if found.sections and is_tracer(obj, kernel=options.kernel):
        if not options.quiet:
            result.err.append(f"{obj.path}: warning: the kernel's tracer, not recorded")
        return Plan([], [])
    plan = make_plan(obj, found, options)
    if not options.quiet:
        for doubt in _doubts(obj, found, plan):
            result.err += _paid(obj, [f"{obj.path}: warning: {doubt}"])
    recorded = sum(map(len, plan.recorded))
    ignored = sum(map(len, plan.ignored))
    counts = (recorded, ignored, found.references)
    result.counts = tuple(map(sum, zip(result.counts, counts, strict=True)))
    if options.warn:
        for section in dict.fromkeys(part.section for part in plan.ignored):
            name = obj.section(section).name
            result.out.append(f"Section {name} has mcount callers being ignored")
    if options.dry_run:
        result.out += _paid(obj, _describe_plan(obj, plan))
    return plan


def is_tracer(obj: "Object", *, kernel: bool) -> bool:
    """Tell whether an object is a kernel's tracer, which is not recorded; `kernel`: of one."""
    if not obj.path.endswith(TRACER):
        return False
    from .kernel_objects import is_of_kernel  # rare

    return kernel or is_of_kernel(obj)


def _doubts(obj: "Object", found: "calls.Found", plan: Plan) -> "Iterator[str]":
    """Say what may be missing from the table."""
    for section, offset, what in found.unsupported:
        yield f"{location(obj.section(section).name, offset)}{what}, not recorded"
    for name in plan.lost:
        yield (
            f"{name}: its calls become NOPs, as in a kernel; with --all-sections they are "
            "recorded, and --kernel says that it is one"
        )
    has_mcount = found.sections and not found.sections[0].are_returns
    if found.has_local or not has_mcount or obj.has_lto or (plan and obj.is_signed):
        from . import doubts  # of most objects there are no others

        yield from doubts.of_plan(obj, found, plan)


def _of_table(obj: "Object", options: "Options") -> "Iterator[str]":
    """Say what the table that an object has already lacks."""
    from . import table_doubts  # rare

    return (f"{obj.path}: warning: {doubt}" for doubt in table_doubts.of_table(obj, options))


def _describe_plan(obj: "Object", plan: Plan) -> "Iterator[str]":
    for parts, becomes in ((plan.recorded, "entry"), (plan.ignored, "nop")):
        for part in parts:
            name = obj.section(part.section).name
            for site in part:
                where = location(name, site.offset)
                yield f"{obj.path}: {where}{site.form.name} -> {becomes}"
    if plan:
        yield f"{obj.path}: {len(plan.edits)} edits, {len(plan.appended)} bytes appended"


def _paid(obj: "Object", lines: "Iterable[str]") -> "Iterator[str]":
    """Give lines about an object, each after it was paid for."""
    for line in lines:
        obj.budget.tell(line)
        yield line


def _open(path: str, *, read_only: bool) -> tuple[int, posix.stat_result, bool]:
    """Open a file: (its descriptor, its status, whether it is open for writing too, and locked).

    While we waited for the lock another file may have been put at the path. The one that is open
    then may live on by another name, under which nobody asked for it to change.
    """
    while True:
        fd, writable = _open_once(path, read_only=read_only)
        if writable:
            commit.lock(fd)
        try:
            status = posix.fstat(fd)
            if not writable or _same_file(status, posix.stat(path)):
                return fd, status, writable
        except OSError:
            commit.close(fd)
            raise
        commit.close(fd)


def _same_file(one: posix.stat_result, other: posix.stat_result) -> bool:
    return one.st_ino == other.st_ino and one.st_dev == other.st_dev


def _open_once(path: str, *, read_only: bool) -> tuple[int, bool]:
    if not read_only:
        try:
            return open_file(path, writable=True), True
        except OSError as error:
            # A file that may only be read can still be replaced, if its folder allows.
            if error.errno not in (EACCES, EPERM, ETXTBSY, EROFS):
                raise
    return open_file(path), False


def _reader(fd: int, begin: int, size: int) -> "Callable[[int, int], bytes]":
    """Make read(offset, size) for `size` bytes of a file from file offset `begin` on.

    Most of what is asked for is in their tail, which is read once.
    """
    start = max(0, size - TAIL)
    pread = reader(fd)
    tail = pread(begin + start, size - start)

    def read(offset: int, length: int) -> bytes:
        if offset >= start:
            return tail[offset - start : offset - start + length]
        return pread(begin + offset, min(length, size - offset))

    return read


def _clean(path: str, fd: int) -> None:
    """Remove what runs that were killed have left in the folder of a file just written."""
    folder, slash, _ = path.rpartition("/")
    if names := commit.temporaries(folder + slash):
        try:
            from recordmcount import replacement  # rarely needed

            replacement.clean(folder + slash, names, posix.fstat(fd))
        except (OSError, ImportError):
            pass  # the file is recorded all the same


def _replace(
    path: str,
    fd: int,
    before: posix.stat_result,
    options: "Options",
    parts: "Sequence[bytes | tuple[int, int]]",
    edits: "Sequence[tuple[int, bytes]]",
) -> None:
    from recordmcount import replacement  # not needed where a file is appended to

    def fill(target: int) -> None:
        replacement.copy(fd, target, parts, edits)

    if options.output:
        replacement.output(options.output, fd, fill, before)
    else:
        replacement.replace(path, fd, fill, before)
