"""Record an image that is linked already: its sites found, a table planned and read back."""

from recordmcount import mcount_loc
from recordmcount.elf import object as elf
from recordmcount.errors import FormatError

from . import image_plan, read_back
from .plan import Plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from recordmcount.elf.object import Object
    from recordmcount.options import Options

    from .file import Result
    from .image_plan import ImagePlan

KERNEL_TABLE = b"__start_mcount_loc"  # vmlinux: its table is in no section of its own
STRIP_FIRST = (
    "its program headers had to move: strip it before this step, for a strip after it may leave a "
    "program that does not start"
)


def plan(obj: "Object", options: "Options", result: "Result") -> Plan:
    """Plan one image; counts and messages go to `result`. Raises RecordError."""
    if obj.type == elf.ET_REL:
        raise FormatError(obj.path, "an object: record it without --image, and link it then")
    if obj.type not in (elf.ET_EXEC, elf.ET_DYN):
        raise FormatError(obj.path, "neither an executable nor a shared object")
    obj.refuse_without_code()
    if _has_table(obj):
        if not options.quiet:
            result.err.append(f"warning: {mcount_loc.NAME.decode()} already exists: {obj.path}")
        return Plan([], [])
    addresses = find(obj, options)
    if not addresses:
        if not options.quiet:
            result.err.append(f"{obj.path}: warning: no call of mcount was found")
        return Plan([], [])
    planned = image_plan.make_plan(obj, addresses, loaded=options.alloc)
    read_back.check(obj, planned)
    result.counts = (len(addresses), 0, 0)
    if not options.quiet:
        result.err += [f"{obj.path}: warning: {doubt}" for doubt in _doubts(planned)]
    if options.dry_run:
        result.out += _describe(obj.path, planned)
    return planned


def _has_table(obj: "Object") -> bool:
    return bool(obj.named(mcount_loc.NAME)) or any(
        obj.raw_symbol(index)[elf.ST_SHNDX] for index in obj.symbols_named([KERNEL_TABLE])
    )


def find(obj: "Object", options: "Options") -> "Sequence[int]":
    """Return the link-time virtual addresses of the sites that are proven, ascending."""
    raise FormatError(obj.path, "sites of linked images are not found yet")


def _doubts(planned: "ImagePlan") -> "Iterator[str]":
    """Say what does not work, or will not."""
    if planned.headers_moved:
        yield STRIP_FIRST
    if planned.unbound:
        yield (
            f"the linker has made {' and '.join(planned.unbound)} 0 in its code: the program does "
            "not see the table"
        )


def _describe(path: str, planned: "ImagePlan") -> "Iterator[str]":
    for address in planned.addresses:
        yield f"{path}: {address:#x} -> entry"
    where = "not loaded" if planned.vaddr is None else f"loaded at {planned.vaddr:#x}"
    size = len(planned.appended)
    yield f"{path}: table {where}; {len(planned.all_edits)} edits, {size} bytes appended"
