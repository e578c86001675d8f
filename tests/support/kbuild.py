"""Build copies of fixtures/module for Debian's cloud kernel, which tools/kernel unpacks."""

from pathlib import Path

from tests.support import building, command

KERNEL = command.ROOT / ".cache" / "kernel" / "cloud"
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


def build(folder: Path, *variables: str) -> str:
    """Build `folder`/tracee.ko, which its Makefile has recorded; return what make printed."""
    return building.run("make", "-j4", f"KDIR={KERNEL}/headers", *variables, cwd=folder)


def kernel_make(folder: Path) -> list[str]:
    """Return the command that builds `folder`/tracee.ko as the kernel would by itself."""
    return ["make", "-j4", "-C", f"{KERNEL}/headers", f"M={folder}", "modules"]
