"""The code of a process, through /proc/PID/mem.

The kernel lets a tracer write there whatever the protection of a mapping is, and a write that goes
over its end goes on in the next one. So what may be written to is decided here: each site must be
wholly inside one private, executable, unwritable mapping of a file.
"""

from __future__ import annotations

import os
import time
from _operator import add, lt
from bisect import bisect_right
from collections.abc import Iterable, Sequence

from patcher.errors import NoProcessError, ReadError, WriteError
from patcher.ftrace.mappings import Mapping, Range
from patcher.modify import Batch
from recordmcount.errors import reason

from . import maps, prepared
from .pages import MOST, PAGE, Pages
from .prepared import Prepared, Read
from .proc import Proc, is_missing

PATIENCE = 0.2  # seconds, for a process that has no mappings
HIGHEST = (1 << 63) - 1  # as far as a file offset goes


class ProcessMemory:
    """A TextMemory over the address space of the process behind `proc`; addresses are run-time.

    A patcher that is killed between two writes leaves each site whole. So a site in two pages,
    which the kernel writes one after the other, is written by way of a `passage`. Raises OSError
    if the memory cannot be opened; `close` closes it.
    """

    def __init__(self, proc: Proc, name: str) -> None:
        self.proc = proc
        self._path = name
        self._mappings: list[Mapping] | None = None
        self._lines: dict[bytes, Mapping] = {}  # of `maps`, when that was read last
        self._prepared: Prepared | None = None
        self._pages: Pages | None = None
        self._is_compared = False  # whether what was prepared stood there since nothing can run
        self._fd = proc.open_by_thread("mem", os.O_RDWR)

    @property
    def path(self) -> str:
        """Name of the process in messages."""
        return self._path

    def close(self) -> None:
        """Close it."""
        os.close(self._fd)

    def hold(self) -> None:
        """Say that nothing of the process can run: its mappings stay as they are until `let_go`.

        The memory is opened again, as the process may have executed another program. Raises
        NoProcessError if it has been killed.
        """
        try:
            fd = self.proc.open_by_thread("mem", os.O_RDWR)
        except ProcessLookupError as error:
            raise NoProcessError(self._path, "has ended") from error
        os.close(self._fd)
        self._fd = fd
        self._mappings = self._read_mappings()
        self._is_compared = False

    def look_again(self) -> None:
        """Say that the mappings were changed, by ourselves, though nothing of the process runs."""
        if self._mappings is not None:
            self._mappings = self._read_mappings()

    def let_go(self) -> None:
        """Say that the process runs again."""
        self._mappings = None
        self._is_compared = False

    def mappings(self) -> Sequence[Mapping]:
        """Return the present mappings. Raises ReadError, or NoProcessError if it has ended."""
        return self._read_mappings() if self._mappings is None else self._mappings

    def _read_mappings(self) -> list[Mapping]:
        deadline = time.monotonic() + PATIENCE
        while not (content := self._maps()):
            if self.proc.has_ended:
                raise NoProcessError(self._path, "has ended")
            if time.monotonic() > deadline:
                raise ReadError(self._path, "has no mappings: it ends, or executes another program")
            time.sleep(0)
        self._lines = maps.parse_lines(content, self._lines)
        return list(self._lines.values())

    def _maps(self) -> bytes:
        """Read the mappings; empty if no thread has any, as for a moment while it ends."""
        try:
            return self.proc.read_by_thread("maps")
        except OSError as error:
            if is_missing(error):
                return b""
            raise ReadError(self._path, f"its mappings: {reason(error)}") from error

    # --- reading ------------------------------------------------------------------------------

    def read(self, address: int, size: int) -> bytes:
        """Read `size` bytes at `address`. Raises ReadError if there are not that many."""
        content = bytearray(size)
        self._read_into(address, memoryview(content))
        return bytes(content)

    def _read_into(self, address: int, content: memoryview) -> None:
        done, size = 0, len(content)
        while done < size and 0 <= address + size <= HIGHEST:
            try:
                count = os.preadv(self._fd, [content[done:]], address + done)
            except OSError:
                break
            if not count:
                break
            done += count
        if done != size:
            raise ReadError(self._path, f"cannot be read: {size} bytes", address=address)

    def _fill(self, pages: Pages, address: int, size: int) -> None:
        """Read into the pages what stands there, by one copy if nothing of the process can run.

        Then it has the memory that is open. Raises ReadError as `read` does.
        """
        if self._mappings is None or not pages.take(self.proc.pid, address, size):
            self._read_into(address, pages.view(size))

    def stands(self, address: int, content: bytes) -> bool:
        """Tell whether these bytes, MOST at most, stand at `address`. Raises ReadError."""
        pages = self._some_pages()
        self._fill(pages, address, len(content))
        return pages.are(content)

    def _some_pages(self) -> Pages:
        """Return pages that hold MOST bytes, the same each time."""
        if self._pages is None:
            self._pages = Pages(MOST)
        return self._pages

    def gather(self, addresses: Sequence[int], sizes: Sequence[int]) -> Sequence[bytes]:
        """Read at each address as `read` does. Raises the ReadError of the first fault.

        Addresses that ascend are read many at once.
        """
        if self._prepared is not None and addresses is self._prepared.batch.addresses:
            standing = self._prepared.standing(self.read, self._fill)
            is_held = self._mappings is not None
            self._is_compared = is_held and standing is self._prepared.batch.old
            if standing is not None:
                return standing
        if not all(map(lt, addresses, addresses[1:])):
            return list(map(self.read, addresses, sizes))
        found: list[bytes] = []
        while len(found) < len(addresses):
            found += self._gather_some(addresses, sizes, len(found))
        return found

    def _gather_some(
        self, addresses: Sequence[int], sizes: Sequence[int], first: int
    ) -> list[bytes]:
        """Read those from number `first` on that are near to each other, by one read."""
        start, last = addresses[first], first + 1
        most = bisect_right(addresses, start + MOST, first)
        while last < most and addresses[last] - addresses[last - 1] <= PAGE:
            last += 1
        size = addresses[last - 1] + sizes[last - 1] - start
        try:
            text = self.read(start, size)
        except ReadError:  # there may be a hole between them
            return [self.read(start, sizes[first])]
        places = [address - start for address in addresses[first:last]]
        ends = map(add, places, sizes[first:last])
        return [text[place:end] for place, end in zip(places, ends, strict=True)]

    def prepare(self, batch: Batch, expected: Read) -> None:
        """Read the text around the batch's sites and make the new one, before anything is halted.

        `expected` gives the bytes that stand where nobody else has changed code. What is compared
        and written later, for the columns of this batch, are whole pages. Raises ReadError.
        """
        text = [each.range for each in self._text()]
        pages = self._some_pages()
        self._prepared = prepared.prepare(batch, text, pages, self._fill, expected)

    # --- writing ------------------------------------------------------------------------------

    def write(self, address: int, data: bytes) -> None:
        """Write `data` at `address`. Raises WriteError if it may not or cannot be as a whole."""
        self.scatter([address], [data])

    def scatter(self, addresses: Sequence[int], data: Sequence[bytes]) -> None:
        """Write at each address, in order. Raises WriteError, before the first if any may not."""
        ready = self._prepared
        if (
            ready is None or not self._is_compared
            or addresses is not ready.batch.addresses or data is not ready.batch.new
        ):  # fmt: skip
            ends = map(add, addresses, map(len, data))
            self._refuse_outside_of_text(map(Range, addresses, ends))
            for address, each in zip(addresses, data, strict=True):
                stands = self.read(address, len(each))
                for at, part in prepared.one_by_one(address, stands, each):
                    self._write_whole(at, part)
            return
        self._is_compared = False  # with what follows
        self._refuse_outside_of_text(ready.ranges())
        for address, each in ready.writes:
            self._write_whole(address, each)

    def write_pieces(self, pieces: Sequence[tuple[int, bytes]]) -> None:
        """Write bytes at each run-time address, in order, none of them in two pages.

        Raises WriteError, before the first if any may not be written.
        """
        self._refuse_outside_of_text(Range(at, at + len(each)) for at, each in pieces)
        for at, each in pieces:
            self._write_whole(at, each)

    def sync(self) -> None:
        """Do nothing: a thread that was stopped goes on by way of the kernel.

        Its processor has executed other code meanwhile, and interrupts that serialise.
        """

    def _text(self) -> list[Mapping]:
        """Return the mappings of text, of whatever file."""
        return [
            each
            for each in self.mappings()
            if each.protection[2] == "x" and not each.why_not_text(each.device, each.inode)
        ]

    def _refuse_outside_of_text(self, ranges: Iterable[Range]) -> None:
        """Raise WriteError if one is not wholly inside one mapping of text."""
        text = [each.range for each in self._text()]
        starts = [each.start for each in text]
        for each in ranges:
            number = bisect_right(starts, each.start) - 1
            if number < 0 or each.end > text[number].end:
                raise WriteError(self._path, self._why_outside(each), address=each.start)

    def _why_outside(self, site: Range) -> str:
        for mapping in self.mappings():
            if mapping.range.overlaps(site):
                why = mapping.why_not_text(mapping.device, mapping.inode)
                return f"is {why}: {mapping}" if why else f"is not inside one mapping: {mapping}"
        return "is not mapped"

    def _write_whole(self, address: int, data: bytes) -> None:
        try:
            written = os.pwrite(self._fd, data, address)
        except OSError as error:
            raise WriteError(self._path, reason(error), address=address) from error
        if written != len(data):
            what = f"only {written} of {len(data)} bytes could be written"
            raise WriteError(self._path, what, address=address)
