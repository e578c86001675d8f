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

PAGE = 4096

Read = Callable[[int, int], bytes]


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
    """The sites of `batch` as they are written: in `runs`, and by number those that are `alone`."""

    def __init__(self, batch: Batch, runs: Sequence[Run], alone: Sequence[int]) -> None:
        self.batch = batch
        self.runs = runs
        self.alone = alone
        self._alone_addresses = [batch.addresses[number] for number in alone]
        self._alone_old = [batch.old[number] for number in alone]
        self.alone_new = [batch.new[number] for number in alone]

    def changes(self) -> Iterator[tuple[int, bytes]]:
        """Return (run-time address, new code) of the sites that are written alone."""
        return zip(self._alone_addresses, self.alone_new, strict=True)

    def ranges(self) -> Iterator[Range]:
        """Return what is written, range by range."""
        for run in self.runs:
            yield Range(run.start, run.start + len(run.written))
        for address, code in self.changes():
            yield Range(address, address + len(code))

    def standing(self, read: Read) -> Sequence[bytes] | None:
        """Return the column of the batch that stands there, old or new; None if neither does."""
        texts = [read(run.start, len(run.before)) for run in self.runs]
        codes = [
            read(address, len(code)) for address, code in zip(
                self._alone_addresses, self._alone_old, strict=True
            )
        ]  # fmt: skip
        if codes == self._alone_old and texts == [run.before for run in self.runs]:
            return self.batch.old
        if codes == self.alone_new and texts == [run.after for run in self.runs]:
            return self.batch.new
        return None


def prepare(batch: Batch, text: Iterable[Range], read: Read, expected: Read) -> Prepared:
    """Make the text of a batch, whose shape has been checked, before and after it.

    `text` are the mappings of text. `read` reads the process, and `expected` gives what stands
    there if nobody else has changed code. Raises what they raise.
    """
    ends = [at + len(old) - 1 for at, old in zip(batch.addresses, batch.old, strict=True)]
    first = [address // PAGE for address in batch.addresses]
    last = [end // PAGE for end in ends]
    pieces = list(_clean(_runs(sorted({*first}), text), read, expected))
    clean = {page for start, before in pieces for page in _pages(start, before)}
    alone = [
        number for number, (page, other) in enumerate(zip(first, last, strict=True))
        if page != other or page not in clean
    ]  # fmt: skip
    apart = {*alone}
    runs = [_run(batch, start, before, apart) for start, before in pieces]
    return Prepared(batch, runs, alone)


def _pages(start: int, content: bytes) -> range:
    return range(start // PAGE, (start + len(content)) // PAGE)


def _runs(pages: Sequence[int], text: Iterable[Range]) -> Iterator[Range]:
    """Join pages that follow each other in one mapping; those in none are left out."""
    for each in text:
        some = pages[bisect_left(pages, each.start // PAGE) : bisect_left(pages, each.end // PAGE)]
        at = 0
        while at < len(some):
            end = at + 1
            while end < len(some) and some[end] == some[end - 1] + 1:
                end += 1
            yield Range(some[at] * PAGE, (some[end - 1] + 1) * PAGE)
            at = end


def _clean(runs: Iterable[Range], read: Read, expected: Read) -> Iterator[tuple[int, bytes]]:
    """Return (run-time address, bytes) of the pages that are as expected, those together that are.

    All others are left out.
    """
    for run in runs:
        size = run.end - run.start
        content, wanted = read(run.start, size), expected(run.start, size)
        if content == wanted:
            yield run.start, content
            continue
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
    here = [number for number in range(first, last) if number not in alone]
    _put(written, start, batch, here)
    after = bytearray(written)
    # One in two pages may begin in the page before.
    for number in sorted(alone.intersection(range(max(0, first - 1), last))):
        _put_part(after, batch.addresses[number] - start, batch.new[number])
    return Run(start, before, bytes(written), bytes(after))


def _put(text: bytearray, start: int, batch: Batch, numbers: Sequence[int]) -> None:
    new = [batch.new[number] for number in numbers]
    places = list(map(sub, [batch.addresses[number] for number in numbers], repeat(start)))
    if len(set(map(len, new))) == 1:
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
