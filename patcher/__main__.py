"""`python -m patcher`."""

import sys


def main() -> int:
    """The console script; returns the exit status."""
    from patcher.cli import main

    return main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
