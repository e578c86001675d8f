"""Build fixtures/module for Debian's cloud kernel, which tools/kernel unpacks."""

import shutil
from pathlib import Path

from tests import building

KERNEL = building.ROOT / ".cache" / "kernel" / "cloud"
RECIPE = building.GLUE / "Kbuild.recordmcount"

# Debian configures its kernel for gcc 12. What clang 14 does not have must be switched off for
# the build system alone; the headers still see the kernel's own configuration.
CLANG = (
    "CC=clang",
    "CONFIG_CC_IS_GCC=",
    "CONFIG_CC_IS_CLANG=y",
    "CONFIG_CC_HAS_AUTO_VAR_INIT_ZERO_ENABLER=y",
    "CONFIG_CC_IMPLICIT_FALLTHROUGH=",
    "CONFIG_RETHUNK=",
    "CONFIG_SLS=",
    "KCFLAGS=-Wno-unknown-warning-option -Wno-address-of-packed-member",
)


def copy(folder: Path) -> Path:
    """Copy the sources of the module into the new `folder`, and return it."""
    return shutil.copytree(building.ROOT / "fixtures" / "module", folder)


def build(folder: Path, *variables: str, recipe: Path | None = RECIPE) -> str:
    """Build `folder`/tracee.ko and return what make printed.

    With `recipe` None the kernel's own build system records the module.
    """
    make = ("make", "-j4", "-C", KERNEL / "headers", f"M={folder}")
    return building.run(*make, *variables, "modules", MAKEFILES=str(recipe or ""))
