"""The page of `tailorbird review`; see `web.local` for how it is kept to this machine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from tailorbird import installing
from tailorbird.dataset import printable
from tailorbird.errors import SettingsError, StorageError, StorageFull
from tailorbird.review import ChangedMeanwhile, Choice, Review
from tailorbird.service.web.local import (
    LocalPage,
    LocalSettings,
    json_answer,
    json_body,
    run_page,
    side_of,
    thumbnail,
)
from tailorbird.service.web.problems import Problem, invalid


class ReviewService(LocalPage):
    """The ASGI application of one review."""

    command = "review"

    def __init__(self, review: Review, settings: LocalSettings, port: int) -> None:
        """Prepare the page of a review that listens on `port`."""
        self._review = review
        super().__init__("tailorbird.service.review", settings, port)

    def routes(self) -> Sequence[BaseRoute]:
        """Return the routes of the API."""
        return [
            Route("/api/review", self._overview),
            Route("/api/progress", self._progress),
            Route("/api/items/{item:int}", self._item),
            Route("/api/photos/{photo:int}", self._photo),
            Route("/api/decisions", self._decide, methods=["POST"]),
            Route("/api/undo", self._undo, methods=["POST"]),
        ]

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
        return json_answer(content)

    async def _progress(self, request: Request) -> Response:
        return json_answer({"progress": self._progress_content()})

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
        return json_answer({"item": number, **asdict(item), "photos": photos})

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
        work = partial(thumbnail, samples[number], side_of(request, 1024))
        data = await self.decoded(request, work)
        # The address holds the photo's content hash, so a cached copy is never of another photo.
        headers = {"Cache-Control": "private, max-age=3600"}
        return Response(data, headers=headers, media_type="image/jpeg")

    async def _decide(self, request: Request) -> Response:
        item, choices = _choices(await json_body(request))
        await _saved(partial(self._review.decide, item, choices))
        return self._changed(item, [choice.photo for choice in choices])

    async def _undo(self, request: Request) -> Response:
        await json_body(request)
        undone = await _saved(self._review.undo)
        if undone is None:
            message = "there is no decision to undo: none was made since the review was started"
            raise Problem(409, "nothing-to-undo", message)
        item, photos = undone
        return self._changed(item, photos)

    def _changed(self, item: int, photos: Any) -> Response:
        """Return the changed item and its photos as now saved in the manifest."""
        content = [self._photo_content(photo) for photo in photos]
        return json_answer(
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
    run_page(
        lambda settings, bound: ReviewService(review, settings, bound),
        port=port,
        announce=announce,
        launch=launch,
    )
