"""All text of a process, compared with the files that it is of."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from patcher.process.target import Target
from recordmcount.sites.state import State
from tests.support import command

STATES = (State.CALL, State.NOP)
# By the path of a file: its content with its calls, and its content with all of its sites off.
Texts = Mapping[str, Sequence[bytes]]


def texts(paths: Sequence[Path]) -> Texts:
    """The files as they are, and as `patcher nop` makes them."""
    return {str(path): (path.read_bytes(), _off(path).read_bytes()) for path in paths}


def _off(path: Path) -> Path:
    off = path.with_suffix(".off")
    done = command.call("patcher", "nop", "-q", "-o", off, path)
    assert (done.status, done.stderr) == (0, ""), done
    return off


def check(target: Target, known: Texts) -> dict[str, State]:
    """Halt a process and check all of its text; returns the state of the `known` files' sites.

    Text of these must be one of the two, text of other files as it is there.
    """
    found = {}
    target.machine.stop()
    try:
        for start, end, offset, path in _executable(target):
            size = end - start
            stands = target.machine.memory.read(start, size)
            may_be = known.get(path) or [Path(path).read_bytes()]
            like = [content[offset : offset + size].ljust(size, b"\0") for content in may_be]
            assert stands in like, f"{path} at {start:#x}"
            if path in known:
                found[path] = STATES[like.index(stands)]
    finally:
        target.machine.resume()
    return found


def _executable(target: Target) -> Iterator[tuple[int, int, int, str]]:
    """Start, end, file offset and path of all executable mappings of files."""
    for line in target.proc.read("maps").decode().splitlines():
        where, protection, offset, _, inode, *path = line.split(maxsplit=5)
        if "x" in protection and inode != "0":
            start, end = (int(each, 16) for each in where.split("-"))
            yield start, end, int(offset, 16), path[0]
