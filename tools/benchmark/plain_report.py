"""The report of objects as anybody would write it with pyelftools: a peer to compare ours with.

    python -m tools.benchmark.plain_report FILE...

For each site a row: section offset, state, recorded or not, bytes, section, function. It is
written without tricks, and without what would make it slower than it has to be: every section is
decoded once, and functions are found by bisection. What stands at a site that is no plain call it
does not tell apart; a report of ours tells more.
"""

import sys
from bisect import bisect_right
from pathlib import Path

from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection
from elftools.elf.sections import SymbolTableSection

MCOUNT = ("mcount", "_mcount", "__fentry__")
TABLE = "__mcount_loc"
EXECUTABLE = 0x4


def report(path: Path) -> list[str]:
    """Tell of one object, a row for each site."""
    with path.open("rb") as stream:
        elf = ELFFile(stream)
        sections = list(elf.iter_sections())
        table = next(each for each in sections if isinstance(each, SymbolTableSection))
        symbols = list(table.iter_symbols())
        callees = {number for number, each in enumerate(symbols) if each.name in MCOUNT}
        functions: dict[int, list[tuple[int, str]]] = {}
        for each in symbols:
            if each["st_info"]["type"] == "STT_FUNC":
                place = each["st_value"], each.name
                functions.setdefault(each["st_shndx"], []).append(place)
        relocations = [each for each in sections if isinstance(each, RelocationSection)]
        recorded = set()
        for part in relocations:
            if sections[part["sh_info"]].name == TABLE:
                for entry in part.iter_relocations():
                    base = symbols[entry["r_info_sym"]]
                    recorded.add((base["st_shndx"], base["st_value"] + entry["r_addend"]))
        rows = []
        for part in relocations:
            text = sections[part["sh_info"]]
            if not text["sh_flags"] & EXECUTABLE:
                continue
            code = text.data()
            starts = sorted(functions.get(part["sh_info"], []))
            for entry in part.iter_relocations():
                if entry["r_info_sym"] in callees:
                    start = entry["r_offset"] - 1
                    number = bisect_right(starts, (start, "\U0010ffff")) - 1
                    function = starts[number][1] if number >= 0 else "-"
                    state = "call" if code[start] == 0xE8 else "other"
                    known = "yes" if (part["sh_info"], start) in recorded else "no"
                    shown = code[start : start + 5].hex(" ")
                    rows.append(
                        f"  {start:#8x}  {state}  {known}  {shown}  {text.name}  {function}"
                    )
        return rows


def main() -> None:
    """Report on all files."""
    for name in sys.argv[1:]:
        rows = report(Path(name))
        print(f"{name}: {len(rows)} sites", *rows, sep="\n")


if __name__ == "__main__":
    main()
