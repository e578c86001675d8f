"""What patcher tells, in lines for people."""

from __future__ import annotations

from collections.abc import Iterator

from patcher.files.switch import sites_in_words
from recordmcount.report.text import label, odd_entries
from recordmcount.sites.state import STATES, State

from .document import Examined, Switched


def examined_lines(file: Examined) -> Iterator[str]:
    """How many sites are in each state; then the sites that are listed, by state."""
    states = file["states"]
    counted = ", ".join(f"{number} {state}" for state, number in states.items())
    odd = odd_entries(file["dead_entries"], file["repeated_entries"])
    yield "; ".join([f"{sites_in_words(sum(states.values()))}: {counted}", *odd])
    for state in STATES:
        for site in file["sites"]:
            if site["state"] is state:
                what = f": {site['decoded']}" if state is State.FOREIGN else ""
                yield f"{label(site)}: {state}{what}"


def switched_lines(file: Switched) -> Iterator[str]:
    """Each site that changes: bytes, and in an object the type of its relocation."""
    for site in file["changes"]:
        old, new = (bytes.fromhex(code).hex(" ") for code in (site["old"], site["new"]))
        types = site["relocation"]
        what = f"; {types['old']} -> {types['new']}" if types else ""
        yield f"{label(site)}: {old} -> {new}{what}"
