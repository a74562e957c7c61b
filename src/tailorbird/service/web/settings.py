"""Settings shared by all web servers: the listening address, access rules and request limits."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

from tailorbird.errors import SettingsError
from tailorbird.service.web.names import normal_host, normal_origin

LOOPBACK = frozenset({"127.0.0.1", "[::1]", "localhost"})
"""Names of loopback in the Host header."""


@dataclass(frozen=True, kw_only=True)
class WebSettings:
    """Listening address, access rules, and limits of a request.

    Times are in seconds, sizes in bytes.

    host, port: address to listen on; port 0 takes a free one.
    token: bearer token that requests must send, at least 8 printable ASCII characters; None
        requires none.
    allow_hosts: accepted names in the Host header; empty accepts any, except on loopback
        without a token.
    allow_origins: other sites whose pages may send requests, such as https://shop.example or
        capacitor://localhost.
    frame_ancestors: sites whose pages may show these pages in a frame.
    max_body: largest request body. max_head: largest request line plus headers.
    deadline: time from the arrival of the whole request to its response.
    receive_timeout, min_rate: a body has this time to arrive, and one second more for each
        `min_rate` bytes that have arrived.
    head_timeout: time for a request's headers to arrive.
    connections: open connections in each process.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = field(default=None, repr=False)
    allow_hosts: tuple[str, ...] = ()
    allow_origins: tuple[str, ...] = ()
    frame_ancestors: tuple[str, ...] = ()
    max_body: int = 20 * 2**20
    max_head: int = 32 * 1024
    deadline: float = 30.0
    receive_timeout: float = 20.0
    min_rate: int = 32 * 1024
    head_timeout: float = 10.0
    connections: int = 1000

    def __post_init__(self) -> None:
        if problems := self.problems():
            raise SettingsError("; ".join(problems))
        for name, normal in (
            ("allow_hosts", normal_host),
            ("allow_origins", normal_origin),
            ("frame_ancestors", normal_origin),
        ):
            object.__setattr__(self, name, tuple(map(normal, getattr(self, name))))

    def ranges(self) -> list[tuple[str, float, float, float]]:
        """Return (name, value, lowest, highest) of every setting that is a number."""
        return [
            ("port", self.port, 0, 65535),
            ("max body", self.max_body, 1024, 512 * 2**20),
            ("deadline", self.deadline, 0.01, 3600),
            ("receive timeout", self.receive_timeout, 0.01, 3600),
            ("min rate", self.min_rate, 1, 2**30),
            ("head timeout", self.head_timeout, 0.01, 3600),
            ("connections", self.connections, 1, 100_000),
        ]

    def problems(self) -> list[str]:
        """Return a message for every invalid setting."""
        found = [
            f"{name} is {value}; it must be between {low:,} and {high:,}"
            for name, value, low, high in self.ranges()
            if not low <= value <= high
        ]
        if self.token is not None and not _usable_token(self.token):
            found.append(
                "the token must be at least 8 printable ASCII characters, "
                "without spaces at either end"
            )
        if self.host.startswith(("unix:", "/")):
            found.append(
                f"the host is {self.host!r}; Unix sockets are not supported: listen on 127.0.0.1 "
                "and let the proxy connect to that"
            )
        found += [
            f"the allowed host is {host!r}; write the bare name that browsers send, such as "
            "shop.example: no scheme, path, pattern or port"
            for host in self.allow_hosts
            if normal_host(host) is None
        ]
        found += [
            f"the {what} is {origin!r}; write it as browsers do, https://shop.example"
            for what, origins in (
                ("allowed origin", self.allow_origins),
                ("frame ancestor", self.frame_ancestors),
            )
            for origin in origins
            if normal_origin(origin) is None
        ]
        return found

    @property
    def is_loopback(self) -> bool:
        """Whether only programs on this machine can connect."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def hosts(self) -> frozenset[str]:
        """Host names that are answered; empty for any.

        On loopback without a token only loopback's names are accepted: otherwise a foreign site
        could resolve its own name to this machine (DNS rebinding) and count as the same
        origin.
        """
        if self.allow_hosts or (self.is_loopback and self.token is None):
            own = {normal_host(self.host) or ""} if self.is_loopback else set()
            return LOOPBACK | own | frozenset(self.allow_hosts)
        return frozenset()


def _usable_token(token: str) -> bool:
    return len(token) >= 8 and token.isascii() and token.isprintable() and token == token.strip()
