"""Intel assembly to machine code: keystone assembles it, and capstone must read the same back.

keystone is wrong about some instructions, so nothing of it is used unproven. What names
thread-local data (`fs:`) it spells in ways that mean something else; that comes from x86. It counts
`[rip + NAME]` from a place that is not always the instruction's end (by what is in its memory, once
code of another mode was assembled), so it is given the distance.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from recordmcount.packages import load
from recordmcount.sites.disassembler import decoder
from recordmcount.x86 import EM_X86_64
from recordmcount.x86_code import FS_ACCESSES

keystone = load("keystone")

_LABEL = re.compile(r"(\w+):")
_NAME = re.compile(r"\w+")
_FS = re.compile(r"fs:\[(-?\w+)\]")
_RIP = re.compile(r"\[rip ([+-]) (\w+)\]")
_DATA = re.compile(r"\[rip \+ (\w+)\]")


class Code:
    """Machine code, and the run-time addresses of its labels."""

    def __init__(self, content: bytes, labels: Mapping[str, int]) -> None:
        self.content = content
        self.labels = labels


def assemble(source: str, address: int, data: Mapping[str, int]) -> Code:
    """Assemble what is to stand at a run-time address; `data` are addresses elsewhere, by name.

    A line has a label or an instruction, as capstone spells it, and maybe a comment behind `;`.
    Raises ValueError if what comes out does not read as what went in.
    """
    lines = [line for each in source.splitlines() if (line := each.partition(";")[0].strip())]
    # What names data is as long for any distance.
    draft = _assembled(lines, address, dict.fromkeys(data, 0), [0] * len(lines))
    content = _assembled(lines, address, data, [end for _, end, _ in _decoded(draft, address)])
    labels = dict(_labels(lines, content, address))
    _compare(lines, content, address, {**labels, **data})
    return Code(content, labels)


def _assembled(
    lines: Sequence[str], address: int, data: Mapping[str, int], ends: Iterable[int]
) -> bytes:
    """Assemble the lines, whose instructions have these ends."""
    following = iter(ends)
    text = [
        line if _LABEL.fullmatch(line) else _line(line, data, next(following, address))
        for line in lines
    ]
    engine = keystone.Ks(keystone.KS_ARCH_X86, keystone.KS_MODE_64)
    try:
        found, _ = engine.asm("\n".join(text), address, as_bytes=True)
    except keystone.KsError as error:
        raise ValueError(f"cannot be assembled: {error}") from error
    return bytes(found or b"")


def _line(line: str, data: Mapping[str, int], end: int) -> str:
    """Spell an instruction as keystone understands it."""
    found = _FS.search(line)
    if found is None:
        return _DATA.sub(
            lambda name: f"[rip + {data[name[1]] - end:#x}]" if name[1] in data else name[0], line
        )
    prefix, suffix = FS_ACCESSES[_FS.sub("fs:[]", line)]
    code = prefix + int(found[1], 0).to_bytes(4, "little", signed=True) + suffix
    return ".byte " + ", ".join(map(hex, code))


def _decoded(content: bytes, address: int) -> Iterator[tuple[int, int, str]]:
    """Yield (run-time address, its end, text) of each instruction."""
    for at, size, name, operands in decoder(EM_X86_64).disasm_lite(content, address):
        yield at, at + size, f"{name} {operands}".strip()


def _labels(lines: Sequence[str], content: bytes, address: int) -> Iterator[tuple[str, int]]:
    """Tell where each label is: an instruction's, or the end of all."""
    starts = [start for start, _, _ in _decoded(content, address)]
    starts.append(address + len(content))
    number = 0
    for line in lines:
        if label := _LABEL.fullmatch(line):
            if number >= len(starts):
                break
            yield label[1], starts[number]
        else:
            number += 1


def _compare(lines: Sequence[str], content: bytes, address: int, known: Mapping[str, int]) -> None:
    """Raise ValueError unless the code reads as the lines, to its last byte."""
    wanted = [line for line in lines if not _LABEL.fullmatch(line)]
    decoded = list(_decoded(content, address))
    for line, (_, end, text) in zip(wanted, decoded, strict=False):
        if _with_addresses(line, known) != _absolute(text, end):
            raise ValueError(f"`{line}` was assembled as `{text}`")
    ends = [address, *(end for _, end, _ in decoded)]
    starts = [start for start, _, _ in decoded]
    if len(wanted) != len(decoded) or ends[:-1] != starts or ends[-1] != address + len(content):
        raise ValueError(f"{len(wanted)} instructions were assembled as {len(decoded)}")


def _with_addresses(line: str, known: Mapping[str, int]) -> str:
    """Put addresses in place of names, and offsets of thread-local data as capstone tells them."""
    line = _FS.sub(lambda found: f"fs:[{_unsigned(int(found[1], 0)):#x}]", line)
    line = line.replace("[rip + ", "[")
    return _NAME.sub(lambda found: f"{known[found[0]]:#x}" if found[0] in known else found[0], line)


def _absolute(text: str, end: int) -> str:
    """Put addresses in place of distances from an instruction's end."""
    return _RIP.sub(
        lambda found: f"[{end + int(found[1] + found[2], 0):#x}]", text
    )  # fmt: skip


def _unsigned(value: int) -> int:
    return value & (1 << 64) - 1
