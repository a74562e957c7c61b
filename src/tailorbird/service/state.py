"""State shared by the request handlers of one process."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

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


@dataclass
class State:
    """One process of the service.

    supervisor: id of the process that started this one and restarts it, None where there is none.
    """

    settings: ServeSettings
    telemetry: Telemetry
    slot: Slot
    batcher: Batcher
    corrections: Corrections | None
    secret: bytes
    supervisor: int | None = None
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

    def notify_other_processes(self) -> None:
        """Make the other processes reload as well."""
        if self.supervisor is not None:
            os.kill(self.supervisor, signal.SIGHUP)


def state_of(request: Request) -> State:
    """Return the process's state, in any handler."""
    state: State = request.app.tailorbird
    return state
