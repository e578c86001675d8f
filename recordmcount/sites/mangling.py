"""Names of functions as they stand in the source: those of C++ (Itanium ABI) and of Rust.

`demangle` reads them. It is written in Python and bounds what a name may cost, which matters, for a
few hundred bytes can stand for gigabytes; LLVM's own demangler does not, and crashes on deep ones.
"""

from __future__ import annotations

import re
from functools import cache

from recordmcount.packages import load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LANGUAGES = ("itanium", "rust")
STYLE = "gnu"  # as c++filt, nm -C, gdb and perf spell them
_MANGLED = ("_Z", "_R", "__Z", "___Z")
# What compilers append to the name of a part or a copy of a function (gcc: cgraphclones.cc).
PARTS = "isra|part|constprop|cold|lto_priv|localalias|llvm"
_PART = re.compile(rf"(?:\.(?:{PARTS})(?:\.\d+)?)+$")


@cache  # a function may have many sites
def demangled(name: str) -> str:
    """Return the declaration that a name stands for; the name itself if it is none of a language.

    So it is too where `demangle` is not installed.
    """
    library = _library(name)
    read: str = library.demangle(name, language=LANGUAGES, style=STYLE) if library else name
    return read


def spellings(name: str, *, parts: bool = False) -> set[str]:
    """Give all names that people may call a function by, of which one is its own.

    The others are how it is declared, `ns::f(int)`, and its name alone, `ns::f`; with `parts` also
    all those of the function that it is a part or a copy of.
    """
    declared = demangled(name)
    found = {name, declared, _as_llvm(declared)}
    whole = _PART.sub("", name)
    if whole != name:
        return found | spellings(whole) if parts else found
    if library := _library(name):
        try:
            alone = library.signature(name, language=LANGUAGES, style=STYLE).qualified_name
            found |= {alone, _as_llvm(alone)}
        except library.DemanglingError:
            pass
    return found


def _as_llvm(name: str) -> str:
    """Close brackets as LLVM's tools do, and authors today."""
    return name.replace("> >", ">>").replace("> >", ">>")


def _library(name: str) -> Any:
    """Return the library if it may have to do with a name, else None: most names are plain."""
    return _demangle() if name.startswith(_MANGLED) else None


@cache
def _demangle() -> Any:
    try:
        return load("demangle")
    except ImportError:
        return None
