"""Ctrl-C while a network trains: taken at a moment when what is in memory is whole and can be saved."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class StopRequested(KeyboardInterrupt):
    """Ctrl-C, raised between two steps."""


class Interrupt:
    """Whether Ctrl-C was pressed."""

    def __init__(self) -> None:
        self.wanted = False

    def check(self) -> None:
        """Raise StopRequested if so. Called where a run may stop."""
        if self.wanted:
            raise StopRequested


@contextlib.contextmanager
def deferred_interrupt() -> Iterator[Interrupt]:
    """During the block the first Ctrl-C is remembered; the second has its usual effect, at once.

    In a thread other than the main one nothing changes: signals do not arrive there.
    """
    interrupt = Interrupt()
    before = signal.getsignal(signal.SIGINT)
    # A handler that is not Python's (None) could not be put back, and one that ignores Ctrl-C is meant.
    if threading.current_thread() is not threading.main_thread() or before in (
        None,
        signal.SIG_IGN,
    ):
        yield interrupt
        return

    def remember(number: int, frame: FrameType | None) -> None:
        interrupt.wanted = True
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, remember)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before)
