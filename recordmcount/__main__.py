"""`python -m recordmcount`, and `python -I -S .../recordmcount/__main__.py`, which starts faster.

Run by its path, nothing of the package can be found yet; this file stays small because Python
never caches a compiled main script.
"""

import _signal  # type: ignore[import-not-found]  # `signal` imports slowly
import gc
import posix
import sys

if __name__ == "__main__":
    # What Python puts first: for -m the current folder, which may hold anything.
    if not sys.flags.safe_path:
        del sys.path[0]
    home, found, _ = __file__.rpartition("/recordmcount/__main__.py")
    for path in (__file__, f"{home}/recordmcount"):
        try:
            posix.readlink(path)
            found = ""
        except OSError:  # no link
            pass
    if not found:
        from os.path import realpath  # rarely needed, and slow to import

        home = realpath(__file__).rpartition("/recordmcount/")[0]
    sys.path.insert(0, home or "/")
    import recordmcount  # noqa: F401 - from there, and from nowhere else

    sys.path.append(sys.path.pop(0))  # behind Python's own library


def files_are_limited() -> bool:
    """Tell whether files are: Python would cut short what it compiles, and fail the next time.

    (RLIMIT_FSIZE. `resource` would take longer to import.)
    """
    try:
        fd = posix.open("/proc/self/limits", posix.O_RDONLY | posix.O_CLOEXEC)
        limits = posix.read(fd, 4096)
        posix.close(fd)
    except OSError:
        return False
    return b"Max file size             unlimited" not in limits


def main() -> int:
    """Run as the console script; returns the exit status."""
    gc.disable()  # hardly any cycles are made, and looking for them takes long, at the start too
    if files_are_limited():
        sys.dont_write_bytecode = True
    # Ctrl-C ends it as any signal does, and not as a Python exception.
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    from recordmcount.cli import main

    return main(sys.argv[1:])


if __name__ == "__main__":
    status = main()
    # Nothing is left to do, and taking the interpreter down would take a tenth of the run.
    posix._exit(status)
