"""The functions of a process by the symbols of what it has loaded, for calls that no file tells.

A sled may call any of them. What calls where a function's symbol stands is known for ours later, by
a patcher that does not remember what another one wrote; what calls anything else is a stranger's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from posixpath import basename
from typing import NamedTuple

from patcher.errors import PatchError, TargetError
from patcher.ftrace.mappings import Mapping, Range
from recordmcount.elf import object as elf
from recordmcount.elf import symbols
from recordmcount.elf.object import Object
from recordmcount.elf.segments import LoadView
from recordmcount.errors import Error
from recordmcount.sites.linked_code import LinkedCode

from .loaded_file import LoadedFile, OpenedFile, biases, object_of, stamp
from .maps import is_like
from .memory import ProcessMemory
from .proc import Proc

MOST_TOLD = 3  # of functions with one name


class Goal(NamedTuple):
    """A function that is to be called: its run-time `address`, its `name`, and what has it.

    `check` raises ReadError if that is loaded no more.
    """

    address: int
    name: str
    file: LoadedFile
    check: Callable[[], None]

    def __str__(self) -> str:
        return f"{self.name} of {self.file.path}"


class LiveFunctions:
    """The functions of what is loaded; `files` gives the mappings that may be code, by file.

    `name` names the process in messages, `memory` gives its memory. `close` closes all files; they
    are opened again when they are needed.
    """

    def __init__(
        self,
        proc: Proc,
        name: str,
        memory: Callable[[], ProcessMemory],
        files: Callable[[], list[list[Mapping]]],
    ) -> None:
        self._proc = proc
        self._name = name
        self._memory = memory
        self._files = files
        self._read: dict[tuple[int, ...], tuple[OpenedFile, Object, LinkedCode] | None] = {}

    def close(self) -> None:
        """Close all files."""
        for found in self._read.values():
            if found is not None:
                found[0].close()
        self._read.clear()

    def called(self, address: int) -> str:
        """Name the function that begins at a run-time address; "" if none does."""
        goal = self._at(address)
        return f"{goal}" if goal else ""

    def code(self) -> Iterator[tuple[Range, Callable[[int], str]]]:
        """Yield the run-time addresses of mapped code, and what names a function of it by one.

        That gives "" if none is known there, and holds as long as the module is loaded.
        """
        for file, code in self._loaded():
            for mapping in file.mappings:
                yield mapping.range, partial(_name, file, code)

    def find(self, text: str) -> Goal:
        """Find what a person means: `SYMBOL`, `MODULE:SYMBOL`, or an address as `0x7f12`.

        A symbol is spelled as in the symbol table. Raises TargetError if none is meant, or several.
        """
        if text.startswith("0x"):
            return self._by_address(text)
        module, _, symbol = ("", "", text) if "::" in text else text.rpartition(":")
        loaded = [each for each in self._loaded() if not module or is_like(each[0].path, module)]
        if not loaded:
            raise TargetError(self._name, f"--target {text}: no live module like {module}")
        found: dict[int, Goal] = {}
        others: set[int] = set()
        for file, _ in loaded:
            for _, value, info, shndx in symbols.named(file.obj, [symbol.encode("utf-8")]):
                if shndx and info & 0xF == elf.STT_FUNC and self._is_text(file, value):
                    address = file.address(value)
                    found[address] = self._goal(file, address, symbol)
                elif shndx:
                    others.add(info & 0xF)
        if len(found) == 1 and elf.STT_GNU_IFUNC not in others:
            return next(iter(found.values()))
        raise TargetError(self._name, f"--target {text}: {_why_none(symbol, found, others)}")

    def _by_address(self, text: str) -> Goal:
        try:
            address = int(text, 16)
        except ValueError:
            raise TargetError(self._name, f"--target {text}: no hexadecimal address") from None
        if goal := self._at(address):
            return goal
        why = "no symbol says that a function begins there"
        mapping = next(
            (each for each in self._memory().mappings() if each.range.holds(address)), None
        )
        if mapping is None:
            why = "nothing is mapped there"
        elif reason := mapping.why_not_text(mapping.device, mapping.inode):
            why = f"what is mapped there is {reason}: {mapping}"
        raise TargetError(self._name, f"--target {text}: {why}")

    def _at(self, address: int) -> Goal | None:
        for file, code in self._loaded(address):
            vaddr = address - file.bias & file.highest
            if self._is_text(file, vaddr) and code.begins_function(vaddr):
                return self._goal(file, address, code.function_at(vaddr)[0] or "")
        return None

    def _goal(self, file: LoadedFile, address: int, name: str) -> Goal:
        return Goal(address, name, file, partial(file.refuse_gone, self._memory()))

    def _is_text(self, file: LoadedFile, vaddr: int) -> bool:
        return any(each.range.holds(file.address(vaddr)) for each in file.mappings)

    def _loaded(self, address: int | None = None) -> Iterator[tuple[LoadedFile, LinkedCode]]:
        """Return what is loaded and proven, or only what is mapped at an address, and its code."""
        for mappings in self._files():
            if address is not None and not any(each.range.holds(address) for each in mappings):
                continue
            try:
                found = self._open(mappings)
            except (Error, OSError):  # it is not proven what this is
                continue
            if found is None:
                continue
            file, obj, code = found
            for bias, held in biases(obj.once(LoadView), mappings):
                loaded = LoadedFile(file, obj, bias, held)
                try:
                    loaded.refuse_other(self._memory())
                except PatchError:
                    continue
                yield loaded, code

    def _open(self, mappings: Sequence[Mapping]) -> tuple[OpenedFile, Object, LinkedCode] | None:
        """Open the file behind mappings; None if it has no section headers, or is none for x86."""
        file = OpenedFile(self._proc, mappings[0])
        key = stamp(file.status)
        found = None
        try:
            if key not in self._read:
                obj = object_of(file)
                if obj is not None and obj.headers:
                    found = file, obj, LinkedCode(obj.once(LoadView))
                self._read[key] = found
        finally:
            if found is None:
                file.close()
        return self._read[key]


def _name(file: LoadedFile, code: LinkedCode, address: int) -> str:
    return code.function_at(address - file.bias & file.highest)[0] or ""


def _why_none(symbol: str, found: dict[int, Goal], others: set[int]) -> str:
    """Say why there is not the one function that a symbol means."""
    if elf.STT_GNU_IFUNC in others:
        return f"{symbol} is an IFUNC: only the dynamic linker knows which function it becomes"
    if len(found) > 1:
        places = [f"{goal.address:#x} ({basename(goal.file.path)})" for goal in found.values()]
        where = ", ".join(places[:MOST_TOLD]) + ", ..." * (len(places) > MOST_TOLD)
        what = f"there are {len(found)} functions {symbol}, at {where}"
        return f"{what}: say MODULE:{symbol}, or the address"
    if others:
        return f"{symbol} is no function by its symbol"
    return f"no live module has a function {symbol} by its symbol tables"
