"""What the handlers of one process share."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from starlette.requests import Request

from tailorbird.corrections import Corrections
from tailorbird.errors import ModelFileError
from tailorbird.service.engine import Engine
from tailorbird.service.problems import ClientGone, too_late
from tailorbird.service.served import Slot
from tailorbird.service.settings import Settings
from tailorbird.service.telemetry import Telemetry, log

T = TypeVar("T")


@dataclass
class State:
    """One process of the service. `supervisor` is the process that started it and restarts it, None where there is none."""

    settings: Settings
    telemetry: Telemetry
    slot: Slot
    engine: Engine
    corrections: Corrections | None
    secret: bytes
    supervisor: int | None = None
    ready: bool = True
    storing: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(4, thread_name_prefix="store")
    )
    """Corrections written at once: few, and in threads of their own, so that a database that hangs takes nothing else along."""
    storing_waits: int = 0

    async def reload(self, *, told_by: str) -> bool:
        """Take the model file's present content if it works. True when the model changed. Raises ModelFileError."""
        try:
            changed = await self.slot.reload()
        except ModelFileError as error:
            self.telemetry.reloaded("refused")
            log(
                "reload-refused",
                level="error",
                message=str(error),
                told_by=told_by,
                serving=self.slot.current.sha256,
            )
            raise
        self.telemetry.reloaded("changed" if changed else "unchanged")
        log("reloaded", changed=changed, told_by=told_by, serving=self.slot.current.sha256)
        return changed

    def tell_the_others(self) -> None:
        """Have the other processes reload as well."""
        if self.supervisor is not None:
            os.kill(self.supervisor, signal.SIGHUP)


def state_of(request: Request) -> State:
    """The process's state, from any handler."""
    state: State = request.app.tailorbird
    return state


def deadline_of(request: Request) -> float:
    """The request's deadline, in time.monotonic()'s seconds."""
    deadline: float = request.scope["tailorbird"].deadline
    return deadline


async def in_time(request: Request, work: Awaitable[T]) -> T:
    """Await `work` until the request's deadline, or until its client goes away. Raises Problem 503 when it takes longer.

    A body must have been received; what a request without one still brings is its empty end, then the news that the client has gone.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_client_leaves(request))
    try:
        await asyncio.wait(
            {task, gone},
            timeout=deadline_of(request) - time.monotonic(),
            return_when=asyncio.FIRST_COMPLETED,
        )
        if task.done():
            return task.result()
        if gone.done():
            gone.result()
            raise ClientGone
        raise too_late()
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()


async def _client_leaves(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
