"""Markers: `matrix`, `kernel`, `process` and `slow`, as pyproject.toml describes them.

tools/check runs the tests without any. It installs fewer tools than tools/test, and so that nobody
has to remember that, a test without a marker finds only those on any machine: the others are
hidden from it, and say so.
"""

import os
from collections.abc import Generator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

NAMES = ("matrix", "kernel", "process", "slow")
# What `tools/setup test` installs, `tools/setup check` does not, and tests call by name.
HIDDEN = (
    "chromium", "clang", "clang++", "g++", "gfortran",
    "ld.gold", "ld.lld", "ld.mold", "mold", "nasm",
    "llvm-ar", "llvm-ranlib", "llvm-readelf", "llvm-readobj",
    "fish", "groff", "man", "mandoc", "zsh",
    "autoconf", "ccache", "cmake", "make", "meson", "ninja",
    "pahole", "lz4", "perl", "qemu-system-x86_64", "strace", "xz", "zstd",
)  # fmt: skip
STAND_IN = """\
#!/bin/sh
echo "${0##*/}: hidden from tests without a marker, see CONTRIBUTING.md" >&2
exit 127
"""


class HiddenTools:
    """A plugin of pytest that hides tools from tests without a marker."""

    def __init__(self) -> None:
        self._folder = TemporaryDirectory(prefix="hidden-tools-")
        for name in HIDDEN:
            path = Path(self._folder.name, name)
            path.write_text(STAND_IN)
            path.chmod(0o755)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Run one test and the fixtures it is the first to ask for."""
        if any(map(item.get_closest_marker, NAMES)):
            return (yield)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PATH", f"{self._folder.name}:{os.environ['PATH']}")
            return (yield)

    def pytest_unconfigure(self) -> None:
        """Remove the stand-ins."""
        self._folder.cleanup()
