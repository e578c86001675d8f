"""Signals to patcher itself, while it must not be ended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from signal import SIG_BLOCK, SIG_SETMASK, pthread_sigmask, valid_signals


@contextmanager
def signals_later() -> Iterator[None]:
    """Leave signals to this thread, and to what it starts meanwhile, for afterwards."""
    before = pthread_sigmask(SIG_BLOCK, valid_signals())
    try:
        yield
    finally:
        pthread_sigmask(SIG_SETMASK, before)
