"""HTTP connections with limits on headers, time and number, on top of uvicorn's protocol.

uvicorn has no settings for the size of a request's head, its time limit, pipelined requests, or
ignoring upgrades; neither hypercorn nor granian has all of them. So its protocol class is
subclassed. That class is not a public interface: pyproject.toml limits uvicorn to the
versions that the tests of this module passed with.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
from http import HTTPStatus
from typing import Any, ClassVar

from httptools import HttpRequestParser
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tailorbird.service.web.middleware import security_headers
from tailorbird.service.web.problems import RETRY_AFTER, Problem
from tailorbird.service.web.settings import WebSettings

MOST_HEADERS = 100

MOST_PIPELINED = 32
"""Requests that a client may send before it has read the responses; each costs memory and time of
the event loop before any check."""

FIRST_REQUEST_SECONDS = 0.3
"""Seconds for which a new connection stays open at shutdown, in case its request is on the way."""

LINGER_SECONDS = 2.0
LINGER_BYTES = 2**20
"""What is still read and discarded after a refusal: closing at once would reset the connection
before the client has read the refusal."""

_UPGRADE = frozenset({b"upgrade", b"http2-settings"})


class Refused(Exception):
    """Raised in a callback of the parser; uvicorn then calls `send_400_response`."""


def protocol_for(settings: WebSettings) -> type[asyncio.Protocol]:
    """Return the protocol class of which uvicorn makes one instance per connection."""
    return type("LimitedConnection", (Connection,), {"settings": settings})


class Connection(HttpToolsProtocol):
    """Close connections that exceed the limits.

    These are connections whose headers are too slow or too long, those that do not read their
    response, and those beyond the permitted number.
    """

    settings: ClassVar[WebSettings]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._in_head = True
        self._began = False
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._stuck_timer: asyncio.TimerHandle | None = None
        self._reason = "the request is damaged: it does not follow HTTP/1.1"
        self._refused = False
        self._discarded = 0
        self._plain: bytes | None = None
        self._head_end = 0

    @property
    def _busy(self) -> bool:
        """Whether a request is being received or answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuse connections beyond the permitted number; start the timer of the first head."""
        super().connection_made(transport)
        if len(self.connections) > 2 * self.settings.connections:
            transport.abort()
        elif len(self.connections) > self.settings.connections:
            message = "too many connections are open; try again in a moment"
            self._refuse(Problem(503, "overloaded", message, {"Retry-After": str(RETRY_AFTER)}))
        else:
            self._start_head_timer()

    def connection_lost(self, error: Exception | None) -> None:
        """Stop the timers."""
        self._stop_head_timer()
        self._stop_stuck_timer()
        super().connection_lost(error)

    def data_received(self, data: bytes) -> None:
        """Parse what arrived, within the limits."""
        if self._refused:
            self._discarded += len(data)
            if self._discarded > LINGER_BYTES:
                self.transport.close()
            return
        was_in_head = self._in_head
        super().data_received(data)
        if self._plain is not None and not self._refused:
            self._restart_without_upgrade(data)
            return
        if self._refused or self.transport.is_closing():
            return
        if was_in_head and self._in_head:
            # An endless header never reaches the callbacks below: count what has arrived.
            self._head_bytes += len(data)
            if self._head_bytes > self.settings.max_head:
                self.send_400_response("")
                return
        if self._head_timer is None and not self._busy:
            self._start_head_timer()

    def on_message_begin(self) -> None:
        """Start counting and timing a head."""
        super().on_message_begin()
        self._in_head, self._began, self._head_bytes = True, True, 0
        if self._head_timer is None:
            self._start_head_timer()

    def on_url(self, url: bytes) -> None:
        """Count the request line."""
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a header."""
        super().on_header(name, value)
        self._count(len(name) + len(value))
        if len(self.headers) > MOST_HEADERS:
            self._reason = f"the request has more than {MOST_HEADERS} headers"
            raise Refused

    def on_headers_complete(self) -> None:
        """Stop timing the head; begin the request unless it must be parsed again."""
        self._in_head, self._began, self._head_bytes = False, False, 0
        self._stop_head_timer()
        if len(self.pipeline) >= MOST_PIPELINED:
            raise Refused
        if self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT":
            self._plain = self._head_without_upgrade()
        else:
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        """End the request unless it must be parsed again."""
        if self._plain is None:
            super().on_message_complete()

    def _restart_without_upgrade(self, data: bytes) -> None:
        """Parse a request again without its Upgrade header.

        The parser takes what follows the head for the other protocol, so a body would be lost or
        read as the next request. HTTP lets a server ignore the header, which some clients, such
        as Java's, send with every request.
        """
        assert self._plain is not None
        plain, self._plain = self._plain, None
        self.parser = HttpRequestParser(self)
        # As uvicorn sets it: data after `Connection: close` does not spoil the first request.
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.data_received(plain + data[self._head_end :])

    def _head_without_upgrade(self) -> bytes:
        """Return the current request's head without its Upgrade header."""
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        lines = [b"%s %s HTTP/%s" % (method, self.url, version)]
        for name, value in self.headers:
            if name == b"connection":
                words = (w for w in value.split(b",") if w.strip().lower() not in _UPGRADE)
                value = b", ".join(words)
            if name not in _UPGRADE:
                lines.append(name + b": " + value)
        return b"\r\n".join([*lines, b"", b""])

    def _unsupported_upgrade_warning(self) -> None:
        """Note where the head ends: uvicorn calls this while it handles the parser's exception."""
        error = sys.exception()
        self._head_end = error.args[0] if error else 0

    def on_response_complete(self) -> None:
        """Time how long the client takes to read the rest of the response."""
        super().on_response_complete()
        if self.transport.get_write_buffer_size():
            self._start_stuck_timer()

    def shutdown(self) -> None:
        """Close at shutdown; a connection just accepted may have its request on the way."""
        if self.cycle is None and not self._refused:
            self.loop.call_later(FIRST_REQUEST_SECONDS, super().shutdown)
        else:
            super().shutdown()

    def pause_writing(self) -> None:
        """Time how long the client takes to read."""
        super().pause_writing()
        self._start_stuck_timer()

    def resume_writing(self) -> None:
        """Stop timing the client."""
        super().resume_writing()
        self._stop_stuck_timer()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not an acceptable request."""
        if self._head_bytes > self.settings.max_head:
            self._reason = f"the request's headers are longer than {self.settings.max_head:,} bytes"
        self._refuse(Problem(400, "bad-request", self._reason))

    def _refuse(self, problem: Problem) -> None:
        """Answer data that is not a valid request with a problem, and close."""
        self._stop_head_timer()
        self._refused = True
        if self._busy and (
            self.pipeline or not self.cycle.more_body or self.cycle.response_started
        ):
            self.transport.close()  # a refusal would be taken for the earlier request's response
            return
        if self._busy:  # the body of the one request under way is damaged; its handler stops
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.write(self._response(problem))
        self.transport.write_eof()
        self._head_timer = self.loop.call_later(LINGER_SECONDS, self.transport.abort)

    def _response(self, problem: Problem) -> bytes:
        """Return a whole response with the headers that every response has."""
        request_id = secrets.token_hex(8)
        body = json.dumps({"error": {**problem.as_dict(), "request_id": request_id}}).encode()
        headers = {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            "Connection": "close",
            **security_headers(self.settings.frame_ancestors),
            "X-Request-Id": request_id,
            **problem.headers,
        }
        lines = [f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}"]
        lines += [f"{name.lower()}: {value}" for name, value in headers.items()]
        return "\r\n".join([*lines, "", ""]).encode() + body

    def _count(self, more: int) -> None:
        self._head_bytes += more
        if self._head_bytes > self.settings.max_head:
            raise Refused

    def _start_head_timer(self) -> None:
        self._head_timer = self.loop.call_later(self.settings.head_timeout, self._head_too_slow)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_too_slow(self) -> None:
        self._head_timer = None
        if self._busy or self.transport.is_closing():
            return
        if self._began:
            seconds = self.settings.head_timeout
            message = f"the request's headers did not arrive within {seconds:g} seconds"
            self._refuse(Problem(408, "request-timeout", message))
        else:
            self.transport.close()

    def _start_stuck_timer(self) -> None:
        """Limit the time in which the client must read its response."""
        self._stop_stuck_timer()
        self._stuck_timer = self.loop.call_later(self.settings.receive_timeout, self._give_up)

    def _stop_stuck_timer(self) -> None:
        if self._stuck_timer is not None:
            self._stuck_timer.cancel()
            self._stuck_timer = None

    def _give_up(self) -> None:
        self._stuck_timer = None
        if self.transport.get_write_buffer_size():
            self.transport.abort()
