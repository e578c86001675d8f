"""An interactive shell on a terminal of its own, and what its screen shows."""

import os
import pty
import re
import signal
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.command import ROOT

HOME = "\x1b[H"
STYLE = re.compile(r"\x1b\[[0-9;]*m")


class Terminal:
    """A shell; `kind` is its TERM."""

    def __init__(self, kind: str = "dumb") -> None:
        self._seen = ""
        self.pid, self._fd = pty.fork()
        if not self.pid:
            os.environ.update(PYTHONPATH=str(ROOT), PS1="prompt> ", TERM=kind)
            os.execv("/bin/bash", ["bash", "--norc", "--noprofile", "-i"])
        self.until("prompt> ")

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def child(self) -> int:
        """The PID of what the shell runs."""
        (pid,) = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return int(pid)

    def resize(self, lines: int, columns: int) -> None:
        termios.tcsetwinsize(self._fd, (lines, columns))

    def until(self, text: str) -> str:
        """Read until there is a text; returns all up to its end."""
        while text not in self._seen:
            self._seen += os.read(self._fd, 1 << 16).decode()
        before, found, self._seen = self._seen.partition(text)
        return before + found

    def screen(self, text: str) -> list[str]:
        """Read until something is drawn from the first line on that has a text; its lines."""
        while True:
            self.until(HOME)
            while HOME not in self._seen:  # then it is drawn as a whole
                self._seen += os.read(self._fd, 1 << 16).decode()
            drawn, _, _ = self._seen.partition(HOME)
            lines = [STYLE.sub("", line).rstrip() for line in drawn.split("\r\n")]
            if any(text in line for line in lines):
                return lines

    def close(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._fd)


@contextmanager
def drawn_on(lines: int, columns: int) -> Iterator[Terminal]:
    """A terminal that can be drawn on, of a size."""
    terminal = Terminal("xterm")
    try:
        terminal.resize(lines, columns)
        yield terminal
    finally:
        terminal.close()
