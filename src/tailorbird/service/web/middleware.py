"""ASGI middleware: host, token and origin checks, size and time limits, security headers.

Order of the checks: host, token, origin, encoding, announced size. The body is counted while it
is received, before anything parses it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from tailorbird.service.web.exchange import MOST_HELD, Exchange, Held, too_big
from tailorbird.service.web.logs import log
from tailorbird.service.web.names import host_name, origin_authority, same_authority
from tailorbird.service.web.problems import ClientGone, Problem
from tailorbird.service.web.settings import WebSettings

OPEN = ("/", "/dashboard", "/docs", "/openapi.json", "/favicon.ico")
"""Paths that need no token, as health checks and /static/ do: they reveal nothing about photos or
answers."""

HEALTH = ("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready")
"""Paths that need no token and answer any Host: load balancers ask by the machine's address."""

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_METHODS = _SAFE | {"POST", "PUT", "PATCH", "DELETE"}
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def security_headers(frame_ancestors: tuple[str, ...] = ()) -> dict[str, str]:
    """Return the headers of every response.

    frame_ancestors: origins whose pages may show these pages in a frame; empty for none.
    """
    policy = {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self' blob: data:",
        "connect-src": "'self'",
        "media-src": "'self' blob:",
        "manifest-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'self'",
        "frame-ancestors": " ".join(frame_ancestors) or "'none'",
    }
    headers = {
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    }
    if frame_ancestors:
        del headers["X-Frame-Options"]  # it cannot name an origin, and would forbid all of them
    return headers


@dataclass(frozen=True)
class Hints:
    """Advice in refusals; {host} stands for the name of the host.

    host: for a host that is not answered. origin: for a page of another site. path: for an
    unknown path. method: for a method that the path does not have.
    """

    host: str = "if it is yours, start the service with --allow-host {host}"
    origin: str = "start the service with --allow-origin to let them"
    path: str = "/docs lists all paths"
    method: str = "/docs describes it"


def _ignore(route: str, method: str, status: int, seconds: float) -> None:
    """Count nothing."""


class Guard:
    """ASGI middleware around a whole application."""

    def __init__(
        self,
        app: ASGIApp,
        settings: WebSettings,
        hints: Hints | None = None,
        count: Callable[[str, str, int, float], None] = _ignore,
    ) -> None:
        """Wrap `app`; `count` receives route, method, status and seconds of each request."""
        self._app = app
        self._settings = settings
        self._hints = hints or Hints()
        self._count = count
        self._token = hashlib.sha256(settings.token.encode()).digest() if settings.token else None
        self._held = Held(max(MOST_HELD, 4 * settings.max_body))
        headers = security_headers(settings.frame_ancestors)
        self._headers = [(name.lower().encode(), text.encode()) for name, text in headers.items()]
        self.draining = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check the request, pass it on, and turn failures into responses."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = Exchange(scope, receive, send, self._settings, self._held)
        given = exchange.headers.get("x-request-id", "")
        exchange.request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        exchange.common_headers = [
            *self._headers,
            (b"x-request-id", exchange.request_id.encode()),
        ]
        origin = exchange.headers.get("origin", "")
        exchange.readable_by = origin if origin in self._settings.allow_origins else None
        exchange.close = self.draining
        scope["tailorbird"] = exchange
        path = route_path(scope)
        try:
            await self._answer(scope, exchange, path)
        finally:
            exchange.release()
            self._account(scope, exchange)

    async def _answer(self, scope: Scope, exchange: Exchange, path: str) -> None:
        try:
            self._check(scope, exchange.headers, path)
            await self._app(scope, exchange.receive, exchange.send)
        except Problem as problem:
            await exchange.refuse(problem, path)
        except HTTPException as refused:
            await exchange.refuse(self._of_routing(refused, scope, path), path)
        except (ClientGone, ClientDisconnect):
            pass  # logged and counted as 499
        except Exception as error:
            number = exchange.request_id
            log("failed", level="error", exc_info=error, request_id=number, path=path)
            message = f"the service failed; its log has the cause under request id {number}"
            await exchange.refuse(Problem(500, "internal", message), path)

    def _account(self, scope: Scope, exchange: Exchange) -> None:
        """Count and log a request that has ended."""
        seconds = time.monotonic() - exchange.start
        route = getattr(scope.get("route"), "path", "other")
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._count(route, method, exchange.status, seconds)
        client = scope.get("client")
        log(
            "request",
            request_id=exchange.request_id,
            method=method,
            path=scope["path"][:200],
            status=exchange.status,
            seconds=round(seconds, 4),
            received=exchange.received,
            client=client[0][:64] if client else None,
            **exchange.notes,
        )

    def _check(self, scope: Scope, headers: Mapping[str, str], path: str) -> None:
        """Raise Problem for a host, token, origin, encoding or size that is not accepted."""
        host = headers.get("host", "").lower()
        if sum(name == b"host" for name, _ in scope["headers"]) > 1:
            raise Problem(400, "bad-host", "the request has several Host headers; send one")
        if path not in HEALTH:
            self._check_host(host)
        is_open = path in OPEN or path in HEALTH or path.startswith("/static/")
        if self._token is not None and not is_open and scope["method"] != "OPTIONS":
            self._check_token(headers.get("authorization", ""), self._token)
        if scope["method"] not in _SAFE:
            self._check_origin(headers, host)
        if headers.get("content-encoding", "identity").lower() != "identity":
            message = "compressed bodies are not accepted; photos are compressed already"
            raise Problem(415, "unsupported-media-type", message)
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self._settings.max_body:
            raise too_big(self._settings.max_body)

    def _check_host(self, host: str) -> None:
        hosts = self._settings.hosts
        name = host_name(host)
        if not hosts or name in hosts:
            return
        if not host:
            message = "the request has no Host header; send the name of this service"
        else:
            hint = self._hints.host.replace("{host}", name[:100])
            message = f"the host {host[:100]!r} is not served here; {hint}"
        raise Problem(400, "bad-host", message)

    @staticmethod
    def _check_token(authorization: str, expected: bytes) -> None:
        scheme, _, token = authorization.partition(" ")
        given = hashlib.sha256(token.strip().encode("utf-8", "surrogateescape")).digest()
        if scheme.lower() != "bearer" or not hmac.compare_digest(given, expected):
            message = "send the service's token as `Authorization: Bearer TOKEN`"
            raise Problem(401, "unauthorized", message, {"WWW-Authenticate": "Bearer"})

    def _check_origin(self, headers: Mapping[str, str], host: str) -> None:
        """Allow changes only from this service's pages and from pages of allowed sites.

        Browsers send the site of a page in these headers.
        """
        origin = headers.get("origin")
        if origin in self._settings.allow_origins:
            return
        if origin is None:
            accepted = headers.get("sec-fetch-site", "none") in ("same-origin", "none")
        else:
            authority = origin_authority(origin)
            accepted = authority is not None and same_authority(authority, host)
        if not accepted:
            site = (origin or "another site")[:100]
            message = f"pages of {site} may not use this service; {self._hints.origin}"
            raise Problem(403, "forbidden", message)

    def _of_routing(self, refused: HTTPException, scope: Scope, path: str) -> Problem:
        """Return the problem for a refusal of the router: 404 or 405."""
        headers = dict(refused.headers or {})
        if refused.status_code == 405:
            allowed = headers.get("Allow", "other methods")
            message = (
                f"{path[:200]} accepts {allowed}, not {scope['method'][:20]}; {self._hints.method}"
            )
            return Problem(405, "method-not-allowed", message, headers)
        message = f"there is nothing at {path[:200]}; {self._hints.path}"
        return Problem(refused.status_code, "not-found", message, headers)


def route_path(scope: Scope) -> str:
    """Return the path below the point at which the application is mounted."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "").rstrip("/")
    return path[len(root) :] if root and f"{path}/".startswith(f"{root}/") else path
