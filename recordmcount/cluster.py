"""A Dask cluster as an executor: the files are read by its workers, which must see the same ones.

Relative paths are those of this process: `work` must resolve them from its folder. That a worker
sees the same file is compared, by size and time, before it is read: another one must not be taken
for it. Dask gives the work of a worker that dies to another one, and gives up after a few.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from concurrent.futures import CancelledError
from contextlib import suppress
from functools import partial
from typing import Any

from . import __version__
from .errors import Error, UnreachableError, reason
from .packages import load

# Seconds: for the scheduler's answer, for a first worker, between looks for workers, to leave.
CONNECT, WORKERS, LOOK, LEAVE = 10, 30, 5, 2
MISSING = "Dask is not installed: pip install 'recordmcount[cluster]'"


class Cluster:
    """The workers of the scheduler at `address`: `threads` is how many things they do at once.

    Raises UnreachableError.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        try:
            distributed = load("distributed")
        except ImportError:
            raise UnreachableError(address, MISSING) from None
        logging.disable()  # what matters is told by us
        self._client = _connected(distributed, address)
        try:
            self._compare_versions()
            self.threads = max(1, sum(self._client.nthreads().values()))
            self._executor = self._client.get_executor(pure=False)
        except Error:
            self._leave()
            raise

    def submit(self, work: Callable[[Any], Any], item: str | tuple[str, ...]) -> _Promise:
        """Have work(item) done by a worker that sees the files as they are here."""
        paths = (item,) if isinstance(item, str) else item
        known = [one for one in map(seen, paths) if one]
        return _Promise(self, paths[-1], self._executor.submit(partial(there, work), item, known))

    def shutdown(self, wait: bool = True) -> None:
        """Leave the cluster."""
        self._executor.shutdown(wait=wait)
        self._leave()

    def _leave(self) -> None:
        with suppress(TimeoutError, OSError):  # a scheduler that is gone need not be told
            self._client.close(timeout=LEAVE)

    def look(self) -> None:
        """Raise UnreachableError where nobody is left to wait for."""
        if self._client.status != "running":
            raise self.gone()
        if not self._client.scheduler_info(n_workers=-1)["workers"]:
            raise UnreachableError(self._address, "the scheduler has no workers any more")

    def gone(self) -> UnreachableError:
        """Say that the scheduler does not answer any more."""
        return UnreachableError(self._address, "the scheduler is gone")

    def _compare_versions(self) -> None:
        """Raise UnreachableError where not all are as we are, or where there are no workers."""
        try:
            found = self._client.run_on_scheduler(_version)
        except Exception as error:  # noqa: BLE001 - whatever it failed with there
            found = error
        self._compare("the scheduler", found)
        try:
            self._client.wait_for_workers(1, timeout=WORKERS)
        except TimeoutError:
            what = f"the scheduler has no workers after {WORKERS} seconds"
            raise UnreachableError(self._address, what) from None
        for worker, version in self._client.run(_version, on_error="return").items():
            self._compare(f"the worker {worker}", version)

    def _compare(self, who: str, version: object) -> None:
        if version != __version__:
            has = f"recordmcount {version}" if isinstance(version, str) else "no recordmcount"
            raise UnreachableError(self._address, f"{who} has {has}: install {__version__} there")


class _Promise:
    """An answer to be, with what can happen to it in our words."""

    def __init__(self, cluster: Cluster, path: str, future: Any) -> None:
        self._cluster = cluster
        self._path = path
        self._future = future

    def result(self) -> Any:
        """Wait for the answer. Raises Error where no worker could give it, and UnreachableError."""
        while True:
            try:
                error = self._future.exception(timeout=LOOK)
            except TimeoutError:
                self._cluster.look()
                continue
            except CancelledError:
                raise self._cluster.gone() from None
            break
        if isinstance(error, Error):
            raise error
        if error is not None:
            raise Error(self._path, f"no worker could read it: {_words(error)}")
        answer, trouble = self._future.result()
        if trouble:
            raise Error(self._path, trouble)
        return answer


def _connected(distributed: Any, address: str) -> Any:
    try:
        # A Client that cannot connect is not rid of easily: first see whether anybody listens.
        where = distributed.comm.get_address_host_port(address)
        socket.create_connection(where, CONNECT).close()
        return distributed.Client(address, timeout=CONNECT, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        what = reason(error) if isinstance(error, OSError) else str(error)
        raise UnreachableError(address, f"no scheduler is to be reached there ({what})") from None


def _words(error: BaseException) -> str:
    """Spell an error of any kind in one line."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


def seen(path: str) -> tuple[str, int, int] | None:
    """Tell how a file looks: (absolute path, bytes, time of change); None of one that is not there.

    Whoever reads that will say so.
    """
    try:
        status = os.stat(path)
    except OSError:
        return None
    return os.path.abspath(path), status.st_size, status.st_mtime_ns


# --- what workers do ------------------------------------------------------------------------------


def _version() -> str:
    return __version__


def there(
    work: Callable[[Any], Any], item: str | tuple[str, ...], known: list[tuple[str, int, int]]
) -> tuple[Any, str]:
    """Do the work, if the files are those that were seen; the answer, or what is wrong."""
    for path, size, time in known:
        try:
            status = os.stat(path)
        except OSError as error:
            return None, f"the workers cannot see it ({reason(error)})"
        if (status.st_size, status.st_mtime_ns) != (size, time):
            return None, "the workers see another file there"
    return work(item), ""
