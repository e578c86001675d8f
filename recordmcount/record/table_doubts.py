"""What the table that an object has already lacks, as doubts for a warning."""

from recordmcount.errors import FormatError
from recordmcount.sites import calls
from recordmcount.sites.entries import entries_of

from .plan import Wanted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from recordmcount.asked import Options
    from recordmcount.elf.object import Object


def of_table(obj: "Object", options: "Options") -> "list[str]":
    """Tell of calls that have no entry in the table that an object has already.

    It was joined from objects of which not all were recorded, or recorded by a tool that misses
    some.
    """
    try:
        entries = entries_of(obj).places
        wanted = Wanted(obj, options)
        parts = [
            part for part in calls.find(obj, options.symbols).sections if part.section in wanted
        ]
        number = sum(map(len, parts))
        missing = sum(
            len({*part.starts}.difference(entries.get(part.section, ()))) for part in parts
        )
    except FormatError:
        return []
    advice = "remove that table with objcopy -R __mcount_loc, and record the object again"
    return [f"{missing} of {number} calls have no entry: {advice}"] if missing else []
