"""Users of the sites, the kernel's ftrace_ops: which functions each traces, and what it has called.

A pattern is a glob (a str) or a regular expression (compiled); either must match a whole name.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import translate
from functools import lru_cache

Pattern = str | re.Pattern[str]


@dataclass(frozen=True, slots=True)
class Ops:
    """One tracer.

    It traces each function that matches one of `filter`, or every function if that is empty, but
    none that matches one of `notrace`. `target` is the run-time address that its sites call; None
    leaves the call as it was linked.
    """

    name: str
    target: int | None = None
    filter: tuple[Pattern, ...] = ()
    notrace: tuple[Pattern, ...] = ()

    def traces(self, names: Sequence[str]) -> bool:
        """Whether it traces the function with these names; one without a name only unfiltered."""
        if self.filter and not _match(self.filter, names):
            return False
        return not _match(self.notrace, names)


def target_of(users: Sequence[Ops], dispatcher: int | None) -> int | None:
    """What a site that `users` trace calls: the one user's target, or for several the dispatcher.

    The dispatcher is what the kernel calls ftrace_ops_list_func: it calls each of them in turn.
    """
    return users[0].target if len(users) == 1 else dispatcher


def _match(patterns: Sequence[Pattern], names: Sequence[str]) -> bool:
    return any(_matcher(pattern)(name) for pattern in patterns for name in names)


@lru_cache
def _matcher(pattern: Pattern) -> Callable[[str], object]:
    regex = re.compile(translate(pattern)) if isinstance(pattern, str) else pattern
    return regex.fullmatch
