"""Packages that are installed, for what is not done without them; recording needs none."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType


def load(name: str) -> ModuleType:
    """Import an installed package, also where Python was started with -S and has not looked yet.

    Raises ImportError.
    """
    import sys
    from importlib import import_module

    if sys.flags.no_site:
        import site

        site.main()
    return import_module(name)
