"""What can be set of a running service, with the defaults and why they are what they are."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tailorbird.errors import SettingsError

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class Limits(Protocol):
    """What the guard and the connections need to know of a service; fields as in `Settings`."""

    @property
    def host(self) -> str:
        """Where to listen."""

    @property
    def port(self) -> int:
        """Where to listen; 0 for any free port."""

    @property
    def token(self) -> str | None:
        """Wanted of every request, or None."""

    @property
    def hosts(self) -> frozenset[str]:
        """Host names answered; empty for any."""

    @property
    def allow_origins(self) -> tuple[str, ...]:
        """Other sites whose pages may ask."""

    @property
    def max_body(self) -> int:
        """Bytes of a request."""

    @property
    def deadline(self) -> float:
        """Seconds for a request."""

    @property
    def receive_timeout(self) -> float:
        """Seconds for a body to arrive."""

    @property
    def head_timeout(self) -> float:
        """Seconds for headers to arrive."""

    @property
    def max_head(self) -> int:
        """Bytes of headers."""

    @property
    def connections(self) -> int:
        """Open connections."""


@dataclass(frozen=True)
class Settings:
    """How to serve one model. Times are in seconds, sizes in bytes unless the name says otherwise.

    model: the model file; read again at a reload.
    host, port: where to listen; loopback unless asked otherwise. Port 0 takes a free one.
    workers: processes, each with its own session; they share the listening socket and divide the cores.
    token: wanted as `Authorization: Bearer` by everything that answers about photos; None lets everybody in.
    corrections: database of corrections, a path or URL; None keeps none.
    photos: folder that photos of corrections are kept in; None keeps none.
    max_body: 20 MiB holds what phones make; a page shrinks photos before it sends them.
    max_pixels: from the header, before decoding; half of it for WebP and AVIF. 50 megapixels is the largest common phone sensor.
    max_photos: photos in one request.
    queue: photos accepted and not yet answered, in each process; more are refused at once. 64 wait less than a second on two cores.
    batch: the most photos in one run; small, because one run on one core takes as long as all its photos together.
    deadline: for a whole request, receiving included; what cannot be answered in time is dropped before it costs inference.
    receive_timeout: for a request's body. head_timeout: for its headers. max_head: bytes of request line and headers.
    connections: open connections in each process.
    drain: after SIGTERM, how long to say "not ready" and close connections politely before listening ends.
    allow_hosts: values of the Host header that are answered; empty for any, which is the default off loopback.
    allow_origins: other sites whose pages may call the API from a browser.
    runtime: a folder the worker processes share: counters for /metrics, and the last model that worked.
    """

    model: Path
    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    token: str | None = field(default=None, repr=False)
    corrections: str | None = field(default=None, repr=False)
    photos: Path | None = None
    max_body: int = 20 * 2**20
    max_pixels: int = 50_000_000
    max_photos: int = 32
    queue: int = 64
    batch: int = 4
    deadline: float = 30.0
    receive_timeout: float = 20.0
    head_timeout: float = 10.0
    max_head: int = 32 * 1024
    connections: int = 1000
    drain: float = 1.0
    allow_hosts: tuple[str, ...] = ()
    allow_origins: tuple[str, ...] = ()
    runtime: Path | None = None

    def __post_init__(self) -> None:
        problems = [
            f"{name} is {value}; it must be between {low:,} and {high:,}"
            for name, value, low, high in (
                ("port", self.port, 0, 65535),
                ("workers", self.workers, 1, 256),
                ("max body", self.max_body, 1024, 512 * 2**20),
                ("max pixels", self.max_pixels, 4096, 1_000_000_000),
                ("max photos", self.max_photos, 1, 1000),
                ("queue", self.queue, self.max_photos, 100_000),
                ("batch", self.batch, 1, 256),
                ("deadline", self.deadline, 0.01, 3600),
                ("receive timeout", self.receive_timeout, 0.01, 3600),
                ("head timeout", self.head_timeout, 0.01, 3600),
                ("connections", self.connections, 1, 100_000),
                ("drain", self.drain, 0, 600),
            )
            if not low <= value <= high
        ]
        if self.token is not None and (
            len(self.token) < 8
            or not self.token.isascii()
            or not self.token.isprintable()
            or self.token != self.token.strip()
        ):
            problems.append(
                "the token must be at least 8 printable ASCII characters, without spaces around them"
            )
        problems += [
            f"the allowed origin is {origin!r}; write it as browsers do, https://shop.example"
            for origin in self.allow_origins
            if not origin.startswith(("http://", "https://")) or origin.count("/") != 2
        ]
        if problems:
            raise SettingsError("; ".join(problems))

    @property
    def is_loopback(self) -> bool:
        """Whether only programs on this machine can connect."""
        return self.host in LOOPBACK

    @property
    def hosts(self) -> frozenset[str]:
        """Host names answered, lower case, without port; empty for any.

        On loopback without a token only loopback's names are: a page elsewhere could otherwise point its own name at this
        machine (DNS rebinding) and pass for the same origin.
        """
        named = frozenset(host.lower() for host in self.allow_hosts)
        if named or (self.is_loopback and self.token is None):
            return named | LOOPBACK | {"[::1]"}
        return frozenset()
