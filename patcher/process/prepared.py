"""The text of a process before and after a batch, made while it runs, so that its halt is short.

Runs of pages are compared and written as a whole. That writes bytes between the sites as well, just
as they were compared. So only pages are written so that hold nothing but what their file has and
known sites: where somebody else has changed code, as a uprobe or a debugger, a site is read and
written alone, and so is a site that lies in two pages.
"""

from __future__ import annotations

from _operator import sub
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import repeat
from struct import Struct

from patcher.ftrace.mappings import Range
from patcher.modify import Batch
from recordmcount.columns import pick
from recordmcount.x86_passage import passage

from .pages import MOST, PAGE, Pages

Read = Callable[[int, int], bytes]
Fill = Callable[[Pages, int, int], None]  # reads so many bytes at a run-time address into pages


class Run:
    """Pages from run-time address `start` on: their bytes before and after.

    `written` is what is written: the sites that lie in two pages are as before in it.
    """

    __slots__ = ("start", "before", "written", "after")

    def __init__(self, start: int, before: bytes, written: bytes, after: bytes) -> None:
        self.start = start
        self.before = before
        self.written = written
        self.after = after


class Prepared:
    """The sites of `batch` as they are written: in `runs`, and by number those that are `alone`.

    Of those, the `outside` ones are in no run as a whole. `writes` are (run-time address, bytes) to
    be written in this order. What stands there is read into `pages`.
    """

    def __init__(
        self,
        batch: Batch,
        runs: Sequence[Run],
        alone: Sequence[int],
        outside: Sequence[int],
        pages: Pages,
    ) -> None:
        self.batch = batch
        self.runs = runs
        self._alone = alone
        self._outside = [batch.addresses[number] for number in outside]
        self._outside_old = [batch.old[number] for number in outside]
        self._outside_new = [batch.new[number] for number in outside]
        self._pages = pages
        self.writes = [(run.start, run.written) for run in runs]
        for number in alone:
            self.writes += one_by_one(batch.addresses[number], batch.old[number], batch.new[number])

    def ranges(self) -> Iterator[Range]:
        """Return the runs, and the sites that are alone: all that is written."""
        for run in self.runs:
            yield Range(run.start, run.start + len(run.written))
        for number in self._alone:
            address = self.batch.addresses[number]
            yield Range(address, address + len(self.batch.new[number]))

    def standing(self, read: Read, fill: Fill) -> Sequence[bytes] | None:
        """Return the column of the batch that stands there, old or new; None if neither does."""
        sizes = map(len, self._outside_old)
        codes = list(map(read, self._outside, sizes))
        is_old, is_new = codes == self._outside_old, codes == self._outside_new
        for run in self.runs:
            fill(self._pages, run.start, len(run.before))
            is_old = is_old and self._pages.are(run.before)
            is_new = is_new and self._pages.are(run.after)
            if not is_old and not is_new:
                return None
        return self.batch.old if is_old else self.batch.new


def one_by_one(address: int, old: bytes, new: bytes) -> Iterator[tuple[int, bytes]]:
    """Return (run-time address, bytes) to be written one after the other so that `old` gets `new`.

    None of them is in two pages, and the site is harmless between any two.
    """
    split = -address % PAGE
    if not 0 < split < len(new):
        yield address, new
        return
    for code in passage(old, new, split):
        if code[:split] != old[:split]:
            yield address, code[:split]
        else:
            yield address + split, code[split:]
        old = code


def prepare(
    batch: Batch, text: Iterable[Range], pages: Pages, fill: Fill, expected: Read
) -> Prepared:
    """Make the text of a batch, whose shape has been checked, before and after it.

    `text` are the mappings of text. `fill` reads the process into `pages`, which hold MOST bytes,
    and `expected` gives what stands there if nobody else has changed code. Raises what they raise.
    """
    numbers = _by_page(batch.addresses)
    pieces = list(_clean(_runs(list(numbers), text), pages, fill, expected))
    clean = {page for start, before in pieces for page in _pages(start, before)}
    alone: list[int] = []
    for page, some in numbers.items():
        if page not in clean:
            alone += some
        elif _last_page(batch, some[-1]) != page:
            alone.append(some[-1])
    outside = [
        number
        for number in alone
        if not clean.issuperset((batch.addresses[number] // PAGE, _last_page(batch, number)))
    ]
    apart = {*alone}
    runs = [_run(batch, start, before, apart) for start, before in pieces]
    return Prepared(batch, runs, alone, outside, pages)


def _by_page(addresses: Sequence[int]) -> dict[int, range]:
    """Return the numbers of the addresses, which ascend, by their pages."""
    found = {}
    first = 0
    while first < len(addresses):
        page = addresses[first] // PAGE
        last = bisect_left(addresses, (page + 1) * PAGE, first)
        found[page] = range(first, last)
        first = last
    return found


def _last_page(batch: Batch, number: int) -> int:
    return (batch.addresses[number] + len(batch.old[number]) - 1) // PAGE


def _pages(start: int, content: bytes) -> range:
    return range(start // PAGE, (start + len(content)) // PAGE)


def _runs(pages: Sequence[int], text: Iterable[Range]) -> Iterator[Range]:
    """Join pages that follow each other in one mapping, up to MOST bytes; others are left out."""
    for each in text:
        some = pages[bisect_left(pages, each.start // PAGE) : bisect_left(pages, each.end // PAGE)]
        at = 0
        while at < len(some):
            end, most = at + 1, min(len(some), at + MOST // PAGE)
            while end < most and some[end] == some[end - 1] + 1:
                end += 1
            yield Range(some[at] * PAGE, (some[end - 1] + 1) * PAGE)
            at = end


def _clean(
    runs: Iterable[Range], pages: Pages, fill: Fill, expected: Read
) -> Iterator[tuple[int, bytes]]:
    """Return (run-time address, bytes) of the pages that are as expected, those together that are.

    All others are left out.
    """
    for run in runs:
        size = run.end - run.start
        fill(pages, run.start, size)
        wanted = expected(run.start, size)
        if len(wanted) == size and pages.are(wanted):
            yield run.start, wanted
            continue
        content = bytes(pages.view(size))
        at = 0
        for page in range(0, size + PAGE, PAGE):
            if page == size or content[page : page + PAGE] != wanted[page : page + PAGE]:
                if at < page:
                    yield run.start + at, content[at:page]
                at = page + PAGE


def _run(batch: Batch, start: int, before: bytes, alone: set[int]) -> Run:
    """Make the changes of a run in its bytes."""
    first = bisect_left(batch.addresses, start)
    last = bisect_left(batch.addresses, start + len(before))
    written = bytearray(before)
    here: Sequence[int] = range(first, last)
    if not alone.isdisjoint(here):
        here = [number for number in here if number not in alone]
    _put(written, start, batch, here)
    now = bytes(written)
    # One in two pages may begin in the page before.
    parts = sorted(alone.intersection(range(max(0, first - 1), last)))
    for number in parts:
        _put_part(written, batch.addresses[number] - start, batch.new[number])
    return Run(start, before, now, bytes(written) if parts else now)


def _put(text: bytearray, start: int, batch: Batch, numbers: Sequence[int]) -> None:
    new = pick(batch.new, numbers)
    places = list(map(sub, pick(batch.addresses, numbers), repeat(start)))
    if new and (new.count(new[0]) == len(new) or len(set(map(len, new))) == 1):
        put = Struct(f"{len(new[0])}s").pack_into
        any(map(put, repeat(text), places, new))  # to run through; `put` returns None
    else:
        for place, each in zip(places, new, strict=True):
            text[place : place + len(each)] = each


def _put_part(text: bytearray, place: int, code: bytes) -> None:
    """Put as much of `code` into the text as is in it; `place` may be before its first byte."""
    for at, byte in enumerate(code, place):
        if 0 <= at < len(text):
            text[at] = byte
