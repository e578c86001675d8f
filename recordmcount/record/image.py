"""Record an image that is linked already: its sites found, a table planned and read back."""

from recordmcount import mcount_loc
from recordmcount.elf import object as elf
from recordmcount.errors import FormatError
from recordmcount.sites import evidence, scan
from recordmcount.sites.words import sites_in_words

from . import read_back
from .image_plan import ImagePlan, make_plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from recordmcount.asked import Options
    from recordmcount.elf.object import Object

KERNEL_TABLE = b"__start_mcount_loc"  # vmlinux: its table is in no section of its own
STRIP_FIRST = (
    "its program headers had to move: strip it before this step, for a strip after it may leave a "
    "program that does not start"
)


def plan(obj: "Object", options: "Options") -> ImagePlan:
    """Plan one image, and read the plan back; false where there is nothing to do.

    Raises RecordError.
    """
    if obj.type == elf.ET_REL:
        raise FormatError(obj.path, "an object: record it without --image, and link it then")
    if obj.type not in (elf.ET_EXEC, elf.ET_DYN):
        raise FormatError(obj.path, "neither an executable nor a shared object")
    obj.refuse_without_code()
    if _has_table(obj):
        planned = ImagePlan([])
        planned.warnings = [f"warning: {mcount_loc.NAME.decode()} already exists: {obj.path}"]
        return planned
    addresses, doubts = find(obj, options)
    if addresses:
        planned = make_plan(obj, addresses, loaded=options.alloc)
        read_back.check(obj, planned)
        doubts += _doubts(planned)
    else:
        planned = ImagePlan([])
    planned.warnings = [f"{obj.path}: warning: {doubt}" for doubt in doubts]
    return planned


def _has_table(obj: "Object") -> bool:
    return bool(obj.named(mcount_loc.NAME)) or any(
        obj.raw_symbol(index)[elf.ST_SHNDX] for index in obj.symbols_named([KERNEL_TABLE])
    )


def find(obj: "Object", options: "Options") -> "tuple[Sequence[int], list[str]]":
    """Return the link-time virtual addresses of the sites, ascending, and what may be missing.

    Only what is proven gets an entry: no guess is written down.
    """
    sites = scan.read(obj, options.symbols)
    proven = sites.proven
    likely = sum(map(evidence.is_likely, sites.evidence))
    doubts = []
    if sites.no_evidence:
        doubts.append(f"nothing tells which calls are of mcount: {sites.no_evidence}")
    elif not proven and not likely:
        doubts.append("no call of mcount was found")
    if likely:
        doubts.append(f"{sites_in_words(likely)} without entry, for they are only likely")
    return proven, doubts


def _doubts(planned: ImagePlan) -> "Iterator[str]":
    """Say what does not work, or will not."""
    if planned.headers_moved:
        yield STRIP_FIRST
    if planned.unbound:
        yield (
            f"the linker has made {' and '.join(planned.unbound)} 0 in its code: the program does "
            "not see the table"
        )


def describe(path: str, planned: ImagePlan) -> "Iterator[str]":
    """Say what is planned, line by line."""
    if not planned:
        return
    for address in planned.addresses:
        yield f"{path}: {address:#x} -> entry"
    where = "not loaded" if planned.vaddr is None else f"loaded at {planned.vaddr:#x}"
    size = len(planned.appended)
    yield f"{path}: table {where}; {len(planned.all_edits)} edits, {size} bytes appended"
