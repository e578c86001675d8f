"""The program that a command means, and its execution with nothing changed that it could notice."""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Sequence
from errno import EACCES, ENOENT, ENOEXEC, ENOTDIR
from signal import SIG_DFL, SIGPIPE, SIGXFSZ, signal

from patcher.errors import AccessError
from recordmcount.errors import Error, reason

NOT_FOUND, NOT_EXECUTABLE = 127, 126  # exit statuses, as those of shells
USUAL_PATH = b"/bin:/usr/bin"  # where execvp looks without PATH
SHELL = b"/bin/sh"

_libc = ctypes.CDLL(None, use_errno=True)


class NoCommandError(Error):
    """A command cannot be run; `status` is the exit status that shells give then."""

    def __init__(self, path: str, what: str, status: int) -> None:
        super().__init__(path, what)
        self.status = status


def environment() -> list[bytes]:
    """Return the environment that this process was started with, as Python may have changed it."""
    with open("/proc/self/environ", "rb") as stream:
        return stream.read().removesuffix(b"\0").split(b"\0")


def find(word: str, variables: Sequence[bytes]) -> bytes:
    """Find the program that a command's first word means, as execvp does. Raises NoCommandError."""
    name = os.fsencode(word)
    if b"/" in name:
        return name
    path = next((each[5:] for each in variables if each.startswith(b"PATH=")), USUAL_PATH)
    forbidden = b""
    for folder in path.split(b":"):
        candidate = os.path.join(folder, name) if folder else name
        try:
            mode = os.stat(candidate).st_mode
        except OSError:
            continue
        if stat.S_ISREG(mode) and os.access(candidate, os.X_OK):
            return candidate if b"/" in candidate else b"./" + candidate
        forbidden = forbidden or candidate
    if forbidden:
        raise NoCommandError(word, "cannot be executed: permission denied", NOT_EXECUTABLE)
    raise NoCommandError(word, "command not found", NOT_FOUND)


def refuse_set_id(program: bytes) -> None:
    """Raise AccessError for a program that would lose the rights of its owner if it were traced."""
    try:
        found = os.stat(program)
        is_nosuid = os.statvfs(program).f_flag & os.ST_NOSUID
    except OSError:
        return  # what is wrong is told when it is executed
    if not os.geteuid() or is_nosuid:
        return
    changes_user = found.st_mode & stat.S_ISUID and found.st_uid != os.geteuid()
    group = found.st_mode & stat.S_ISGID and found.st_mode & stat.S_IXGRP
    changes_group = group and found.st_gid != os.getegid()
    if changes_user or changes_group or _has_capabilities(program):
        what = "set-user-ID" if changes_user else "set-group-ID" if changes_group else "given"
        what += "" if changes_user or changes_group else " capabilities by its file"
        name = os.fsdecode(program)
        raise AccessError(
            name,
            f"is {what}, and would run without these rights while patcher traces it: "
            "run patcher as root, or run it without patcher",
        )


def _has_capabilities(program: bytes) -> bool:
    try:
        return bool(os.getxattr(program, "security.capability"))
    except OSError:
        return False


def execute(program: bytes, words: Sequence[str], variables: Sequence[bytes]) -> NoCommandError:
    """Become the program; returns only if that cannot be, and why.

    Python ignores SIGPIPE and SIGXFSZ, and the program must not. A file without a format is a
    script for the shell, as for execvp.
    """
    for each in (SIGPIPE, SIGXFSZ):
        signal(each, SIG_DFL)
    arguments = [os.fsencode(word) for word in words]
    number = _execve(program, arguments, variables)
    if number == ENOEXEC:
        number = _execve(SHELL, [SHELL, program, *arguments[1:]], variables)
    error = OSError(number, os.strerror(number))
    if number == ENOENT and not os.path.exists(program):
        return NoCommandError(words[0], reason(error), NOT_FOUND)
    if number == ENOTDIR:
        return NoCommandError(words[0], reason(error), NOT_FOUND)
    if number == ENOENT:
        what = "cannot be executed: the interpreter that it names is missing"
    elif number == EACCES and os.path.isdir(program):
        what = "cannot be executed: it is a folder"
    else:
        what = f"cannot be executed: {reason(error)}"
    return NoCommandError(words[0], what, NOT_EXECUTABLE)


def _execve(program: bytes, words: Sequence[bytes], variables: Sequence[bytes]) -> int:
    """Call execve(2) itself, which takes an environment that os.environ could not hold."""

    def array(items: Sequence[bytes]) -> ctypes.Array[ctypes.c_char_p]:
        return (ctypes.c_char_p * (len(items) + 1))(*items, None)

    _libc.execve(program, array(words), array(variables))
    return ctypes.get_errno()
