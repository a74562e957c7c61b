"""Distinguish a SIGHUP that means "reload" from the one that a closing terminal sends."""

from __future__ import annotations

import os
import signal


class Terminal:
    """The terminal that the process was started from, if there is one."""

    def __init__(self) -> None:
        # Under nohup the signal is ignored: the process must then outlive its terminal.
        hang_up = getattr(signal, "SIGHUP", None)
        outlives = hang_up is None or signal.getsignal(hang_up) == signal.SIG_IGN
        self._watched = not outlives and _exists()

    @property
    def is_gone(self) -> bool:
        """Whether it has been closed since."""
        return self._watched and not _exists()


def _exists() -> bool:
    """Whether the process has a controlling terminal now."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
