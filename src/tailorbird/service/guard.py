"""What every request passes first: who may ask, how much and how slowly; and what every answer carries.

Order of the checks: host, token, origin, then the announced size; the body is counted while it is received, before anything parses it.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import re
import secrets
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tailorbird.service.problems import ClientGone, Problem, overloaded
from tailorbird.service.settings import Limits
from tailorbird.service.telemetry import Telemetry, log

OPEN = ("/", "/dashboard", "/docs", "/healthz", "/readyz", "/openapi.json", "/favicon.ico")
"""Paths that need no token, beside everything under /static/ and /v2/health/: they hold nothing of photos or answers."""

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; media-src 'self' blob:; "
    "manifest-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
}
_HEADERS = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

MOST_HELD = 256 * 2**20
"""Bytes of request bodies held at once in a process, or four of the largest if that is more: many clients that each send a
large body slowly would otherwise fill the memory before one photo is admitted."""

LINGER_SECONDS = 5.0
LINGER_BYTES = 64 * 2**20
"""How much of a refused body is read and thrown away: a client that is still sending sees a reset connection, not the refusal."""


@dataclass(frozen=True)
class Hints:
    """What a refusal advises: for a host that is not served ({host} is its name), for a page of another site, for an unknown path."""

    host: str = "if it is yours, start with --allow-host {host}"
    origin: str = "start it with --allow-origin to let them"
    path: str = "/docs shows what there is"
    method: str = "/docs shows how"


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(
        self, app: ASGIApp, settings: Limits, telemetry: Telemetry, hints: Hints | None = None
    ) -> None:
        self._hints = hints or Hints()
        self._app = app
        self._settings = settings
        self._telemetry = telemetry
        self._token = hashlib.sha256(settings.token.encode()).digest() if settings.token else None
        self._held = _Held(max(MOST_HELD, 4 * settings.max_body))
        self.draining = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check, pass on, and turn what goes wrong into an answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.monotonic()
        headers: dict[str, str] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1"), value.decode("latin-1"))
        given = headers.get("x-request-id", "")
        exchange = _Exchange(
            receive,
            send,
            start,
            self._settings,
            headers,
            given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8),
            self._held,
        )
        exchange.close = self.draining
        scope["tailorbird"] = exchange
        try:
            try:
                self._check(scope, headers)
                await self._app(scope, exchange.receive, exchange.send)
            except Problem as problem:
                await exchange.refuse(problem, scope["path"])
            except HTTPException as refused:
                allowed = dict(refused.headers or {})
                await exchange.refuse(
                    _of_routing(refused.status_code, scope, allowed, self._hints), scope["path"]
                )
            except (ClientGone, ClientDisconnect):
                pass  # 499 is logged and counted
            except Exception as error:
                log(
                    "failed",
                    level="error",
                    exc_info=error,
                    request_id=exchange.request_id,
                    path=scope["path"],
                )
                failed = Problem(
                    500,
                    "internal",
                    f"the service failed; its log says why, under {exchange.request_id}",
                )
                await exchange.refuse(failed, scope["path"])
        finally:
            self._held.bytes -= exchange.held
            self._account(scope, exchange, time.monotonic() - start)

    def _account(self, scope: Scope, exchange: _Exchange, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        self._telemetry.request(route, _method(scope), exchange.status, seconds)
        client = scope.get("client")
        log(
            "request", request_id=exchange.request_id, method=_method(scope), path=scope["path"][:200], status=exchange.status,
            seconds=round(seconds, 4), received=exchange.received, client=client[0][:64] if client else None, **exchange.notes,
        )  # fmt: skip

    def _check(self, scope: Scope, headers: dict[str, str]) -> None:
        """Raise Problem for a host, token, origin, encoding or size that is not accepted."""
        settings, path = self._settings, scope["path"]
        host = headers.get("host", "").lower()
        if sum(name == b"host" for name, _ in scope["headers"]) > 1:
            raise Problem(400, "bad-host", "the request has several Host headers")
        if settings.hosts and _without_port(host) not in settings.hosts:
            if not host:
                raise Problem(
                    400,
                    "bad-host",
                    "the request has no Host header; send the name this is reached under",
                )
            raise Problem(
                400,
                "bad-host",
                f"the host {host[:100]!r} is not served here; {self._hints.host.replace('{host}', _without_port(host)[:100])}",
            )
        is_open = path in OPEN or path.startswith(("/static/", "/v2/health/"))
        if self._token is not None and not is_open and scope["method"] != "OPTIONS":
            scheme, _, said = headers.get("authorization", "").partition(" ")
            given = hashlib.sha256(said.strip().encode("utf-8", "surrogateescape")).digest()
            if scheme.lower() != "bearer" or not hmac.compare_digest(given, self._token):
                raise Problem(
                    401,
                    "unauthorized",
                    "send the service's token as `Authorization: Bearer TOKEN`",
                    {"WWW-Authenticate": "Bearer"},
                )
        if scope["method"] not in _SAFE:
            self._check_origin(headers, host)
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise Problem(
                415,
                "unsupported-media-type",
                "compressed bodies are not accepted; photos are compressed already",
            )
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > settings.max_body:
            raise too_big(settings.max_body)

    def _check_origin(self, headers: dict[str, str], host: str) -> None:
        """A browser says which site a page came from; only our own pages and the allowed sites may change anything."""
        origin = headers.get("origin")
        if origin in self._settings.allow_origins:
            return
        own = origin is None or _netloc(origin) == host
        if not own or (
            origin is None and headers.get("sec-fetch-site", "none") not in ("same-origin", "none")
        ):
            raise Problem(
                403,
                "forbidden",
                f"pages of {(origin or 'another site')[:100]} may not use this service; {self._hints.origin}",
            )


def _netloc(origin: str) -> str | None:
    """Host and port of an origin, lower case; None for `null` and for what is no origin."""
    try:
        return urlsplit(origin).netloc.lower() or None
    except ValueError:
        return None


def too_big(limit: int) -> Problem:
    """413 for a body over the limit."""
    return Problem(
        413,
        "body-too-large",
        f"the request is larger than {limit / 2**20:,.0f} MiB; send smaller or fewer photos",
    )


def _of_routing(status: int, scope: Scope, headers: dict[str, str], hints: Hints) -> Problem:
    """What the router refuses: 404 or 405."""
    path = scope["path"][:200]
    if status == 405:
        message = f"{path} takes {headers.get('Allow', 'other methods')}, not {_method(scope)}; {hints.method}"
        return Problem(405, "method-not-allowed", message, headers)
    return Problem(status, "not-found", f"there is nothing at {path}; {hints.path}", headers)


@dataclass
class _Held:
    """Bytes of bodies that are being received or worked on, of all requests together, and the most allowed."""

    most: int
    bytes: int = 0


class _Exchange:
    """One request and its answer: counts what is received, adds what every answer carries, refuses."""

    def __init__(
        self,
        receive: Receive,
        send: Send,
        start: float,
        settings: Limits,
        headers: dict[str, str],
        request_id: str,
        everybody: _Held,
    ) -> None:
        self._receive = receive
        self._send = send
        self._settings = settings
        self._expects = headers.get("expect", "").lower() == "100-continue"
        # Without either header a request has no body.
        self.complete = (
            "transfer-encoding" not in headers and headers.get("content-length", "0") == "0"
        )
        self.request_id = request_id
        self.deadline = start + settings.deadline
        self.receive_by = start + min(settings.receive_timeout, settings.deadline)
        self.received = 0
        self.held = 0
        self._everybody = everybody
        origin = headers.get("origin", "")
        self._readable_by = origin if origin in settings.allow_origins else None
        self.status = 499
        """What is sent; 499, as nginx has it, for a client that went away before."""
        self.started = False
        self.close = False
        self.notes: dict[str, Any] = {}

    async def receive(self) -> Message:
        """The next piece of the body, counted and in time. Raises Problem 413 or 408."""
        if self.complete:
            return await self._receive()
        try:
            async with asyncio.timeout_at(_loop_time(self.receive_by)):
                message = await self._receive()
        except TimeoutError:
            self.close = True
            seconds = self._settings.receive_timeout
            raise Problem(
                408, "request-timeout", f"the request did not arrive within {seconds:g} seconds"
            ) from None
        self._expects = False
        if message["type"] == "http.request":
            size = len(message.get("body", b""))
            self.received += size
            self.complete = not message.get("more_body", False)
            if self.received > self._settings.max_body:
                raise too_big(self._settings.max_body)
            self.held += size
            self._everybody.bytes += size
            if self._everybody.bytes > self._everybody.most:
                raise overloaded(
                    "more photos are being sent than fit in memory; try again in a moment"
                )
        else:
            self.complete = True
        return message

    async def send(self, message: Message) -> None:
        """Add the headers of every answer to it."""
        if message["type"] == "http.response.start":
            await self._linger()
            self.started = True
            self.status = message["status"]
            message["headers"] = [
                *message.get("headers", ()),
                *_HEADERS,
                (b"x-request-id", self.request_id.encode()),
            ]
            if self.close or not self.complete:
                message["headers"].append((b"connection", b"close"))
        await self._send(message)

    async def refuse(self, problem: Problem, path: str) -> None:
        """Answer with a problem, in the form the protocol of `path` has for it; too late once an answer has begun."""
        if self.started:
            return
        self.notes["problem"] = problem.code
        said: dict[str, Any] = {"error": {**problem.as_dict(), "request_id": self.request_id}}
        if path.startswith("/v2"):
            said = {"error": problem.message}
        body = json.dumps(said).encode()
        headers = {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            **problem.headers,
        }
        if (
            self._readable_by
        ):  # refused outside of the CORS middleware, yet the page should learn why
            headers |= {"Access-Control-Allow-Origin": self._readable_by, "Vary": "Origin"}
        raw = [
            (name.lower().encode(), value.encode("latin-1", "replace"))
            for name, value in headers.items()
        ]
        await self.send({"type": "http.response.start", "status": problem.status, "headers": raw})
        await self.send({"type": "http.response.body", "body": body})

    async def _linger(self) -> None:
        """Throw the rest of a refused body away, within limits, so that the client gets to read the refusal."""
        if self.complete or self._expects or self.close:
            return
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                while not self.complete and self.received <= LINGER_BYTES:
                    message = await self._receive()
                    self.received += len(message.get("body", b""))
                    self.complete = not message.get("more_body", False)
        except TimeoutError:
            return


def _method(scope: Scope) -> str:
    """The method, or `other`: a label's values must be few."""
    method: str = scope["method"]
    return (
        method
        if method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
        else "other"
    )


def _without_port(host: str) -> str:
    return (
        host
        if host.endswith("]")
        else host.rpartition(":")[0]
        if re.search(r":\d+$", host)
        else host
    )


def _loop_time(monotonic: float) -> float:
    """A time.monotonic() as the event loop's clock has it."""
    return asyncio.get_running_loop().time() + monotonic - time.monotonic()
