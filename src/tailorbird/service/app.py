"""The ASGI application: its routes, start and shutdown."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from tailorbird import parallel
from tailorbird.corrections import Corrections, open_store
from tailorbird.errors import SettingsError, StorageError
from tailorbird.service import accent, corrections, inference_protocol, predict
from tailorbird.service.batching import Batcher
from tailorbird.service.candidate import Candidate
from tailorbird.service.drift import Tally, uploads_report
from tailorbird.service.openapi import document
from tailorbird.service.page_settings import PageSettings
from tailorbird.service.served import Served, Slot
from tailorbird.service.settings import ServeSettings
from tailorbird.service.state import Peers, State, state_of
from tailorbird.service.telemetry import Telemetry, accuracy_metrics, uploads_metrics
from tailorbird.service.web.logs import log
from tailorbird.service.web.middleware import Guard, route_path
from tailorbird.service.web.pages import Pages, Site

COUNT_EVERY = 15.0
"""Seconds for which /metrics returns the last counts of corrections again."""

COUNT_SECONDS = 2.0
"""How long /metrics waits for the corrections database before it answers without it."""


class Service:
    """The ASGI application with its state."""

    def __init__(self, settings: ServeSettings, *, peers: Peers | None = None) -> None:
        """Open the model and the corrections.

        peers: the other processes that serve the model, which a reload concerns too.

        Raises ModelFileError, SettingsError, StorageError or MissingExtra.
        """
        telemetry = Telemetry()
        slot = Slot(
            settings.model,
            settings.runtime,
            log,
            strict=settings.strict,
            device=settings.choice,
        )
        device = slot.current.classifier.device
        store = open_corrections(settings)
        batcher = Batcher(
            threads=max(1, parallel.cores() // settings.workers),
            queue=settings.queue,
            batch=settings.batch or device.batch,
            runs=device.streams,
            decode_seconds=settings.decode_seconds,
            meter=telemetry,
        )
        secret = store.secret() if store else b""
        candidate = None
        if settings.candidate is not None and store is not None:
            candidate = Candidate(
                settings.candidate,
                store,
                max_pixels=settings.max_pixels,
                busy=lambda: batcher.under_way >= batcher.threads,
                meter=telemetry.candidate,
            )
        self.state = State(
            settings,
            telemetry,
            slot,
            batcher,
            store,
            secret,
            peers,
            candidate,
            Tally(store) if store else None,
        )
        self.tailorbird = self.state
        self._counts = _Counts()
        self._router = Router(self._routes(), lifespan=self._lifespan, redirect_slashes=False)
        inner: ASGIApp = self._route
        if settings.allow_origins:
            inner = CORSMiddleware(
                inner,
                allow_origins=settings.allow_origins,
                allow_methods=["GET", "POST"],
                allow_headers=["Authorization", "Content-Type", "X-Request-Id"],
                expose_headers=["X-Request-Id", "Retry-After"],
            )
        self._guard = Guard(inner, settings, count=telemetry.request)
        # Not in the lifespan: an application that mounts this one may not run that.
        telemetry.ready.set(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        await self._guard(scope, receive, send)

    def begin_drain(self) -> None:
        """Report "not ready" from now on, and close each connection with its next response."""
        self.state.ready = False
        self._guard.draining = True
        self.state.telemetry.ready.set(0)
        log("draining", seconds=self.state.settings.drain)

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self
        if scope["type"] == "http" and not route_path(scope):
            # Relative addresses of the page need the final slash of its own.
            response = RedirectResponse(f"{scope['root_path']}/", 307)
            await response(scope, receive, send)
            return
        await self._router(scope, receive, send)

    @asynccontextmanager
    async def _lifespan(self, _: object) -> AsyncIterator[None]:
        served = self.state.slot.current
        log(
            "started",
            model=served.name,
            sha256=served.sha256,
            classes=len(served.classifier.classes),
            threads=self.state.batcher.threads,
            corrections=self.state.corrections is not None,
        )
        yield
        if self.state.candidate:
            self.state.candidate.close()
        self.state.batcher.close()
        self.state.storing.shutdown(wait=True, cancel_futures=True)
        if self.state.tally:
            await asyncio.to_thread(self.state.tally.close)
        if self.state.corrections:
            self.state.corrections.close()
        log("stopped")

    def _routes(self) -> list[BaseRoute]:
        pages = Pages("tailorbird.service", _site(self.state.settings.page))
        protocol = inference_protocol
        return [
            Route("/", pages.page("index.html")),
            Route("/dashboard", pages.page("dashboard.html")),
            Route("/docs", pages.page("docs.html")),
            Route("/static/{name}", pages.static),
            Route("/favicon.ico", pages.page(pages.icon)),
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
        """Return the metrics in bounded time, even if the database does not answer."""
        state = self.state
        served = state.slot.current
        counts, uploads = await self._counts.current(state, served)
        extra = accuracy_metrics(counts, served.name, served.sha256, served.classifier.classes)
        extra += uploads_metrics(uploads)
        kind = "text/plain; version=0.0.4; charset=utf-8"
        return Response(state.telemetry.text(extra), media_type=kind)


_Counted: TypeAlias = tuple[dict[tuple[str, bool], int] | None, dict[str, Any] | None]
"""Counts of corrections, and the report on uploads; None while the database does not answer."""


class _Counts:
    """The last counts of corrections and uploads."""

    def __init__(self) -> None:
        self._counts: _Counted = ({}, None)
        self._counted = float("-inf")
        self._model = ""

    async def current(self, state: State, served: Served) -> _Counted:
        """Return counts at most COUNT_EVERY old."""
        store, fresh = state.corrections, time.monotonic() - self._counted < COUNT_EVERY
        if store is None or (fresh and served.sha256 == self._model):
            return self._counts
        self._counted, self._model = time.monotonic(), served.sha256

        def count() -> _Counted:
            return store.counts(), uploads_report(store, served)

        try:
            counting = asyncio.get_running_loop().run_in_executor(state.storing, count)
            self._counts = await asyncio.wait_for(counting, COUNT_SECONDS)
        except (StorageError, TimeoutError):
            self._counts = (None, None)
        return self._counts


def open_corrections(settings: ServeSettings) -> Corrections | None:
    """Open the database; where that fails, the error names the options."""
    if not settings.corrections:
        return None
    hint = "store corrections elsewhere with --corrections PATH, or none with --corrections off"
    try:
        return open_store(settings.corrections, photos=settings.photos)
    except SettingsError as error:
        raise SettingsError(f"{error}; {hint}") from None
    except StorageError as error:
        raise type(error)(f"{error}; {hint}") from None


def _site(page: PageSettings) -> Site:
    """Return what is filled into the pages."""
    colour = accent.parse(page.accent) if page.accent else None
    styles = accent.styles(colour) if colour else ""
    return Site(page.title, page.language, page.logo_content(), styles, page.links)


async def _openapi(request: Request) -> JSONResponse:
    return JSONResponse(document(state_of(request).settings, request.scope.get("root_path", "")))


async def _health(request: Request) -> JSONResponse:
    return JSONResponse({"status": "alive"})


async def _ready(request: Request) -> JSONResponse:
    state = state_of(request)
    warning = state.slot.current.warning
    told = {"warning": warning} if warning is not None else {}
    return JSONResponse({"status": state.status, **told}, 200 if state.accepting else 503)
