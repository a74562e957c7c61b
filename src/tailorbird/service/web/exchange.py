"""Handle one request and response: limit size and time of the body, add the common headers."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, TypeVar

from python_multipart.multipart import parse_options_header
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from tailorbird.service.web.problems import ClientGone, Problem, invalid, overloaded, too_late
from tailorbird.service.web.settings import WebSettings

T = TypeVar("T")

MOST_HELD = 256 * 2**20
"""Bytes of request bodies that a process holds at once, or four times the largest permitted body
if that is more. Otherwise many clients that each send a large body slowly would fill the memory
before one photo is admitted."""

LINGER_SECONDS = 5.0
LINGER_BYTES = 64 * 2**20
"""How much of a refused body is read and discarded: closing while the client still sends would
reset the connection before the client has read the refusal."""


@dataclass
class Held:
    """Bytes of the bodies that all requests together hold, and the maximum."""

    most: int
    bytes: int = 0


class Exchange:
    """A request being received and answered; the handlers find it in `scope["tailorbird"]`."""

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        settings: WebSettings,
        held: Held,
    ) -> None:
        self._receive = receive
        self._send = send
        self._settings = settings
        self._everybody = held
        self.headers: dict[str, str] = {}
        for name, value in scope["headers"]:
            self.headers.setdefault(name.decode("latin-1"), value.decode("latin-1"))
        self.start = time.monotonic()
        self.deadline = self.start + settings.deadline
        """time.monotonic() by which the response must be ready; counted from the arrival of the
        whole request."""
        self._expects = self.headers.get("expect", "").lower() == "100-continue"
        # Without either header a request has no body.
        self.complete = (
            "transfer-encoding" not in self.headers
            and self.headers.get("content-length", "0") == "0"
        )
        self.request_id = ""
        self.common_headers: list[tuple[bytes, bytes]] = []
        self.readable_by: str | None = None
        """An allowed origin of another site, whose pages may also read refusals."""
        self.received = 0
        self.held = 0
        self.status = 499
        """The status sent; 499, as in nginx, for a client that disconnected before."""
        self.started = False
        self.close = False
        self.notes: dict[str, Any] = {}
        """Further fields of the request's log line."""

    async def receive(self) -> Message:
        """Return the next message of the request. Raises Problem 413, 408 or 503."""
        if self.complete:
            return await self._receive()
        try:
            async with asyncio.timeout_at(_loop_time(self._receive_by())):
                message = await self._receive()
        except TimeoutError:
            self.close = True
            raise self._too_slow() from None
        self._expects = False
        if message["type"] != "http.request":
            self.complete = True
            return message
        size = len(message.get("body", b""))
        self.received += size
        self.complete = not message.get("more_body", False)
        if self.complete:
            self.deadline = time.monotonic() + self._settings.deadline
        if self.received > self._settings.max_body:
            raise too_big(self._settings.max_body)
        self.held += size
        self._everybody.bytes += size
        if self._everybody.bytes > self._everybody.most:
            raise overloaded("the uploads under way fill the memory; try again in a moment")
        return message

    def _receive_by(self) -> float:
        """Return the time by which the next part of the body must arrive.

        The body has `receive_timeout` seconds, and one second more for each `min_rate` bytes
        that have arrived. While bodies hold half of the permitted memory there is no extension,
        so that slow clients cannot keep it occupied.
        """
        by = self.start + self._settings.receive_timeout
        if self._everybody.bytes <= self._everybody.most / 2:
            by += self.received / self._settings.min_rate
        return by

    def _too_slow(self) -> Problem:
        seconds = time.monotonic() - self.start
        rate = self._settings.min_rate / 1024
        message = (
            f"the request's body did not arrive in time ({self.received:,} bytes in "
            f"{seconds:.0f} seconds); after {self._settings.receive_timeout:g} seconds it must "
            f"arrive at {rate:g} KiB per second or more"
        )
        return Problem(408, "request-timeout", message)

    async def send(self, message: Message) -> None:
        """Send a message of the response, with the common headers added that it lacks."""
        if message["type"] == "http.response.start":
            await self._linger()
            self.started = True
            self.status = message["status"]
            own = list(message.get("headers", ()))
            named = {name.lower() for name, _ in own}
            added = [each for each in self.common_headers if each[0] not in named]
            message["headers"] = [*own, *added]
            if self.close or not self.complete:
                message["headers"].append((b"connection", b"close"))
        await self._send(message)

    async def refuse(self, problem: Problem, path: str) -> None:
        """Answer with a problem, in the form of the protocol that `path` belongs to.

        Does nothing once a response has begun.
        """
        if self.started:
            return
        self.notes["problem"] = problem.code
        content: dict[str, Any] = {"error": {**problem.as_dict(), "request_id": self.request_id}}
        if path.startswith("/v2"):
            content = {"error": problem.message}
        body = json.dumps(content).encode()
        headers = {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            **problem.headers,
        }
        if self.readable_by:  # the CORS middleware does not see refusals of the outer middleware
            headers |= {"Access-Control-Allow-Origin": self.readable_by, "Vary": "Origin"}
        raw = [
            (name.lower().encode(), value.encode("latin-1", "replace"))
            for name, value in headers.items()
        ]
        await self.send({"type": "http.response.start", "status": problem.status, "headers": raw})
        await self.send({"type": "http.response.body", "body": body})

    async def _linger(self) -> None:
        """Discard the rest of a refused body within limits, so that the client reads the answer."""
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

    def release(self) -> None:
        """Stop counting this request's body."""
        self._everybody.bytes -= self.held
        self.held = 0


def _loop_time(monotonic: float) -> float:
    """Convert a time.monotonic() to the event loop's clock."""
    return asyncio.get_running_loop().time() + monotonic - time.monotonic()


def too_big(limit: int) -> Problem:
    """Return 413 for a body over the limit."""
    message = f"the request is larger than {limit / 2**20:,.0f} MiB; send smaller or fewer photos"
    return Problem(413, "body-too-large", message)


def exchange_of(request: Request) -> Exchange:
    """Return the exchange of a request, in any handler."""
    exchange: Exchange = request.scope["tailorbird"]
    return exchange


def deadline_of(request: Request) -> float:
    """Return the request's deadline, as time.monotonic()."""
    return exchange_of(request).deadline


def media_type(request: Request) -> tuple[str, dict[bytes, bytes]]:
    """Return the content type in lower case, and its parameters."""
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    return kind.decode("latin-1").lower(), options


async def body_of(request: Request) -> bytes:
    """Return the whole body. Raises Problem, or ClientDisconnect when the client has left."""
    chunks = [chunk async for chunk in request.stream()]
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def parse_json(body: bytes) -> Any:
    """Parse a body of JSON. Raises Problem 400."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise Problem(400, "bad-request", "the body is not valid JSON") from None


def check_query(request: Request, *known: str) -> None:
    """Raise Problem 422 for a query parameter that is not among `known`, or is there twice."""
    given = [name for name, _ in request.query_params.multi_items()]
    for name in given:
        if name not in known:
            valid = f"valid: {', '.join(known)}" if known else "there are none"
            raise invalid(f"unknown query parameter {name[:50]!r}; {valid}")
        if given.count(name) > 1:
            raise invalid(f"the query parameter {name!r} is given {given.count(name)} times")


async def in_time(request: Request, work: Awaitable[T]) -> T:
    """Await `work` until the request's deadline or until its client leaves.

    The body must have been received. Afterwards a request delivers only its empty last message,
    then the disconnect.

    Raises ClientGone, or Problem 503 when the deadline passes.
    """
    task = asyncio.ensure_future(work)
    disconnected = asyncio.ensure_future(_client_disconnects(request))
    for future in (task, disconnected):
        # An exception of one after the other has finished is not an error of the service.
        future.add_done_callback(_retrieve)
    try:
        await asyncio.wait(
            {task, disconnected},
            timeout=deadline_of(request) - time.monotonic(),
            return_when=asyncio.FIRST_COMPLETED,
        )
        if task.done():
            return task.result()
        if disconnected.done():
            disconnected.result()
            raise ClientGone
        raise too_late()
    finally:
        disconnected.cancel()
        if not task.done():
            task.cancel()


def _retrieve(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()


async def _client_disconnects(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
