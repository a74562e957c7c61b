"""The page of `tailorbird review`: on this machine only, for whoever has the address with its key.

Other users of the machine can reach its loopback ports. So the address carries a random key; opening it sets a cookie, and
without that cookie nothing of the photos is answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import io
import json
import secrets
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, ClassVar
from urllib.parse import parse_qs

import uvicorn
from PIL import Image
from starlette.requests import Request, cookie_parser
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route, Router
from starlette.types import Receive, Scope, Send

from tailorbird import images
from tailorbird.dataset import Sample, printable
from tailorbird.errors import ImageError, SettingsError, StorageError, StorageFull
from tailorbird.review import ChangedMeanwhile, Choice, Review
from tailorbird.service.connection import protocol_for
from tailorbird.service.guard import Guard, Hints
from tailorbird.service.pages import Pages
from tailorbird.service.problems import ClientGone, Problem, of_image
from tailorbird.service.server import KEEP_ALIVE, address, listen, signals_in_the_loop
from tailorbird.service.telemetry import Telemetry, configure_logging
from tailorbird.service.uploads import body_of, media_type

SIDES = (64, 2048)
"""Pixels: the least and the most a photo's longer side may be asked for."""

QUALITY = 88
"""Of the JPEG photos are shown as."""

DECODERS = 2
"""Photos decoded at the same time: the one on view and one in advance. The largest accepted photo takes 256 MiB."""


@dataclass(frozen=True)
class ReviewSettings:
    """The page's limits, fields as in `Settings`; what can be sent is a decision, so a little is enough."""

    port: int = 0
    host: ClassVar[str] = "127.0.0.1"
    token: ClassVar[None] = None
    hosts: ClassVar[frozenset[str]] = frozenset({"127.0.0.1", "localhost"})
    allow_origins: ClassVar[tuple[str, ...]] = ()
    max_body: ClassVar[int] = 2**20
    deadline: ClassVar[float] = 60.0
    receive_timeout: ClassVar[float] = 10.0
    head_timeout: ClassVar[float] = 10.0
    max_head: ClassVar[int] = 32 * 1024
    connections: ClassVar[int] = 100

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise SettingsError(
                f"port is {self.port}; it must be between 0 and 65,535, 0 for a free one"
            )


HINTS = Hints(
    host="open the address that `tailorbird review` printed",
    origin="open the address that `tailorbird review` printed",
    path="the page is at /",
    method="the page is at /",
)
LOCKED = "this page needs its key: open the whole address that `tailorbird review` printed in the terminal"


class ReviewService:
    """The ASGI application of one review. `key` opens it: /?key=KEY."""

    def __init__(self, review: Review, settings: ReviewSettings, port: int) -> None:
        """port: where it listens; cookies are sent to every port of a host, so its cookie is named after its own."""
        self.key = secrets.token_urlsafe(32)
        self._once: set[str] = set()
        self._review = review
        self._cookie = f"tailorbird-review-{port}"
        self._session = secrets.token_urlsafe(32)
        self._pages = Pages()
        self._decoders = ThreadPoolExecutor(DECODERS, thread_name_prefix="decode")
        self._decoding = asyncio.Semaphore(DECODERS)
        self._router = Router(self._routes())
        self._guard = Guard(self._admit, settings, Telemetry(), HINTS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        await self._guard(scope, receive, send)

    def key_for_once(self) -> str:
        """A key that opens the page a single time: a browser's command line can be read by the machine's other users."""
        key = secrets.token_urlsafe(32)
        self._once.add(key)
        return key

    def close(self) -> None:
        """Stop decoding."""
        self._decoders.shutdown(wait=True, cancel_futures=True)

    def _routes(self) -> list[BaseRoute]:
        return [
            Route("/", self._page),
            Route("/static/{name}", self._pages.static),
            Route("/favicon.ico", self._pages.icon),
            Route("/api/review", self._overview),
            Route("/api/progress", self._progress),
            Route("/api/items/{item:int}", self._item),
            Route("/api/photos/{photo:int}", self._photo),
            Route("/api/decisions", self._decide, methods=["POST"]),
            Route("/api/undo", self._undo, methods=["POST"]),
        ]

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on who has the cookie, or opens the page with the key. The page's scripts and styles tell nothing of the photos."""
        path = scope["path"]
        scope["app"] = self  # with an app the router raises what the guard answers
        scope["key"] = path == "/" and scope["method"] == "GET" and self._has_key(scope)
        is_open = path.startswith("/static/") or path == "/favicon.ico"
        if not (is_open or self._has_cookie(scope) or scope["key"]):
            if path == "/" and scope["method"] == "GET":
                page = self._pages.content("locked.html")
                await Response(page, 403, {"Cache-Control": "no-store"}, "text/html")(
                    scope, receive, send
                )
                return
            raise Problem(403, "forbidden", LOCKED)
        await self._router(scope, receive, send)

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
        response = Response(
            self._pages.content("review.html"), 200, {"Cache-Control": "no-store"}, "text/html"
        )
        if request.scope["key"]:
            response.set_cookie(self._cookie, self._session, httponly=True, samesite="strict")
        return response

    async def _overview(self, request: Request) -> Response:
        review = self._review
        number = {label: i for i, label in enumerate(review.classes)}
        rows = review.manifest.rows()
        items = []
        for item in review.items:
            labels = {number[review.dataset.samples[photo].label] for photo in item.photos}
            if item.kinds == ("suspect-label",):
                labels.add(number[review.judged[review.dataset.samples[item.photos[0]]].suggested])
            items.append({"kinds": item.kinds, "photos": item.photos, "labels": sorted(labels)})
        involved = {photo for item in review.items for photo in item.photos}
        counts = review.dataset.counts
        return _json(
            {
                "name": printable(review.source.resolve().name),
                "source": printable(str(review.source)),
                "manifest": printable(str(review.manifest.path)),
                "command": review.train_command,
                "classes": review.classes,
                "counts": [counts.get(label, 0) for label in review.classes],
                "items": items,
                "decisions": {
                    photo: rows[photo].decision
                    for photo in sorted(involved)
                    if rows[photo].decision
                },
                "progress": self._said(),
            }
        )

    async def _progress(self, request: Request) -> Response:
        return _json({"progress": self._said()})

    def _said(self) -> dict[str, Any]:
        return {
            **asdict(self._review.counts()),
            "photos": len(self._review.manifest),
            "can_undo": self._review.can_undo,
        }

    async def _item(self, request: Request) -> Response:
        number = request.path_params["item"]
        if number >= len(self._review.items):
            raise Problem(
                404,
                "not-found",
                f"there is no item {number}; there are {len(self._review.items):,}, counted from 0",
            )
        item = self._review.items[number]
        return _json(
            {
                "item": number,
                **asdict(item),
                "photos": [self._described(photo) for photo in item.photos],
            }
        )

    def _described(self, photo: int) -> dict[str, Any]:
        sample, row = self._review.dataset.samples[photo], self._review.manifest.row(photo)
        judged = self._review.judged.get(sample)
        return {
            "photo": photo,
            "name": sample.name,
            "source": f"/api/photos/{photo}?v={sample.digest[:16]}",
            "label": row.original,
            "now": row.label,
            "decision": row.decision,
            "split": sample.split,
            "suggested": judged.suggested if judged else None,
            "label_probability": judged.label_probability if judged else None,
            "suggested_probability": judged.suggested_probability if judged else None,
        }

    async def _photo(self, request: Request) -> Response:
        samples, number = self._review.dataset.samples, request.path_params["photo"]
        if number >= len(samples):
            raise Problem(
                404,
                "not-found",
                f"there is no photo {number}; there are {len(samples):,}, counted from 0",
            )
        asked, (least, most) = request.query_params.get("side", "1024"), SIDES
        if (
            not asked.isascii()
            or not asked.isdecimal()
            or len(asked) > 5
            or not least <= int(asked) <= most
        ):
            raise Problem(
                400,
                "bad-request",
                f"side is {asked[:20]!r}; it must be between {least} and {most} pixels",
            )
        async with self._decoding:
            if await request.is_disconnected():
                raise ClientGone  # somebody leafing quickly: what nobody looks at is not decoded
            work = partial(thumbnail, samples[number], int(asked))
            data = await asyncio.get_running_loop().run_in_executor(self._decoders, work)
        # The address holds the photo's content hash, so a kept copy is never that of another photo.
        return Response(
            data, headers={"Cache-Control": "private, max-age=3600"}, media_type="image/jpeg"
        )

    async def _decide(self, request: Request) -> Response:
        item, choices = _choices(await _body(request))
        await self._saved(partial(self._review.decide, item, choices))
        return self._changed(item, [choice.photo for choice in choices])

    async def _undo(self, request: Request) -> Response:
        await _body(request)
        undone = await self._saved(self._review.undo)
        if undone is None:
            raise Problem(
                409,
                "nothing-to-undo",
                "there is no decision to take back: none was made since the review was started",
            )
        item, photos = undone
        return self._changed(item, photos)

    def _changed(self, item: int, photos: Any) -> Response:
        """What was saved, as it now stands in the manifest's file."""
        return _json(
            {
                "saved": True,
                "item": item,
                "photos": [self._described(photo) for photo in photos],
                "progress": self._said(),
            }
        )

    async def _saved(self, work: Callable[[], Any]) -> Any:
        try:
            return await asyncio.get_running_loop().run_in_executor(None, work)
        except SettingsError as error:
            raise Problem(422, "invalid", str(error)) from None
        except ChangedMeanwhile as error:
            raise Problem(409, "conflict", str(error)) from None
        except StorageFull as error:
            raise Problem(507, "storage-full", str(error)) from None
        except StorageError as error:
            raise Problem(500, "storage-failed", str(error)) from None


def thumbnail(sample: Sample, side: int) -> bytes:
    """A photo as JPEG, its longer side at most `side` pixels, without any of the file's own metadata. Raises Problem."""
    try:
        data = images.read_bytes(sample.path)
    except ImageError as error:
        raise Problem(
            404, "photo-gone", f"{sample.name} cannot be read any more: {error}"
        ) from None
    try:
        image = images.decode(data, at_least=side).image
    except ImageError as error:
        raise of_image(error, data) from None
    image.thumbnail((side, side), Image.Resampling.BICUBIC, reducing_gap=2.0)
    out = io.BytesIO()
    Image.frombytes("RGB", image.size, image.tobytes()).save(out, "JPEG", quality=QUALITY)
    return out.getvalue()


def _json(value: Any) -> JSONResponse:
    return JSONResponse(value, headers={"Cache-Control": "no-store"})


async def _body(request: Request) -> Any:
    """The body's JSON. The content type is one that pages of other sites cannot send unasked."""
    kind, _ = media_type(request)
    if kind != "application/json":
        raise Problem(
            415,
            "unsupported-media-type",
            f"a body of type {kind[:100]!r} is not accepted; send application/json",
        )
    try:
        return json.loads(await body_of(request))
    except (ValueError, RecursionError):
        raise Problem(400, "bad-request", "the body is not JSON") from None


def _choices(said: Any) -> tuple[int, list[Choice]]:
    """The item and the decisions of a body. Raises Problem 422 for any other shape."""
    wanted = 'send {"item": 0, "decisions": [{"photo": 0, "decision": "keep"}]}, with "label" for relabel'
    try:
        item, decisions = said["item"], said["decisions"]
        choices = [
            Choice(each["photo"], each["decision"], each.get("label", "")) for each in decisions
        ]
    except (TypeError, KeyError, AttributeError):
        raise Problem(422, "invalid", wanted) from None
    numbers = [item, *(choice.photo for choice in choices)]
    texts = [text for choice in choices for text in (choice.decision, choice.label)]
    if not all(type(number) is int for number in numbers) or not all(
        type(text) is str for text in texts
    ):
        raise Problem(422, "invalid", wanted)
    return item, choices


def run(
    review: Review,
    *,
    port: int,
    announce: Callable[[str], None],
    launch: Callable[[str], None] | None = None,
) -> None:
    """What `tailorbird.service.serve_review` does. Serve until SIGINT or SIGTERM. Raises SettingsError, StorageError (the port is taken)."""
    settings = ReviewSettings(port)
    bound = listen(settings)
    try:
        configure_logging(quiet=True)
        service = ReviewService(review, settings, bound.getsockname()[1])
        config = uvicorn.Config(
            service, http=protocol_for(settings), ws="none", lifespan="off", log_config=None, access_log=False, server_header=False,
            proxy_headers=False, timeout_keep_alive=KEEP_ALIVE, timeout_graceful_shutdown=5,
        )  # fmt: skip
        server = _Server(config)

        def ready() -> None:
            place = f"{address(settings, bound)}/?key="
            announce(place + service.key)
            if launch is not None:
                launch(place + service.key_for_once())

        server.announce = ready
        server.run(sockets=[bound])
        service.close()
    finally:
        bound.close()


class _Server(uvicorn.Server):
    """uvicorn's server that says when it answers, and for which Ctrl-C is no failure: it is how a review ends."""

    announce: Callable[[], None]

    async def startup(self, sockets: list[Any] | None = None) -> None:
        """Then say so."""
        await super().startup(sockets)
        if self.started:
            self.announce()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handlers that run in the event loop."""
        stops = dict.fromkeys((signal.SIGTERM, signal.SIGINT), self._stop)
        with (
            contextlib.suppress(KeyboardInterrupt),
            signals_in_the_loop(stops, super().capture_signals()),
        ):
            yield

    def _stop(self) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True
