"""A page for this machine only, whose address contains a secret key: the base of the local pages.

Other users of the machine can reach its loopback ports. So the address contains a random key;
opening it sets a cookie, without which nothing about the photos is served.
"""

from __future__ import annotations

import asyncio
import hmac
import io
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import parse_qs

from PIL import Image
from starlette.requests import Request, cookie_parser
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route, Router
from starlette.types import Receive, Scope, Send

from tailorbird import images
from tailorbird.dataset import Sample
from tailorbird.errors import ImageError
from tailorbird.service.web.exchange import body_of, media_type, parse_json
from tailorbird.service.web.logs import configure_logging
from tailorbird.service.web.middleware import Guard, Hints
from tailorbird.service.web.pages import Pages, Site
from tailorbird.service.web.problems import ClientGone, Problem, of_image
from tailorbird.service.web.server import Server, address, listen
from tailorbird.service.web.settings import WebSettings

R = TypeVar("R")

SIDES = (64, 2048)
"""Smallest and largest longer side, in pixels, at which a photo may be requested."""

QUALITY = 88
"""JPEG quality of the photos on the page."""

DECODERS = 2
"""Photos decoded at once: the present and the next. The largest accepted one takes 256 MiB."""


@dataclass(frozen=True, kw_only=True)
class LocalSettings(WebSettings):
    """Limits of a local page; only answers are sent to it, so small ones are enough."""

    port: int = 0
    max_body: int = 2**20
    deadline: float = 60.0
    receive_timeout: float = 10.0
    connections: int = 100


class LocalPage:
    """The ASGI application of one local page. `key` opens it: /?key=KEY.

    A subclass adds the routes of its API and answers with the photos' bytes through `decoded`.
    """

    command = ""
    """The command that runs the page, such as `review`; it names the file of the page too."""

    def __init__(self, package: str, settings: LocalSettings, port: int) -> None:
        """Prepare the page.

        package: the one whose folder `page/` holds the page.
        port: where it listens. Browsers send cookies to every port of a host, so the name of the
            cookie holds the port.
        """
        self.key = secrets.token_urlsafe(32)
        self._once: set[str] = set()
        self._cookie = f"tailorbird-{self.command}-{port}"
        self._session = secrets.token_urlsafe(32)
        self._pages = Pages(package, Site(command=self.command))
        self._decoders = ThreadPoolExecutor(DECODERS, thread_name_prefix="decode")
        self._decoding = asyncio.Semaphore(DECODERS)
        shared: list[BaseRoute] = [
            Route("/", self._page),
            Route("/static/{name}", self._pages.static),
            Route("/favicon.ico", self._pages.page("icon.svg")),
        ]
        self._router = Router([*shared, *self.routes()])
        where = f"open the address that `tailorbird {self.command}` printed"
        self._locked = (
            "this page needs its key: open the whole address that `tailorbird "
            f"{self.command}` printed in the terminal"
        )
        hints = Hints(
            host=where, origin=where, path="the page is at /", method="use the page instead, at /"
        )
        self._guard = Guard(self._admit, settings, hints)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        await self._guard(scope, receive, send)

    def routes(self) -> Sequence[BaseRoute]:
        """Return the routes of the page's API."""
        raise NotImplementedError

    def new_single_use_key(self) -> str:
        """Return a key that opens the page once.

        It goes on a browser's command line, which other users of the machine can read.
        """
        key = secrets.token_urlsafe(32)
        self._once.add(key)
        return key

    def close(self) -> None:
        """Stop decoding."""
        self._decoders.shutdown(wait=True, cancel_futures=True)

    async def decoded(self, request: Request, work: Callable[[], bytes]) -> bytes:
        """Return the bytes of a photo for a request; few are decoded at once."""
        async with self._decoding:
            if await request.is_disconnected():
                raise ClientGone  # the page has moved on: do not decode a photo that is not shown
            return await asyncio.get_running_loop().run_in_executor(self._decoders, work)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on requests that have the cookie, or that open the page with the key.

        The page's scripts and styles need no key: they reveal nothing about the photos.
        """
        path = scope["path"]
        scope["app"] = self  # with an app the router raises 404 and 405, which the guard answers
        opens = path == "/" and scope["method"] == "GET"
        scope["key"] = opens and self._has_key(scope)
        is_open = path.startswith("/static/") or path == "/favicon.ico"
        if is_open or self._has_cookie(scope) or scope["key"]:
            await self._router(scope, receive, send)
        elif opens:
            page = self._pages.content("locked.html")
            response = Response(page, 403, {"Cache-Control": "no-store"}, "text/html")
            await response(scope, receive, send)
        else:
            raise Problem(403, "forbidden", self._locked)

    def _has_cookie(self, scope: Scope) -> bool:
        for name, value in scope["headers"]:
            if name == b"cookie":
                given = cookie_parser(value.decode("latin-1")).get(self._cookie, "")
                if hmac.compare_digest(given.encode(), self._session.encode()):
                    return True
        return False

    def _has_key(self, scope: Scope) -> bool:
        given = parse_qs(scope["query_string"].decode("latin-1")).get("key", [""])[0]
        if given in self._once:
            self._once.discard(given)
            return True
        return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), self.key.encode())

    async def _page(self, request: Request) -> Response:
        page = self._pages.content(f"{self.command}.html")
        response = Response(page, 200, {"Cache-Control": "no-store"}, "text/html")
        if request.scope["key"]:
            response.set_cookie(self._cookie, self._session, httponly=True, samesite="strict")
        return response


def side_of(request: Request, default: int) -> int:
    """Return the longer side that a request for a photo asks for. Raises Problem 400."""
    text, (least, most) = request.query_params.get("side", str(default)), SIDES
    digits = text.isascii() and text.isdecimal() and len(text) <= 5
    if not digits or not least <= int(text) <= most:
        message = f"side is {text[:20]!r}; it must be between {least} and {most} pixels"
        raise Problem(400, "bad-request", message)
    return int(text)


def thumbnail(sample: Sample, side: int) -> bytes:
    """Return a photo as JPEG, its longer side at most `side` pixels, without its own metadata.

    Raises Problem.
    """
    try:
        data = images.read_bytes(sample.path)
    except ImageError as error:
        message = f"{sample.name} can no longer be read: {error}"
        raise Problem(404, "photo-gone", message) from None
    try:
        image = images.decode(data, at_least=side).image
    except ImageError as error:
        raise of_image(error, data) from None
    image.thumbnail((side, side), Image.Resampling.BICUBIC, reducing_gap=2.0)
    out = io.BytesIO()
    Image.frombytes("RGB", image.size, image.tobytes()).save(out, "JPEG", quality=QUALITY)
    return out.getvalue()


def json_answer(content: Any) -> JSONResponse:
    """Return an answer that no cache keeps."""
    return JSONResponse(content, headers={"Cache-Control": "no-store"})


async def json_body(request: Request) -> Any:
    """Return the body as JSON; other sites cannot send that content type without a preflight."""
    kind, _ = media_type(request)
    if kind != "application/json":
        message = f"a body of type {kind[:100]!r} is not accepted; send application/json"
        raise Problem(415, "unsupported-media-type", message)
    return parse_json(await body_of(request))


def run_page(
    page_at: Callable[[LocalSettings, int], LocalPage],
    *,
    port: int,
    announce: Callable[[str], None],
    launch: Callable[[str], None] | None = None,
) -> None:
    """Serve a local page until SIGINT or SIGTERM.

    page_at: makes the page for its settings and port. announce: called with the page's address,
        which contains the key. launch: called with an address that works only once.

    Raises SettingsError, or StorageError when the port is taken.
    """
    settings = LocalSettings(port=port)
    bound = listen(settings)
    try:
        configure_logging(quiet=True)
        page = page_at(settings, bound.getsockname()[1])

        def started() -> None:
            opening = f"{address(settings, bound)}/?key="
            announce(opening + page.key)
            if launch is not None:
                launch(opening + page.new_single_use_key())

        Server(page, settings, started=started, lifespan=False).run(sockets=[bound])
        page.close()
    finally:
        bound.close()
