"""HTTP connections that cannot be held open for nothing: uvicorn's own protocol with limits on headers, time and number."""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
from http import HTTPStatus
from typing import Any

from httptools import HttpRequestParser
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tailorbird.service.guard import HEADERS
from tailorbird.service.problems import RETRY_AFTER, Problem
from tailorbird.service.settings import Limits

MOST_HEADERS = 100

MOST_PIPELINED = 32
"""Requests a client may send before it has read the answers; each costs memory and a turn of the event loop before any check."""

FIRST_REQUEST_SECONDS = 0.3
"""How long a new connection is left open at the end; its request, if it comes, is answered."""

LINGER_SECONDS = 2.0
LINGER_BYTES = 2**20
"""What is still read and thrown away after a refusal: closing at once would reset the connection before the refusal is read."""


_UPGRADE = frozenset({b"upgrade", b"http2-settings"})


class Refused(Exception):
    """Raised inside the parser's callbacks, which makes uvicorn call `send_400_response`; the reason is kept aside."""


def protocol_for(settings: Limits) -> type[asyncio.Protocol]:
    """The protocol class uvicorn makes one instance of for each connection."""

    class Connection(HttpToolsProtocol):
        """Closes a connection whose headers do not arrive in time or are too long, one that takes no answer, and any beyond the most allowed."""

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
            super().connection_made(transport)
            if len(self.connections) > 2 * settings.connections:
                transport.abort()
            elif len(self.connections) > settings.connections:
                said = "too many connections are open; try again in a moment"
                self._refuse(Problem(503, "overloaded", said, {"Retry-After": str(RETRY_AFTER)}))
            else:
                self._arm()

        def connection_lost(self, error: Exception | None) -> None:
            self._disarm()
            self._unstick()
            super().connection_lost(error)

        def data_received(self, data: bytes) -> None:
            if self._refused:
                self._discarded += len(data)
                if self._discarded > LINGER_BYTES:
                    self.transport.close()
                return
            was_in_head = self._in_head
            super().data_received(data)
            if self._plain is not None and not self._refused:
                # The parser takes what follows for the other protocol: a body would be lost, or read as the next request.
                # HTTP lets us pass over the wish, which clients such as Java's send with any request; so does a new parser.
                plain, self._plain = self._plain, None
                self.parser = HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(
                    lenient_data_after_close=True
                )  # as uvicorn's: the first request is answered
                self.data_received(plain + data[self._head_end :])
                return
            if self._refused or self.transport.is_closing():
                return
            if was_in_head and self._in_head:
                # One header without an end never reaches the callbacks below: count what came in meanwhile.
                self._head_bytes += len(data)
                if self._head_bytes > settings.max_head:
                    self.send_400_response("")
                    return
            if self._head_timer is None and not self._busy:
                self._arm()

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._in_head, self._began, self._head_bytes = True, True, 0
            if self._head_timer is None:
                self._arm()

        def on_url(self, url: bytes) -> None:
            super().on_url(url)
            self._count(len(url))

        def on_header(self, name: bytes, value: bytes) -> None:
            super().on_header(name, value)
            self._count(len(name) + len(value))
            if len(self.headers) > MOST_HEADERS:
                self._reason = f"a request may have {MOST_HEADERS} headers"
                raise Refused

        def on_headers_complete(self) -> None:
            self._in_head, self._began, self._head_bytes = False, False, 0
            self._disarm()
            if len(self.pipeline) >= MOST_PIPELINED:
                raise Refused
            if self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT":
                self._plain = self._without_upgrade()
            else:
                super().on_headers_complete()

        def on_message_complete(self) -> None:
            if self._plain is None:
                super().on_message_complete()

        def _without_upgrade(self) -> bytes:
            """The head of the request at hand without its wish for another protocol, as bytes."""
            lines = [
                b"%s %s HTTP/%s"
                % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
            ]
            for name, value in self.headers:
                if name == b"connection":
                    value = b", ".join(
                        word for word in value.split(b",") if word.strip().lower() not in _UPGRADE
                    )
                if name not in _UPGRADE:
                    lines.append(name + b": " + value)
            return b"\r\n".join([*lines, b"", b""])

        def _unsupported_upgrade_warning(self) -> None:
            """Called by uvicorn while it handles the parser's exception, which holds where the head ends."""
            error = sys.exception()
            self._head_end = error.args[0] if error else 0

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self.transport.get_write_buffer_size():
                self._stick()

        def shutdown(self) -> None:
            """Listening has ended; a connection that was just accepted may have its request on the way."""
            if self.cycle is None and not self._refused:
                self.loop.call_later(FIRST_REQUEST_SECONDS, super().shutdown)
            else:
                super().shutdown()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._stick()

        def resume_writing(self) -> None:
            super().resume_writing()
            self._unstick()

        def send_400_response(self, msg: str) -> None:
            """Refuse what is no request."""
            if self._head_bytes > settings.max_head:
                self._reason = f"the request's headers are longer than {settings.max_head:,} bytes"
            self._refuse(Problem(400, "bad-request", self._reason))

        def _refuse(self, problem: Problem) -> None:
            """Answer what never becomes a request, in the form and with the headers of every answer, and close."""
            self._disarm()
            self._refused = True
            if self._busy and (
                self.pipeline or not self.cycle.more_body or self.cycle.response_started
            ):
                self.transport.close()  # the refusal would be taken for the answer to the request before
                return
            if (
                self._busy
            ):  # the damage is in the body of the one request under way, whose handler stops here
                self.cycle.disconnected = True
                self.cycle.message_event.set()
            identity = secrets.token_hex(8)
            body = json.dumps({"error": {**problem.as_dict(), "request_id": identity}}).encode()
            headers = {
                "Content-Type": "application/json", "Content-Length": str(len(body)), "Cache-Control": "no-store",
                "Connection": "close", **HEADERS, "X-Request-Id": identity, **problem.headers,
            }  # fmt: skip
            lines = [f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}"]
            lines += [f"{name.lower()}: {value}" for name, value in headers.items()]
            self.transport.write("\r\n".join([*lines, "", ""]).encode() + body)
            self.transport.write_eof()
            self._head_timer = self.loop.call_later(LINGER_SECONDS, self.transport.abort)

        def _count(self, more: int) -> None:
            self._head_bytes += more
            if self._head_bytes > settings.max_head:
                raise Refused

        def _arm(self) -> None:
            self._head_timer = self.loop.call_later(settings.head_timeout, self._too_slow)

        def _disarm(self) -> None:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None

        def _too_slow(self) -> None:
            self._head_timer = None
            if self._busy or self.transport.is_closing():
                return
            if self._began:
                said = (
                    f"the request's headers did not arrive within {settings.head_timeout:g} seconds"
                )
                self._refuse(Problem(408, "request-timeout", said))
            else:
                self.transport.close()

        def _stick(self) -> None:
            """Give a client that does not read its answer as long as one that does not send its request."""
            self._unstick()
            self._stuck_timer = self.loop.call_later(settings.receive_timeout, self._give_up)

        def _unstick(self) -> None:
            if self._stuck_timer is not None:
                self._stuck_timer.cancel()
                self._stuck_timer = None

        def _give_up(self) -> None:
            self._stuck_timer = None
            if self.transport.get_write_buffer_size():
                self.transport.abort()

    return Connection
