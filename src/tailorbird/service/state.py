"""State shared by the request handlers of one process."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

from starlette.requests import Request

from tailorbird.corrections import Corrections
from tailorbird.errors import ModelFileError
from tailorbird.service.batching import Batcher
from tailorbird.service.candidate import Candidate
from tailorbird.service.drift import Tally
from tailorbird.service.served import Slot
from tailorbird.service.settings import ServeSettings
from tailorbird.service.telemetry import Telemetry
from tailorbird.service.web.logs import log


class Peers(Protocol):
    """The other processes that serve the same model."""

    async def refresh(self) -> None:
        """Bring this process's copy of the model file up to date. Raises ModelFileError."""

    def notify(self) -> None:
        """Make the others reload as well."""


@dataclass(frozen=True)
class Siblings:
    """Processes on this machine, which one supervisor started; they read the same file.

    supervisor: id of its process, which forwards SIGHUP to all.
    """

    supervisor: int

    async def refresh(self) -> None:
        """Do nothing: all read the file itself."""

    def notify(self) -> None:
        """Make the others reload as well."""
        os.kill(self.supervisor, signal.SIGHUP)


@dataclass
class State:
    """One process of the service.

    peers: the other processes, None where this is the only one.
    """

    settings: ServeSettings
    telemetry: Telemetry
    slot: Slot
    batcher: Batcher
    corrections: Corrections | None
    secret: bytes
    peers: Peers | None = None
    candidate: Candidate | None = None
    tally: Tally | None = None
    ready: bool = True
    storing: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(4, thread_name_prefix="store")
    )
    """Threads for the corrections database only, so that a hanging database blocks nothing else."""
    storing_waits: int = 0

    @property
    def status(self) -> str:
        """`ready`; `stopping` after SIGTERM; `busy` while every decoder is stuck in a photo."""
        if not self.ready:
            return "stopping"
        return "busy" if self.batcher.stuck else "ready"

    @property
    def accepting(self) -> bool:
        """Whether the process accepts requests and can answer them soon."""
        return self.status == "ready"

    async def reload(self, *, trigger: str) -> bool:
        """Load the model file's present content if it works; return whether the model changed.

        Raises ModelFileError and keeps the present model when the file is refused. Any exception
        while opening the file counts as a refusal.
        """
        try:
            changed = await self.slot.reload()
        except Exception as error:
            known = isinstance(error, ModelFileError)
            message = str(error) if known else f"{self.settings.model} cannot be opened: {error!r}"
            self.telemetry.reloaded("refused")
            log(
                "reload-refused",
                level="error",
                message=message,
                told_by=trigger,
                serving=self.slot.current.sha256,
                exc_info=None if known else error,
            )
            raise ModelFileError(message) from error
        self.telemetry.reloaded("changed" if changed else "unchanged")
        if self.candidate is not None:
            self.candidate.reload()
        log("reloaded", changed=changed, told_by=trigger, serving=self.slot.current.sha256)
        return changed

    async def reload_everywhere(self) -> bool:
        """Reload here as `reload` does, then make the other processes reload as well."""
        if self.peers is not None:
            await self.peers.refresh()
        changed = await self.reload(trigger="http")
        # Always, even if unchanged here: another process may still serve an older model.
        if self.peers is not None:
            self.peers.notify()
        return changed


def state_of(request: Request) -> State:
    """Return the process's state, in any handler."""
    state: State = request.app.tailorbird
    return state
