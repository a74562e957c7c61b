"""The page of `tailorbird review`, for this machine only; its address contains a secret key.

Other users of the machine can reach its loopback ports. So the address contains a random
key; opening it sets a cookie, without which nothing about the photos is served.
"""

from __future__ import annotations

import asyncio
import hmac
import io
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any
from urllib.parse import parse_qs

from PIL import Image
from starlette.requests import Request, cookie_parser
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route, Router
from starlette.types import Receive, Scope, Send

from tailorbird import images, installing
from tailorbird.dataset import Sample, printable
from tailorbird.errors import ImageError, SettingsError, StorageError, StorageFull
from tailorbird.review import ChangedMeanwhile, Choice, Review
from tailorbird.service.web.exchange import body_of, media_type, parse_json
from tailorbird.service.web.logs import configure_logging
from tailorbird.service.web.middleware import Guard, Hints
from tailorbird.service.web.pages import Pages
from tailorbird.service.web.problems import ClientGone, Problem, invalid, of_image
from tailorbird.service.web.server import Server, address, listen
from tailorbird.service.web.settings import WebSettings

SIDES = (64, 2048)
"""Smallest and largest longer side, in pixels, at which a photo may be requested."""

QUALITY = 88
"""JPEG quality of the photos on the page."""

DECODERS = 2
"""Photos decoded at once: the present and the next. The largest accepted one takes 256 MiB."""


@dataclass(frozen=True, kw_only=True)
class ReviewSettings(WebSettings):
    """Limits of the page; only decisions are sent to it, so small ones are enough."""

    port: int = 0
    max_body: int = 2**20
    deadline: float = 60.0
    receive_timeout: float = 10.0
    connections: int = 100


_ADDRESS = "open the address that `tailorbird review` printed"
HINTS = Hints(
    host=_ADDRESS, origin=_ADDRESS, path="the page is at /", method="use the page instead, at /"
)
LOCKED = (
    "this page needs its key: open the whole address that `tailorbird review` printed in the "
    "terminal"
)


class ReviewService:
    """The ASGI application of one review. `key` opens it: /?key=KEY."""

    def __init__(self, review: Review, settings: ReviewSettings, port: int) -> None:
        """Prepare the page.

        port: where it listens. Browsers send cookies to every port of a host, so the name of the
            cookie holds the port.
        """
        self.key = secrets.token_urlsafe(32)
        self._once: set[str] = set()
        self._review = review
        self._cookie = f"tailorbird-review-{port}"
        self._session = secrets.token_urlsafe(32)
        self._pages = Pages("tailorbird.service.review")
        self._decoders = ThreadPoolExecutor(DECODERS, thread_name_prefix="decode")
        self._decoding = asyncio.Semaphore(DECODERS)
        self._router = Router(self._routes())
        self._guard = Guard(self._admit, settings, HINTS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        await self._guard(scope, receive, send)

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

    def _routes(self) -> list[BaseRoute]:
        return [
            Route("/", self._page),
            Route("/static/{name}", self._pages.static),
            Route("/favicon.ico", self._pages.page("icon.svg")),
            Route("/api/review", self._overview),
            Route("/api/progress", self._progress),
            Route("/api/items/{item:int}", self._item),
            Route("/api/photos/{photo:int}", self._photo),
            Route("/api/decisions", self._decide, methods=["POST"]),
            Route("/api/undo", self._undo, methods=["POST"]),
        ]

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
            raise Problem(403, "forbidden", LOCKED)

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
        page = self._pages.content("review.html")
        response = Response(page, 200, {"Cache-Control": "no-store"}, "text/html")
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
            if item.kinds in (("unsure",), ("suspect-label",)):
                judged = review.judged[review.dataset.samples[item.photos[0]]]
                labels.add(number[judged.suggested])
            items.append({"kinds": item.kinds, "photos": item.photos, "labels": sorted(labels)})
        involved = sorted({photo for item in review.items for photo in item.photos})
        counts = review.dataset.counts
        content = {
            "name": printable(review.source.resolve().name),
            "source": printable(str(review.source)),
            "manifest": printable(str(review.manifest.path)),
            "command": installing.runnable(review.train_command),
            "classes": review.classes,
            "counts": [counts.get(label, 0) for label in review.classes],
            "items": items,
            "decisions": {
                photo: rows[photo].decision for photo in involved if rows[photo].decision
            },
            "progress": self._progress_content(),
        }
        return _json(content)

    async def _progress(self, request: Request) -> Response:
        return _json({"progress": self._progress_content()})

    def _progress_content(self) -> dict[str, Any]:
        return {
            **asdict(self._review.counts()),
            "photos": len(self._review.manifest),
            "can_undo": self._review.can_undo,
        }

    async def _item(self, request: Request) -> Response:
        number, items = request.path_params["item"], self._review.items
        if number >= len(items):
            raise Problem(
                404, "not-found", f"there is no item {number}; valid: 0 to {len(items) - 1}"
            )
        item = items[number]
        photos = [self._photo_content(photo) for photo in item.photos]
        return _json({"item": number, **asdict(item), "photos": photos})

    def _photo_content(self, photo: int) -> dict[str, Any]:
        sample, row = self._review.dataset.samples[photo], self._review.manifest.row(photo)
        judged = self._review.judged.get(sample)
        return {
            "photo": photo,
            "name": sample.name,
            "source": f"api/photos/{photo}?v={sample.digest[:16]}",
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
            message = f"there is no photo {number}; valid: 0 to {len(samples) - 1}"
            raise Problem(404, "not-found", message)
        text, (least, most) = request.query_params.get("side", "1024"), SIDES
        digits = text.isascii() and text.isdecimal() and len(text) <= 5
        if not digits or not least <= int(text) <= most:
            message = f"side is {text[:20]!r}; it must be between {least} and {most} pixels"
            raise Problem(400, "bad-request", message)
        async with self._decoding:
            if await request.is_disconnected():
                raise ClientGone  # the page has moved on: do not decode a photo that is not shown
            work = partial(thumbnail, samples[number], int(text))
            data = await asyncio.get_running_loop().run_in_executor(self._decoders, work)
        # The address holds the photo's content hash, so a cached copy is never of another photo.
        headers = {"Cache-Control": "private, max-age=3600"}
        return Response(data, headers=headers, media_type="image/jpeg")

    async def _decide(self, request: Request) -> Response:
        item, choices = _choices(await _body(request))
        await _saved(partial(self._review.decide, item, choices))
        return self._changed(item, [choice.photo for choice in choices])

    async def _undo(self, request: Request) -> Response:
        await _body(request)
        undone = await _saved(self._review.undo)
        if undone is None:
            message = "there is no decision to undo: none was made since the review was started"
            raise Problem(409, "nothing-to-undo", message)
        item, photos = undone
        return self._changed(item, photos)

    def _changed(self, item: int, photos: Any) -> Response:
        """Return the changed item and its photos as now saved in the manifest."""
        content = [self._photo_content(photo) for photo in photos]
        return _json(
            {"saved": True, "item": item, "photos": content, "progress": self._progress_content()}
        )


async def _saved(work: Callable[[], Any]) -> Any:
    """Run work that writes the manifest, in a thread. Raises Problem."""
    try:
        return await asyncio.get_running_loop().run_in_executor(None, work)
    except SettingsError as error:
        raise invalid(str(error)) from None
    except ChangedMeanwhile as error:
        raise Problem(409, "conflict", str(error)) from None
    except StorageFull as error:
        raise Problem(507, "storage-full", str(error)) from None
    except StorageError as error:
        raise Problem(500, "storage-failed", str(error)) from None


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


def _json(content: Any) -> JSONResponse:
    return JSONResponse(content, headers={"Cache-Control": "no-store"})


async def _body(request: Request) -> Any:
    """Return the body as JSON; other sites cannot send that content type without a preflight."""
    kind, _ = media_type(request)
    if kind != "application/json":
        message = f"a body of type {kind[:100]!r} is not accepted; send application/json"
        raise Problem(415, "unsupported-media-type", message)
    return parse_json(await body_of(request))


def _choices(content: Any) -> tuple[int, list[Choice]]:
    """Return the item and the decisions of a body. Raises Problem 422 for any other shape."""
    wanted = (
        'send {"item": 0, "decisions": [{"photo": 0, "decision": "keep"}]}, '
        'with "label" for relabel'
    )
    try:
        item, decisions = content["item"], content["decisions"]
        choices = [
            Choice(each["photo"], each["decision"], each.get("label", "")) for each in decisions
        ]
    except (TypeError, KeyError, AttributeError):
        raise invalid(wanted) from None
    numbers = [item, *(choice.photo for choice in choices)]
    texts = [text for choice in choices for text in (choice.decision, choice.label)]
    if any(type(number) is not int for number in numbers):
        raise invalid(wanted)
    if any(type(text) is not str for text in texts):
        raise invalid(wanted)
    return item, choices


def run(
    review: Review,
    *,
    port: int,
    announce: Callable[[str], None],
    launch: Callable[[str], None] | None = None,
) -> None:
    """Serve a review's page until SIGINT or SIGTERM, as `tailorbird.service.serve_review` does.

    Raises SettingsError, or StorageError when the port is taken.
    """
    settings = ReviewSettings(port=port)
    bound = listen(settings)
    try:
        configure_logging(quiet=True)
        service = ReviewService(review, settings, bound.getsockname()[1])

        def started() -> None:
            page = f"{address(settings, bound)}/?key="
            announce(page + service.key)
            if launch is not None:
                launch(page + service.new_single_use_key())

        Server(service, settings, started=started, lifespan=False).run(sockets=[bound])
        service.close()
    finally:
        bound.close()
