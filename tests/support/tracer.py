"""Run `patcher trace` for a process, from when its sites are traced."""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from patcher.process import regions
from patcher.process.proc import Proc
from tests.support.command import ROOT
from tests.support.processes import memory_of

GATE = 4  # bytes at the start of the control page, 0 if nothing is traced
BOUND = 60  # seconds that anything may take before a test fails


class Tracer:
    """A `patcher trace`, whose output goes into pipes."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._seen = b""

    @property
    def pid(self) -> int:
        return self.process.pid

    def until(self, text: str) -> str:
        """Read until there is a text; returns all up to its end."""
        assert self.process.stdout
        wanted = text.encode()
        while wanted not in self._seen:
            assert select.select([self.process.stdout], [], [], BOUND)[0], self._seen
            piece = os.read(self.process.stdout.fileno(), 1 << 16)
            assert piece, self._seen
            self._seen += piece
        before, found, self._seen = self._seen.partition(wanted)
        return (before + found).decode()

    def end(self, number: signal.Signals = signal.SIGINT) -> tuple[int, str, str]:
        """End it by a signal; its exit status, and what else it says."""
        os.kill(self.pid, number)
        out, err = self.process.communicate(timeout=BOUND)
        assert b"Traceback" not in err
        return self.process.returncode, (self._seen + out).decode(), err.decode()


def words(pid: int, *options: str) -> list[str]:
    return [sys.executable, "-m", "patcher", "trace", "--pid", str(pid), *options]


def is_traced(pid: int) -> bool:
    """Whether some process traces this one, and its gates are open.

    They open in a halt, in which the sites may not be written yet: while it lasts, this is False.
    """
    with memory_of(pid) as memory:
        is_open = any(
            each.owner.pid and int.from_bytes(memory.read(each.control, GATE), "little")
            for each in regions.find(memory)
        )
    with Proc(pid) as proc:
        return is_open and not any(int(proc.status(tid)["TracerPid"]) for tid in proc.threads())


@contextmanager
def tracing(pid: int, *options: str) -> Iterator[Tracer]:
    with subprocess.Popen(
        words(pid, *options), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:  # fmt: skip
        try:
            while not is_traced(pid):
                assert process.poll() is None, process.communicate()
                time.sleep(0.01)
            yield Tracer(process)
        finally:
            process.kill()
