"""HTTP connections that cannot be held open for nothing: uvicorn's own protocol with limits on headers, time and number."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tailorbird.service.settings import Limits

MOST_HEADERS = 100


class TooMuch(Exception):
    """More request line and headers than any honest client sends; uvicorn answers 400 and closes."""


def protocol_for(settings: Limits) -> type[asyncio.Protocol]:
    """The protocol class uvicorn makes one instance of for each connection."""

    class Connection(HttpToolsProtocol):
        """Closes a connection whose headers do not arrive in time or are too long, and any beyond the most allowed."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self._in_head = True
            self._head_bytes = 0
            self._head_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > settings.connections:
                transport.write(_BUSY)
                transport.close()
            else:
                self._arm()

        def connection_lost(self, error: Exception | None) -> None:
            self._disarm()
            super().connection_lost(error)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self._in_head and not self.transport.is_closing():
                # One header without an end never reaches the callbacks below: count what came in meanwhile.
                self._head_bytes += len(data)
                if self._head_bytes > settings.max_head:
                    self.send_400_response("The request's headers are too long.")
                elif self._head_timer is None:
                    self._arm()

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._in_head, self._head_bytes = True, 0
            if self._head_timer is None:
                self._arm()

        def on_url(self, url: bytes) -> None:
            super().on_url(url)
            self._count(len(url))

        def on_header(self, name: bytes, value: bytes) -> None:
            super().on_header(name, value)
            self._count(len(name) + len(value))
            if len(self.headers) > MOST_HEADERS:
                raise TooMuch

        def on_headers_complete(self) -> None:
            self._in_head, self._head_bytes = False, 0
            self._disarm()
            super().on_headers_complete()

        def _count(self, more: int) -> None:
            self._head_bytes += more
            if self._head_bytes > settings.max_head:
                raise TooMuch

        def _arm(self) -> None:
            self._head_timer = self.loop.call_later(settings.head_timeout, self._too_slow)

        def _disarm(self) -> None:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None

        def _too_slow(self) -> None:
            self._head_timer = None
            busy = self.cycle is not None and not self.cycle.response_complete
            if not busy and not self.transport.is_closing():
                self.transport.close()

    return Connection


_BUSY = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
