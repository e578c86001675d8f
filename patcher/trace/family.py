"""A traced process and its children: one stream of events, and names for all of it.

A child has the sites of its parent, with the gate closed: it writes no events, and not into the
parent's rings. It is traced from when it is seen, by a session of its own. One that executes
another program is traced no longer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from patcher.closing import Closing
from patcher.errors import NoModuleError, NoProcessError, PatchError
from patcher.process.proc import Proc, is_missing

from .stream import Round
from .traced import Traced

MOST = 1 << 16  # threads of children that have ended, of which names are kept
TRIES = 5  # to trace a child, which may be changing


class Family(Closing):
    """The process that is traced, `first`, and with `follows` its children; the Names of them all.

    `tell` is told what is worth a line. It is closed with all of them but the first.
    """

    def __init__(self, first: Traced, tell: Callable[[str], None], *, follows: bool) -> None:
        self.first = first
        self._follows = follows
        self._tell = tell
        self._members = [first]
        self._tried: Counter[int] = Counter()
        self._past: dict[int, tuple[str, int]] = {}  # TID: name, and PID of its process

    def close(self) -> None:
        """Let go of the children."""
        for each in self._members[1:]:
            each.close()

    @property
    def members(self) -> Sequence[Traced]:
        """All that are traced, the first one first; and what has ended until it is read."""
        return self._members

    def look(self) -> None:
        """Look which threads there are, and trace children that were not seen before."""
        for each in self._members:
            each.names.look()
        self.meet()

    def meet(self) -> None:
        """Trace children that were not seen before."""
        for pid in self._born() if self._follows else ():
            self._tried[pid] += 1
            try:
                self._trace(pid)
            except (NoProcessError, NoModuleError):  # it has ended, or executes another
                self._tried[pid] = TRIES
            except (PatchError, OSError) as error:
                if isinstance(error, OSError) and is_missing(error):
                    self._tried[pid] = TRIES
                elif self._tried[pid] == TRIES:
                    self._tell(f"warning: child process {pid} is not traced: {error}")

    def read(self, *, is_last: bool = False) -> Round:
        """Read what is new of all of them, in order, as Stream.read does."""
        rounds = [each.stream().read(is_last=is_last) for each in self._members]
        for child in [each for each in self._members[1:] if each.target.proc.has_ended]:
            rounds += self._rest(child)
        if len(rounds) == 1:
            return rounds[0]
        lost: Counter[int] = Counter()
        for each in rounds:
            lost.update(each.lost)
        events = sorted(event for each in rounds for event in each.events)
        time, is_all = max(each.time for each in rounds), all(each.is_all for each in rounds)
        return Round(time, events, dict(lost), is_all)

    def end(self) -> str:
        """Bring the sites of all back; tells how that went with the first. Raises PatchError.

        Children that are born later are not traced: nobody would bring them back.
        """
        self._follows = False
        for each in self._members[1:]:
            with suppress(PatchError, OSError):
                each.end()
        return self.first.end()

    # --- names --------------------------------------------------------------------------------

    def function(self, site: int) -> str:
        """Name the function that a site is in."""
        return self._of_site(site).names.function(site)

    def caller(self, address: int) -> str:
        """Name the function that is returned to."""
        return self.first.names.caller(address)

    def is_return(self, site: int) -> bool:
        """Tell whether a site is at a function's end."""
        return self._of_site(site).names.is_return(site)

    def thread(self, tid: int) -> str:
        """Name a thread."""
        if (of := self._of_thread(tid)) is None:
            return self._past[tid][0]
        return of.names.thread(tid)

    def process(self, tid: int) -> int:
        """Return the PID of the process that a thread is of."""
        of = self._of_thread(tid)
        return self._past[tid][1] if of is None else of.target.proc.pid

    def _of_site(self, site: int) -> Traced:
        return next((each for each in self._members if site in each.session.sites), self.first)

    def _of_thread(self, tid: int) -> Traced | None:
        """Find the process that a thread is of; None for one that has ended."""
        found = next((each for each in self._members if each.names.has(tid)), None)
        return found or (None if tid in self._past else self.first)

    # --- children -----------------------------------------------------------------------------

    def _rest(self, child: Traced) -> list[Round]:
        """Read what is left of a child that has ended, and let go of it; its threads keep names."""
        rounds = [child.stream().read()]
        while not rounds[-1].is_all:
            rounds.append(child.stream().read())
        rounds.append(child.stream().read(is_last=True))
        pid = child.target.proc.pid
        self._past.update((tid, (name, pid)) for tid, name in child.names.threads.items())
        for tid in list(self._past)[: max(0, len(self._past) - MOST)]:
            del self._past[tid]
        self._members.remove(child)
        child.close()
        return rounds

    def _trace(self, pid: int) -> None:
        child = self.first.child(pid)
        try:
            child.start()
        except BaseException:
            with suppress(PatchError, OSError):
                child.end()
            child.close()
            raise
        self._members.append(child)

    def _born(self) -> Iterator[int]:
        members = {each.target.proc.pid for each in self._members}
        born = {pid for each in self._members for pid in _children(each.target.proc)}
        for pid in {*self._tried} - born:  # it has ended, and its number may be another's
            del self._tried[pid]
        yield from (pid for pid in sorted(born - members) if self._tried[pid] < TRIES)


def _children(proc: Proc) -> list[int]:
    found: list[int] = []
    with suppress(OSError):
        for tid in proc.threads():
            found += map(int, proc.read(f"task/{tid}/children").split())
    return found
