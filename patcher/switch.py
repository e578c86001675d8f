"""Turn the sites of a linked file off and on, and tell how they stand."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from recordmcount import image
from recordmcount.image import Image, Site, State

from .errors import CompareError, NoSiteError
from .memory.elffile import ElfFile
from .modify import Batch, Change, modify_batch, verify


@dataclass(frozen=True, slots=True)
class Selection:
    """Which sites: those in functions that match one of `globs`, or all if there are none.

    A function matches by any of its names, as they stand in the symbol table. `names` are further
    names of mcount, as given to gcc's -mfentry-name.
    """

    globs: tuple[str, ...] = ()
    names: tuple[str, ...] = ()

    def of(self, sites: Sequence[Site]) -> list[Site]:
        """The selected ones of `sites`, in their order."""
        if not self.globs:
            return list(sites)
        return [site for site in sites if any(_is_in(site, glob) for glob in self.globs)]

    def idle(self, sites: Sequence[Site]) -> list[str]:
        """The globs that match the function of no site."""
        return [glob for glob in self.globs if not any(_is_in(site, glob) for site in sites)]


def _is_in(site: Site, glob: str) -> bool:
    return any(fnmatchcase(name, glob) for name in site.aliases)


def sites(file: ElfFile, selection: Selection) -> tuple[Image, list[Site]]:
    """(the file's table, its selected sites).

    Raises NoSiteError where a glob matches nothing, FormatError where there is no sound table.
    """
    found = image.read(file.object, selection.names)
    if idle := selection.idle(found.sites):
        raise NoSiteError(file.path, f"no site in a function like {' or '.join(idle)}")
    return found, selection.of(found.sites)


def count(selected: Sequence[Site]) -> dict[State, int]:
    """How many sites are in each state."""
    counter = Counter(site.state for site in selected)
    return {state: counter[state] for state in State}


def sites_in_words(number: int) -> str:
    """`1 site`, `2 sites`."""
    return f"{number} site{'s' * (number != 1)}"


def plan(found: Image, selected: Sequence[Site], state: State) -> list[Change]:
    """What must change so that all `selected` sites are in `state`, by link-time virtual address.

    Raises CompareError if a site is foreign, or could not be brought into the state and back.
    """
    foreign = [site for site in selected if site.state is State.FOREIGN]
    if foreign:
        raise _foreign(found, foreign)
    changes = []
    for site in selected:
        if site.state is not state:
            new = site.nop if state is State.NOP else site.call
            if new is None:
                raise CompareError(
                    found.path, site.reason,
                    address=site.vaddr, symbol=site.place, actual=site.code,
                )  # fmt: skip
            changes.append(Change(site.vaddr, site.code, new, site.place))
    return changes


def switch(file: ElfFile, changes: Sequence[Change], out: str | None, *, dry_run: bool) -> None:
    """Verify all `changes`, and unless `dry_run` make them and commit to the file or to `out`.

    Without a change nothing is written but `out`. Raises PatchError; then no file has changed.
    """
    batch = Batch.of(changes)
    if dry_run:
        verify(file, batch)
        return
    modify_batch(file, batch)
    if changes or out is not None:
        file.commit(out)


def describe(site: Site, machine: int) -> str:
    """What stands at a foreign site, and what should: bytes, decoded."""
    from .disassembly import disassemble  # slow to import, rarely needed

    def both(code: bytes) -> str:
        return f"{code.hex(' ')} ({disassemble(code, site.vaddr, machine)})"

    expected = " or ".join(both(call) for call in site.expected)
    wanted = f"; expected {expected}" if expected else ""
    return f"{site.reason}: {both(site.code)}{wanted}"


def _foreign(found: Image, foreign: Sequence[Site]) -> CompareError:
    first, *others = foreign
    more = f"; {sites_in_words(len(others))} more" if others else ""
    return CompareError(
        found.path, f"foreign: {describe(first, found.machine)}{more}; nothing was written",
        address=first.vaddr, symbol=first.place, actual=first.code, expected=first.expected,
    )  # fmt: skip
