"""Two engines change code, `modify` and `files.rewrite`, and refuse alike; there is no third."""

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from patcher.errors import CompareError, PatchError
from patcher.files.rewrite import rewrite
from patcher.memory.elffile import ElfFile
from patcher.modify import Batch, Change, modify_batch
from tests.support import images
from tests.support.command import ROOT

Engine = Callable[[ElfFile, Batch], None]


def in_memory(file: ElfFile, batch: Batch) -> None:
    modify_batch(file, batch)
    file.commit()


ENGINES = {"modify": in_memory, "rewrite": rewrite}


# --- both refuse alike ----------------------------------------------------------------------------


@pytest.fixture
def program(tmp_path: Path) -> Path:
    return images.build(tmp_path, flags=["-mfentry", "-fno-pic"]).image


def site(program: Path, name: str, new: bytes, old: bytes | None = None) -> Change:
    """A change of the first five bytes of a function."""
    at = images.symbol(program, name)
    with ElfFile(str(program)) as file:
        stands = file.read(at, 5)
    return Change(at, stands if old is None else old, new, name)


NOP = bytes.fromhex("0f1f440000")
DEVIATIONS: dict[str, Callable[[Path], list[Change]]] = {
    "other bytes stand there": lambda program: [
        site(program, "odd", NOP), site(program, "even", NOP, old=NOP),
    ],
    "one change is longer than what it replaces": lambda program: [
        site(program, "odd", NOP), site(program, "even", NOP + b"\x90"),
    ],
    "two changes overlap": lambda program: [
        site(program, "odd", NOP),
        Change(images.symbol(program, "odd") + 3, bytes(2), bytes(2), "odd+0x3"),
    ],
    "one change is outside of the code": lambda program: [
        site(program, "odd", NOP), Change(8, bytes(5), NOP, "nowhere"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("deviation", DEVIATIONS)
def test_one_change_that_deviates_and_no_engine_writes_any(deviation: str, program: Path) -> None:
    before = program.read_bytes()
    batch = Batch.of(DEVIATIONS[deviation](program))
    errors = []
    for engine in ENGINES.values():
        with ElfFile(str(program)) as file, pytest.raises(PatchError) as caught:
            engine(file, batch)
        errors.append((type(caught.value), str(caught.value)))
        assert program.read_bytes() == before
    assert errors[0] == errors[1]


@pytest.mark.parametrize("engine", ENGINES)
def test_what_verifies_is_written_by_either_engine_alike(engine: str, program: Path) -> None:
    change = site(program, "odd", NOP)
    expected = bytearray(program.read_bytes())
    offset, address, _ = images.section(program, ".text")
    at = change.address - address + offset
    expected[at : at + 5] = NOP
    with ElfFile(str(program)) as file:
        ENGINES[engine](file, Batch.of([change]))
    assert program.read_bytes() == expected


def test_both_engines_begin_with_the_one_check(
    program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str, batch: Batch) -> Any:
        raise CompareError(path, "the one check")

    for module in ("patcher.modify", "patcher.files.rewrite"):
        monkeypatch.setattr(f"{module}.check_shape", refuse)
    for engine in ENGINES.values():
        with ElfFile(str(program)) as file, pytest.raises(CompareError, match="the one check"):
            engine(file, Batch.of([site(program, "odd", NOP)]))


# --- there is no third ----------------------------------------------------------------------------

# What can put bytes anywhere, by the name it is called by.
WRITERS = {
    "write", "scatter", "write_pieces", "write_at", "write_all", "copy", "pwrite", "pwritev",
    "writev", "pack_into", "memmove", "memset", "mmap", "process_vm_writev", "ptrace",
}  # fmt: skip
# Who may call which. Memories carry out what the engines ask for; the trial runs instructions in a
# child process that dies of them, in a page of its own. A trace writes to the regions that it has
# mapped, and to no other memory of a process; rings are memory of ours, and outputs are files.
ALLOWED = {
    "modify.py": {"scatter"},
    "protocols/steps.py": {"scatter"},
    "files/rewrite.py": {"write_at", "pack_into"},
    "memory/buffer.py": {"write"},
    "memory/elffile.py": {"write", "copy"},
    "cpu/trial.py": {"write", "pack_into", "mmap"},
    "process/guarded_memory.py": {"scatter", "write_pieces"},
    "process/loaded_file.py": {"mmap"},  # a private mapping, to see how the kernel numbers it
    "process/memory.py": {"pwrite", "scatter"},
    "process/pages.py": {"mmap"},  # memory of ours, to read into
    "process/prepared.py": {"pack_into"},
    "process/ptrace.py": {"ptrace"},
    "trace/code.py": {"pack_into"},  # bytes of ours
    "trace/command.py": {"write"},  # a pipe
    "trace/own_memory.py": {"pwrite"},
    "trace/rings.py": {"mmap"},
    "trace/views.py": {"write"},
    "trace/counts.py": {"write"},
    "trace/clock.py": {"mmap"},  # a page of ours, with the code that reads the counter
}


def called(source: str) -> Iterator[str]:
    """The names of all methods and imports of a module: it can call, or hand on, no others."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names)


def test_nothing_else_in_the_package_can_write() -> None:
    package = ROOT / "patcher"
    writing = {
        str(path.relative_to(package)): set(called(path.read_text())) & WRITERS
        for path in package.rglob("*.py")
    }
    assert {name: words for name, words in writing.items() if words} == ALLOWED


@pytest.mark.parametrize("third", [
    "memory.write(0x1000, b'')", "posix.pwrite(fd, data, at)", "put = Struct('5s').pack_into",
    "from ctypes import memmove",
])  # fmt: skip
def test_a_third_engine_would_be_seen(third: str) -> None:
    assert set(called(third)) & WRITERS
