"""`python -m patcher`, and `python -I -S .../patcher/__main__.py`, which starts faster."""

import gc
import posix
import sys

if not __package__:
    sys.path.insert(0, __file__.rpartition("/patcher/")[0] or ".")


def main() -> int:
    """The console script; returns the exit status."""
    gc.disable()  # hardly any cycles are made, and looking for them takes long
    from patcher.cli import main

    return main(sys.argv[1:])


if __name__ == "__main__":
    status = main()
    # Nothing is left to do, and giving back all of the memory piece by piece takes a while.
    posix._exit(status)
