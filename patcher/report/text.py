"""What patcher tells, in lines for people."""

from __future__ import annotations

from recordmcount.report.names import shown
from recordmcount.sites.state import LIVE_STATES, STATES, State
from recordmcount.sites.words import counted, label_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from recordmcount.report.shapes import Place

    from .shapes import (
        Examined,
        ExaminedModule,
        Loaded,
        Switched,
        SwitchedModule,
    )


def loaded_line(module: Loaded) -> str:
    """Tell where a file is loaded, and which it is."""
    build_id = module["build_id"]
    build = f"build-id {build_id}" if build_id else "no build-id"
    where = f"loaded at {module['load_address']:#x}"
    return f"{where}, {build}, device {module['device']} inode {module['inode']}"


def states_line(
    states: Mapping[str, int] | Mapping[State, int], dead: int = 0, repeated: int = 0
) -> str:
    """Tell how many sites are in each state; that none is traced is not worth a word."""
    rows = [(state, number) for state, number in states.items() if number or state in STATES]
    return counted(rows, dead, repeated)


def when(time: str) -> str:
    """Spell a time of RFC 3339, which is local, for people."""
    return time[:19].replace("T", " ")


def examined_lines(file: Examined | ExaminedModule) -> Iterator[str]:
    """Tell how many sites are in each state; then all of them, by state."""
    yield states_line(file["states"], file["dead_entries"], file["repeated_entries"])
    for state in LIVE_STATES:
        for site in file["sites"]:
            if site["state"] is state:
                why = f"  ({site['reason']})" if site["reason"] else ""
                what = f": {site['decoded']}" if state is State.FOREIGN else why
                yield f"{_label(site)}: {state}{what}"


def switched_lines(file: Switched | SwitchedModule) -> Iterator[str]:
    """Tell of each site that changes its bytes, and in an object the type of its relocation."""
    for site in file["changes"]:
        old, new = (bytes.fromhex(code).hex(" ") for code in (site["old"], site["new"]))
        types = site["relocation"]
        what = f"; {types['old']} -> {types['new']}" if types else ""
        yield f"{_label(site)}: {old} -> {new}{what}"


def _label(place: Place) -> str:
    """Name a place as Site.label does."""
    in_object = "offset" in place
    return label_of(
        shown(place), place["function_offset"] or 0, place["section"],
        place["offset"] if in_object else place["address"], in_object=in_object,
    )  # fmt: skip
