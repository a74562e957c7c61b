"""The ASGI application: routes, and what starts and ends with them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from tailorbird import parallel
from tailorbird.corrections import open_store
from tailorbird.errors import StorageError
from tailorbird.service import corrections, inference_protocol, predict
from tailorbird.service.batching import Batcher
from tailorbird.service.openapi import document
from tailorbird.service.served import Slot
from tailorbird.service.settings import ServeSettings
from tailorbird.service.state import State, state_of
from tailorbird.service.telemetry import Telemetry, accuracy_metrics
from tailorbird.service.web.logs import log
from tailorbird.service.web.middleware import Guard
from tailorbird.service.web.pages import Pages

COUNT_EVERY = 15.0
"""Seconds between two looks at the corrections for /metrics; in between the last counts are said again."""

COUNT_SECONDS = 2.0
"""How long /metrics waits for the corrections database before it answers without it."""


class Service:
    """The application with its state; an instance is the ASGI application itself."""

    def __init__(self, settings: ServeSettings, *, supervisor: int | None = None) -> None:
        """Open the model and the corrections.

        supervisor: process to tell of a reload, which tells the other processes.
        Raises ModelFileError, SettingsError, StorageError or MissingExtra.
        """
        telemetry = Telemetry()
        slot = Slot(settings.model, settings.runtime, log)
        store = (
            open_store(settings.corrections, photos=settings.photos)
            if settings.corrections
            else None
        )
        threads = max(1, parallel.cores() // settings.workers)
        batcher = Batcher(
            threads=threads,
            queue=settings.queue,
            batch=settings.batch,
            decode_seconds=settings.decode_seconds,
            meter=telemetry,
        )
        self.state = State(
            settings, telemetry, slot, batcher, store, store.secret() if store else b"", supervisor
        )
        self.tailorbird = self.state
        self._counts = _Counts()
        self._router = Router(self._routes(), lifespan=self._lifespan, redirect_slashes=False)
        inner: ASGIApp = self._route
        if settings.allow_origins:
            inner = CORSMiddleware(
                inner, allow_origins=settings.allow_origins, allow_methods=["GET", "POST"],
                allow_headers=["Authorization", "Content-Type", "X-Request-Id"], expose_headers=["X-Request-Id", "Retry-After"],
            )  # fmt: skip
        self._guard = Guard(inner, settings, count=telemetry.request)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        await self._guard(scope, receive, send)

    def begin_drain(self) -> None:
        """Say "not ready" from now on, and close each connection with its next answer."""
        self.state.ready = False
        self._guard.draining = True
        self.state.telemetry.ready.set(0)
        log("draining", seconds=self.state.settings.drain)

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self
        await self._router(scope, receive, send)

    @asynccontextmanager
    async def _lifespan(self, _: object) -> AsyncIterator[None]:
        served = self.state.slot.current
        self.state.telemetry.ready.set(1)
        log(
            "started", model=served.name, sha256=served.sha256, classes=len(served.classifier.classes),
            threads=self.state.batcher.threads, corrections=self.state.corrections is not None,
        )  # fmt: skip
        yield
        self.state.batcher.close()
        self.state.storing.shutdown(wait=True, cancel_futures=True)
        if self.state.corrections:
            self.state.corrections.close()
        log("stopped")

    def _routes(self) -> list[BaseRoute]:
        pages = Pages("tailorbird.service")
        protocol = inference_protocol
        return [
            Route("/", pages.page("index.html")),
            Route("/dashboard", pages.page("dashboard.html")),
            Route("/docs", pages.page("docs.html")),
            Route("/static/{name}", pages.static),
            Route("/favicon.ico", pages.page("icon.svg")),
            Route("/openapi.json", _openapi),
            Route("/healthz", _health),
            Route("/readyz", _ready),
            Route("/metrics", self._metrics),
            Route("/v1/predict", predict.predict, methods=["POST"]),
            Route("/v1/model", predict.model),
            Route("/v1/model/reload", predict.reload, methods=["POST"]),
            Route("/v1/corrections", corrections.correct, methods=["POST"]),
            Route("/v1/corrections/stats", corrections.stats),
            Route("/v2", protocol.server),
            Route("/v2/health/live", protocol.live),
            Route("/v2/health/ready", protocol.ready),
            Route("/v2/models/{name}", protocol.model),
            Route("/v2/models/{name}/ready", protocol.model_ready),
            Route("/v2/models/{name}/infer", protocol.infer, methods=["POST"]),
            Route("/v2/models/{name}/versions/{version}", protocol.model),
            Route("/v2/models/{name}/versions/{version}/ready", protocol.model_ready),
            Route("/v2/models/{name}/versions/{version}/infer", protocol.infer, methods=["POST"]),
        ]

    async def _metrics(self, request: Request) -> Response:
        """Answers in bounded time whatever the queue and the database do."""
        state = self.state
        await self._counts.look(state)
        extra = accuracy_metrics(
            self._counts.counts, state.slot.current.name, state.slot.current.sha256
        )
        return Response(
            state.telemetry.text(extra), media_type="text/plain; version=0.0.4; charset=utf-8"
        )


class _Counts:
    """The last counts of corrections; None while the database is away."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, bool], int] | None = {}
        self._looked = float("-inf")

    async def look(self, state: State) -> None:
        """Count anew if the last time is long enough ago."""
        if state.corrections is None or time.monotonic() - self._looked < COUNT_EVERY:
            return
        self._looked = time.monotonic()
        try:
            counting = asyncio.get_running_loop().run_in_executor(
                state.storing, state.corrections.counts
            )
            self.counts = await asyncio.wait_for(counting, COUNT_SECONDS)
        except (StorageError, TimeoutError):
            self.counts = None


async def _openapi(request: Request) -> JSONResponse:
    return JSONResponse(document(state_of(request).settings))


async def _health(request: Request) -> JSONResponse:
    return JSONResponse({"status": "alive"})


async def _ready(request: Request) -> JSONResponse:
    state = state_of(request)
    return JSONResponse({"status": state.status}, 200 if state.accepting else 503)


def create_app(settings: ServeSettings, **options: Any) -> Service:
    """The ASGI application for any server that runs one: `uvicorn.run(create_app(ServeSettings(model=Path("shop.onnx"))))`."""
    return Service(settings, **options)
