"""Apply the headers of trusted proxies: client address, scheme, and removed path prefix."""

from __future__ import annotations

import ipaddress
import re

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

_PREFIX = re.compile(r"(/[A-Za-z0-9._~@%+-]+){1,20}")


class ForwardedHeaders:
    """ASGI middleware: apply X-Forwarded-For, -Proto and -Prefix of trusted proxies.

    X-Forwarded-Prefix is the part of the path that the proxy removed; it becomes `root_path`.
    """

    def __init__(self, app: ASGIApp, trusted: tuple[str, ...]) -> None:
        """Trust proxies with the addresses or networks `trusted`; `*` trusts any."""
        self._app = ProxyHeadersMiddleware(app, list(trusted))  # type: ignore[arg-type]
        self._any = "*" in trusted
        self._networks = [
            ipaddress.ip_network(text, strict=False) for text in trusted if text != "*"
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Apply the prefix, then pass the request on."""
        if scope["type"] == "http" and self._trusts(scope.get("client")):
            given = dict(scope["headers"]).get(b"x-forwarded-prefix", b"").decode("latin-1")
            prefix = given.strip().rstrip("/")
            if _PREFIX.fullmatch(prefix):
                root = scope.get("root_path", "") + prefix
                scope = {**scope, "root_path": root, "path": prefix + scope["path"]}
        await self._app(scope, receive, send)  # type: ignore[arg-type]

    def _trusts(self, client: tuple[str, int] | None) -> bool:
        if self._any:
            return True
        try:
            address = ipaddress.ip_address(client[0] if client else "")
        except ValueError:
            return False
        return any(address in network for network in self._networks)
