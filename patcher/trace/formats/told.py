"""What all formats tell alike: names as they can be shown, and what is not known of a call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from patcher.trace.graph import Ended
from patcher.trace.stacks import TIDS

if TYPE_CHECKING:
    from patcher.trace.events import Names

NO_RETURN = "no return was seen"
NO_ENTRY = "no entry was seen"
EVENTS = 1 << 17  # of how many it is kept how they are written
LOST = "events were lost meanwhile"


def unicode(name: str) -> str:
    r"""Make a name Unicode: bytes of it that are not UTF-8 are told as `\xNN`."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def missing(ended: Ended, *, doubtful: bool) -> dict[str, str]:
    """Tell what is not known of a call that is over, by the name of what is missing."""
    told = {}
    if ended is Ended.ABANDONED:
        told["end"] = NO_RETURN
    if ended is Ended.UNBEGUN:
        told["begin"] = NO_ENTRY
    if doubtful:
        told["lost"] = LOST
    return told


def tid_of(track: int) -> int:
    """Tell whose calls a track has."""
    return track % TIDS


def track_name(names: Names, track: int) -> str:
    """Name a track as its thread is named."""
    name, number = names.thread(tid_of(track)), track // TIDS
    return unicode(f"{name}, stack {number + 1}" if number else name)


def lost_events(cpu: int, count: int) -> str:
    """Tell of lost events in words."""
    return f"{count} event{'s' if count > 1 else ''} lost on CPU {cpu}"
