"""A process to be looked at or switched: what of it can be, proven, and what is refused."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from posixpath import basename
from typing import NamedTuple

from patcher.closing import Closing
from patcher.errors import ModuleError, NoModuleError, NoProcessError, ReadError, StateError
from patcher.ftrace.mappings import Mapping
from recordmcount.elf.object import Object
from recordmcount.nearest import question
from recordmcount.sites import loadable

from . import maps
from .access import name_of, no_access, refuse_other_numbers, refuse_untraceable
from .foreign_code import why_nothing
from .functions import LiveFunctions
from .live_sites import FileSites, LiveSites
from .loaded_file import LoadedFile, OpenedFile, biases, may_be_module, object_of, stamp
from .machine import Halting, ProcessMachine
from .maps import is_like
from .memory import ProcessMemory
from .proc import Proc

ATTEMPTS = 10  # to read modules while none of them comes or goes

TABLES = "a table of sites (__mcount_loc, __patchable_function_entries)"


class _Read(NamedTuple):
    """A file that was read when it looked as `stamp`; one without a table is closed."""

    stamp: tuple[int, ...]
    file: OpenedFile
    obj: Object | None
    sites: FileSites | None

    @property
    def is_as_it_was(self) -> bool:
        """Whether nobody has written to the file since; of one that is closed that is not known.

        To take a name from a file changes the last of its times.
        """
        if self.sites is None:
            return True
        now = os.fstat(self.file.fd)
        parts = -1 if now.st_nlink != self.file.status.st_nlink else len(self.stamp)
        return stamp(now)[:parts] == self.stamp[:parts]

    def close(self) -> None:
        if self.sites is not None:
            self.file.close()


class Target(Closing):
    """Process `pid`, open during its `with`; `names` are further names of mcount.

    `timeout` is how many seconds its threads have to stop. Who traces it already gives the `halt`
    that stops them. What is opened `to_read` may be traced by anybody. Raises PatchError for a
    process that cannot be traced.
    """

    def __init__(
        self,
        pid: int,
        timeout: float,
        names: Sequence[str] = (),
        halt: Callable[[Proc, str, float], Halting] | None = None,
        *,
        to_read: bool = False,
    ) -> None:
        refuse_other_numbers(f"process {pid}")
        try:
            self.proc = Proc(pid)
        except OSError as error:
            raise NoProcessError(f"process {pid}", "there is none") from error
        self.name = name_of(self.proc)
        self._timeout = timeout
        self._names = names
        self._halt = halt
        self._read: dict[tuple[int, int, str], _Read] = {}
        try:
            if halt is None:
                refuse_untraceable(self.proc, self.name, to_read=to_read)
            self.machine = self._machine()
        except BaseException:
            self.proc.close()
            raise
        self.functions = LiveFunctions(self.proc, self.name, self._memory, self.files)

    def _machine(self) -> ProcessMachine:
        halt = self._halt
        if halt is None:
            from .halt import Halt  # slow to import, and not needed by who traces it already

            halt = Halt
        try:
            return ProcessMachine(self.proc, self.name, self._timeout, halt)
        except OSError as error:
            raise no_access(self.proc, self.name, error) from error

    def _memory(self) -> ProcessMemory:
        return self.machine.memory

    def open_again(self) -> None:
        """Open the memory again: what was opened stays that of a program that execs another one.

        Raises PatchError if the process cannot be traced any more.
        """
        machine = self._machine()
        self.machine.close()
        self.machine = machine
        self.functions.close()
        self.name = name_of(self.proc)  # which is that of the program

    def close(self) -> None:
        """Let everything go, and close all files."""
        self.machine.close()
        self.functions.close()
        for each in self._read.values():
            each.close()
        self.proc.close()

    def modules(
        self, globs: Sequence[str] = (), known: Sequence[LiveSites] = ()
    ) -> list[LiveSites]:
        """Read the sites of all loaded files that have a table, by address.

        With `globs`, of those whose path or name is like one of them. What was read before, and is
        as it was, is taken from `known`. Raises NoModuleError if there are none, ModuleError if
        what is mapped is not proven to be the file, StateError if it goes meanwhile, FormatError
        and ReadError.
        """
        found = [each for each in self._loaded(globs, known) if len(each)]
        if not found:
            raise self._none(globs)
        return sorted(found, key=lambda each: each.addresses[0])

    def settled_modules(
        self, globs: Sequence[str] = (), known: Sequence[LiveSites] = ()
    ) -> list[LiveSites]:
        """Read as `modules` does, and again while modules come and go: what is read runs on.

        Then an error, or a foreign site, would be of a module that was replaced by another.
        """
        for _ in range(ATTEMPTS - 1):
            before = self.files()
            try:
                modules = self.modules(globs, known)
            except (NoModuleError, ReadError, ModuleError, StateError):
                if before and self.files() == before:
                    raise
            else:
                if self.files() == before:
                    return modules
            self.open_again()
        return self.modules(globs, known)

    def _loaded(self, globs: Sequence[str], known: Sequence[LiveSites]) -> Iterator[LiveSites]:
        idle = {*globs}
        for mappings in self.files():
            path = _path(mappings[0])
            like = {glob for glob in globs if is_like(path, glob)}
            idle -= like
            if globs and not like:
                continue
            yield from self.sites(mappings, known)
        if idle:
            raise self._none(sorted(idle))

    def files(self) -> list[list[Mapping]]:
        """Group the mappings that may be code of a module by file.

        What is shared, a memfd or a device is none, though a compiler at run time executes it.
        """
        files: dict[tuple[int, int, str], list[Mapping]] = {}
        for each in self.machine.memory.mappings():
            if may_be_module(self.proc, each):
                files.setdefault((each.device, each.inode, each.path), []).append(each)
        return list(files.values())

    def sites(
        self, mappings: Sequence[Mapping], known: Sequence[LiveSites] = ()
    ) -> Iterator[LiveSites]:
        """Read the sites of the file behind mappings, at each load bias; none without a table.

        `known` are as for `modules`. Raises as that does for what is mapped.
        """
        memory = self.machine.memory
        _, file, obj, sites = self._open(mappings[0])
        if obj is None or sites is None:
            return
        loaded = LoadedFile(file, obj, 0, mappings)
        for bias, code in biases(loaded.view, mappings):
            found = LoadedFile(file, obj, bias, code)
            found.refuse_other(memory)
            for each in known:
                if each.is_of(found, sites) and each.stands(memory):
                    yield each
                    break
            else:
                yield LiveSites(found, sites, memory, self.functions.called)

    def _open(self, mapping: Mapping) -> _Read:
        """Open the file behind a mapping and read its table, if it has not been read already."""
        key = _key(mapping)
        before = self._read.get(key)
        try:
            file = OpenedFile(self.proc, mapping)
        except ModuleError:
            # The name leads to another file since. What is open keeps its inode from being reused.
            if before is None or not before.is_as_it_was:
                raise
            return before
        try:
            seen = stamp(file.status)
            if before is not None and before.stamp == seen:
                file.close()
                return before
            read = self._read_file(file, seen)
        except BaseException:
            file.close()
            raise
        if before is not None:
            before.close()
        self._read[key] = read
        return read

    def _read_file(self, file: OpenedFile, seen: tuple[int, ...]) -> _Read:
        obj = object_of(file)
        sites = loadable.read(obj, self._names) if obj is not None else None
        if sites is None:
            file.close()
            return _Read(seen, file, None, None)
        return _Read(seen, file, obj, sites)

    def forget_unmapped(self) -> None:
        """Close the files that are not mapped any more. Raises ReadError."""
        present = {_key(mapping) for mapping in self.machine.memory.mappings()}
        for key in [key for key in self._read if key not in present]:
            self._read.pop(key).close()

    def _none(self, globs: Sequence[str]) -> NoModuleError:
        """Make the error for a process without sites, or without a module that is like a glob."""
        if not globs:
            what = f"no live module has {TABLES}"
            return NoModuleError(self.name, f"{what}{why_nothing(self.machine.memory)}")
        paths = sorted({_path(mappings[0]) for mappings in self.files()})
        if any(is_like(path, glob) for path in paths for glob in globs):
            what = f"no live module like {' or '.join(globs)} has {TABLES}"
            return NoModuleError(self.name, what)
        advice = question(globs[0], [basename(path) for path in paths])
        return NoModuleError(self.name, f"no live module like {' or '.join(globs)}{advice}")


def _path(mapping: Mapping) -> str:
    """Return the path that the file of a mapping has, or had."""
    return mapping.path.removesuffix(maps.DELETED)


def _key(mapping: Mapping) -> tuple[int, int, str]:
    return mapping.device, mapping.inode, _path(mapping)
