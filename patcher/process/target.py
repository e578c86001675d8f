"""A process to be looked at or switched: what of it can be, proven, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from posixpath import basename

from patcher.closing import Closing
from patcher.errors import ModuleError, NoModuleError, NoProcessError, ReadError, StateError
from patcher.ftrace.mappings import Mapping
from recordmcount.elf.object import Object
from recordmcount.errors import Error
from recordmcount.nearest import question
from recordmcount.sites import linked, tables
from recordmcount.sites.linked import LinkedSites

from .access import name_of, no_access, refuse_untraceable
from .foreign_code import why_nothing
from .halt import Halt
from .live_sites import LiveSites
from .loaded_file import LoadedFile, OpenedFile, biases, may_be_module, object_of
from .machine import Halting, ProcessMachine
from .proc import Proc

ATTEMPTS = 10  # to read modules while none of them comes or goes


class Target(Closing):
    """Process `pid`, open during its `with`; `names` are further names of mcount.

    `timeout` is how many seconds its threads have to stop. Who traces it already gives the `halt`
    that stops them. Raises PatchError for a process that cannot be traced.
    """

    def __init__(
        self,
        pid: int,
        timeout: float,
        names: Sequence[str] = (),
        halt: Callable[[Proc, str, float], Halting] | None = None,
    ) -> None:
        try:
            self.proc = Proc(pid)
        except OSError as error:
            raise NoProcessError(f"process {pid}", "there is none") from error
        self.name = name_of(self.proc)
        self._names = names
        self._read: dict[tuple[int, ...], tuple[OpenedFile, Object, LinkedSites | None]] = {}
        try:
            if halt is None:
                refuse_untraceable(self.proc, self.name)
            try:
                self.machine = ProcessMachine(self.proc, self.name, timeout, halt or Halt)
            except OSError as error:
                raise no_access(self.proc, self.name, error) from error
        except BaseException:
            self.proc.close()
            raise

    def close(self) -> None:
        """Let everything go, and close all files."""
        self.machine.close()
        for file, _, _ in self._read.values():
            file.close()
        self.proc.close()

    def modules(self, globs: Sequence[str] = ()) -> list[LiveSites]:
        """Read the sites of all loaded files that have a table, by address.

        With `globs`, of those whose path or name is like one of them. Raises NoModuleError if there
        are none, ModuleError if what is mapped is not proven to be the file, StateError if it goes
        meanwhile, FormatError and ReadError.
        """
        found = [each for each in self._loaded(globs) if len(each)]
        if not found:
            raise self._none(globs)
        return sorted(found, key=lambda each: each.addresses[0])

    def settled_modules(self, globs: Sequence[str] = ()) -> list[LiveSites]:
        """Read as `modules` does, and again while modules come and go: what is read runs on.

        Then an error, or a foreign site, would be of a module that was replaced by another.
        """
        for _ in range(ATTEMPTS - 1):
            before = self.files()
            try:
                modules = self.modules(globs)
            except (NoModuleError, ReadError, ModuleError, StateError):
                if before and self.files() == before:
                    raise
            else:
                if self.files() == before:
                    return modules
        return self.modules(globs)

    def _loaded(self, globs: Sequence[str]) -> Iterator[LiveSites]:
        idle = {*globs}
        for mappings in self.files():
            path = mappings[0].path
            like = {glob for glob in globs if is_like(path, glob)}
            idle -= like
            if globs and not like:
                continue
            yield from self.sites(mappings)
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

    def sites(self, mappings: Sequence[Mapping]) -> Iterator[LiveSites]:
        """Read the sites of the file behind mappings, at each load bias; none without a table.

        Raises as `modules` does for what is mapped.
        """
        memory = self.machine.memory
        file, obj, sites = self._open(mappings[0])
        if obj is None or sites is None:
            return
        loaded = LoadedFile(file, obj, 0, mappings)
        for bias, code in biases(loaded.view, mappings):
            found = LoadedFile(file, obj, bias, code)
            found.refuse_other(memory)
            yield LiveSites(found, sites, memory)

    def _open(self, mapping: Mapping) -> tuple[OpenedFile, Object | None, LinkedSites | None]:
        """Open the file behind a mapping and read its table; one without a table is closed."""
        file = OpenedFile(self.proc, mapping)
        try:
            status = file.status
            times = (status.st_mtime_ns, status.st_ctime_ns)
            key = (status.st_dev, status.st_ino, status.st_size, *times)
            if key in self._read:
                file.close()
                return self._read[key]
            obj = object_of(file)
            if obj is None or not obj.headers or not obj.once(tables.find):
                file.close()
                return file, None, None
            self._read[key] = file, obj, linked.read(obj, self._names)
            return self._read[key]
        except Error:
            file.close()
            raise

    def _none(self, globs: Sequence[str]) -> NoModuleError:
        """Make the error for a process without sites, or without a module that is like a glob."""
        if not globs:
            what = "no live module has a __mcount_loc table"
            return NoModuleError(self.name, f"{what}{why_nothing(self.machine.memory)}")
        paths = sorted({mappings[0].path for mappings in self.files()})
        if any(is_like(path, glob) for path in paths for glob in globs):
            what = f"no live module like {' or '.join(globs)} has a __mcount_loc table"
            return NoModuleError(self.name, what)
        advice = question(globs[0], [basename(path) for path in paths])
        return NoModuleError(self.name, f"no live module like {' or '.join(globs)}{advice}")


def is_like(path: str, glob: str) -> bool:
    """Tell whether a path, or the name at its end, is like a glob."""
    return fnmatchcase(path, glob) or fnmatchcase(basename(path), glob)
