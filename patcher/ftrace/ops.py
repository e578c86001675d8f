"""The kernel's ftrace_ops: which functions a tracer traces, and what their sites call for it.

A pattern is a glob (a str) or a compiled regular expression; either must match a whole name.
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
    none that matches one of `notrace`. `target` is the run-time address that its sites call; with
    None they call what they were linked for.
    """

    name: str
    target: int | None = None
    filter: tuple[Pattern, ...] = ()
    notrace: tuple[Pattern, ...] = ()

    def traces(self, names: Sequence[str]) -> bool:
        """Tell whether a function with these names is traced; one without, only if unfiltered."""
        if self.filter and not _match(self.filter, names):
            return False
        return not _match(self.notrace, names)


def target_of(tracing: Sequence[Ops], dispatcher: int | None) -> int | None:
    """Return the target of the only ops that trace a site, or the dispatcher if there are several.

    The dispatcher, the kernel's ftrace_ops_list_func, calls each of them in turn.
    """
    return tracing[0].target if len(tracing) == 1 else dispatcher


def _match(patterns: Sequence[Pattern], names: Sequence[str]) -> bool:
    return any(_matcher(pattern)(name) for pattern in patterns for name in names)


@lru_cache
def _matcher(pattern: Pattern) -> Callable[[str], object]:
    regex = re.compile(translate(pattern)) if isinstance(pattern, str) else pattern
    return regex.fullmatch
