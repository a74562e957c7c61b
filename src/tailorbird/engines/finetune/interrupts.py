"""Handle Ctrl-C during training between two steps, when the state in memory can be saved."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType


class StopRequested(KeyboardInterrupt):
    """Ctrl-C, raised between two steps."""


class Interrupt:
    """Whether Ctrl-C was pressed, or the host of the process asks it to stop."""

    def __init__(self, agree: Callable[[float], float], asked: Callable[[], bool]) -> None:
        self.wanted = False
        self._agree = agree
        self._asked = asked

    def check(self) -> None:
        """Raise StopRequested if a stop is wanted. Called where a run can stop."""
        if self._agree(self.wanted or self._asked()):
            raise StopRequested


@contextlib.contextmanager
def deferred_interrupt(
    agree: Callable[[float], float] = float, asked: Callable[[], bool] = bool
) -> Iterator[Interrupt]:
    """Record the first Ctrl-C during the block; a second one has its usual effect at once.

    In threads other than the main one, which receive no signals, nothing changes.

    agree: gives the first process's value to each of several that stop together.
    asked: returns whether something other than Ctrl-C asks to stop; by default never.
    """
    interrupt = Interrupt(agree, asked)
    before = signal.getsignal(signal.SIGINT)
    in_main_thread = threading.current_thread() is threading.main_thread()
    # A handler that Python did not install (None) cannot be restored; SIG_IGN is intended.
    if not in_main_thread or before in (None, signal.SIG_IGN):
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
