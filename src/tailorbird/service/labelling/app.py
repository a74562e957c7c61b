"""The page of `tailorbird label`; see `web.local` for how it is kept to this machine."""

from __future__ import annotations

import asyncio
import html
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from tailorbird import installing
from tailorbird.dataset import printable
from tailorbird.errors import DatasetError, SettingsError, StorageError, StorageFull
from tailorbird.labelling import Answer, AnsweredMeanwhile, Asked, Given, Labelling
from tailorbird.labelling.thumbnails import SIDE
from tailorbird.labelling.trainer import Trainer
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

R = TypeVar("R")

REPORT_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
"""Content-Security-Policy of the report, which is one file with its own style and pictures."""

_WAITING = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>Training · tailorbird</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">{refresh}
<link rel="icon" href="static/icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="static/base.css"><link rel="stylesheet" href="static/local.css"></head>
<body><main class="locked"><h1>{title}</h1><p>{text}</p></main></body>
</html>
"""


class LabelService(LocalPage):
    """The ASGI application of one labelling."""

    command = "label"

    def __init__(self, labelling: Labelling, settings: LocalSettings, port: int) -> None:
        """Prepare the page of a labelling that listens on `port`."""
        self._labelling = labelling
        self._trainer = Trainer(labelling)
        super().__init__("tailorbird.service.labelling", settings, port)

    def close(self) -> None:
        """Stop decoding and training."""
        super().close()
        self._trainer.close()

    def routes(self) -> Sequence[BaseRoute]:
        """Return the routes of the API."""
        return [
            Route("/api/state", self._state),
            Route("/api/photos/{photo:int}", self._photo),
            Route("/api/screen", self._screen, methods=["POST"]),
            Route("/api/answers", self._answer, methods=["POST"]),
            Route("/api/undo", self._undo, methods=["POST"]),
            Route("/api/classes", self._classes, methods=["POST"]),
            Route("/api/train", self._train, methods=["POST"]),
            Route("/report", self._report),
        ]

    async def _state(self, request: Request) -> Response:
        return json_answer(self._content())

    def _content(self) -> dict[str, Any]:
        labelling = self._labelling
        answers = labelling.history.answers
        outlook, last = labelling.outlook(), answers.last
        kinds = [answer.kind for answer in list(answers.by_name.values())]
        return {
            "name": printable(labelling.source.resolve().name),
            "source": printable(str(labelling.source)),
            "manifest": printable(str(labelling.manifest)),
            "model": printable(str(labelling.model)),
            "command": installing.runnable(labelling.train_command),
            "classes": [{"name": name, "photos": n} for name, n in answers.counts().items()],
            "reading": asdict(labelling.reading),
            "answers": {
                **{kind: kinds.count(kind) for kind in ("label", "none", "unusable", "skip")},
                "steps": answers.steps,
            },
            "outlook": {**asdict(outlook), "accuracy": outlook.accuracy},
            "undo": {"step": last.number, "about": last.about} if last else None,
            "can_train": labelling.can_train,
            "training": {
                **asdict(self._trainer.state),
                "report": self._trainer.report is not None,
            },
            "problem": labelling.write_problem,
        }

    async def _photo(self, request: Request) -> Response:
        gallery, number = self._labelling.gallery, request.path_params["photo"]
        if number >= len(gallery.paths) or not gallery.usable[number]:
            message = f"there is no photo {number}, or it is not read yet"
            raise Problem(404, "not-found", message)
        side = side_of(request, SIDE)
        sample = gallery.sample(number)
        data = gallery.thumbnails.get(bytes.fromhex(sample.digest)) if side <= SIDE else None
        if data is None:
            data = await self.decoded(request, partial(thumbnail, sample, side))
        # The address holds the photo's content hash, so a cached copy is never of another photo.
        headers = {"Cache-Control": "private, max-age=3600"}
        return Response(data, headers=headers, media_type="image/jpeg")

    async def _screen(self, request: Request) -> Response:
        """Return the next screen of a window, and the state."""
        content = await json_body(request)
        window, only = _text(content, "window"), _text(content, "only", "")
        screen = await _done(partial(self._labelling.next_screen, window, only))
        return json_answer(
            {
                "kind": screen.kind,
                "blind": screen.blind,
                "photos": [self._asked(asked) for asked in screen.photos],
                "state": self._content(),
            }
        )

    def _asked(self, asked: Asked) -> dict[str, Any]:
        sample = self._labelling.gallery.sample(asked.photo)
        name = self._labelling.gallery.names[asked.photo]
        return {
            "photo": asked.photo,
            "name": sample.name,
            "source": f"api/photos/{asked.photo}?v={sample.digest[:16]}",
            "proposal": asked.proposal,
            "probability": asked.probability,
            "seen": _said(self._labelling.history.answers.by_name.get(name)),
        }

    async def _answer(self, request: Request) -> Response:
        given = _given(await json_body(request))
        step = await _done(partial(self._labelling.answer, given))
        return json_answer({"saved": True, "step": step.number, "state": self._content()})

    async def _undo(self, request: Request) -> Response:
        content = await json_body(request)
        number = content.get("step") if isinstance(content, dict) else None
        if type(number) is not int:
            raise invalid('send {"step": 3}, the number of the last step')
        step = await _done(partial(self._labelling.undo, number))
        numbers = [
            self._labelling.gallery.number[name]
            for name in step.answers
            if name in self._labelling.gallery.number
        ]
        photos = [
            self._asked(Asked(number))
            for number in numbers[:100]
            if self._labelling.gallery.usable[number]
        ]
        shown = photos if step.asked else []
        return json_answer({"about": step.about, "photos": shown, "state": self._content()})

    async def _classes(self, request: Request) -> Response:
        """Add a class, or rename one; into the name of another it is merged."""
        content = await json_body(request)
        name, old = _text(content, "name"), _text(content, "rename", "")
        work = (
            partial(self._labelling.rename_class, old, name)
            if old
            else partial(self._labelling.add_class, name)
        )
        label = await _done(work)
        return json_answer({"label": label, "state": self._content()})

    async def _train(self, request: Request) -> Response:
        await json_body(request)
        await _done(self._trainer.start)
        return json_answer({"state": self._content()})

    async def _report(self, request: Request) -> Response:
        """Return the report of the last training; while it runs, a page that asks again."""
        headers = {"Cache-Control": "no-store"}
        state, path = self._trainer.state, self._trainer.report
        if state.state == "done" and path is not None:
            data = await asyncio.to_thread(path.read_bytes)
            headers["Content-Security-Policy"] = REPORT_POLICY
            return Response(data, headers=headers, media_type="text/html")
        running = state.state == "running"
        page = _WAITING.format(
            refresh='<meta http-equiv="refresh" content="1">' if running else "",
            title="Training" if running else "No report",
            text=html.escape(
                f"{state.stage}: the report opens here when it is ready."
                if running
                else state.message or "Nothing was trained yet."
            ),
        )
        return Response(page, headers=headers, media_type="text/html")


async def _done(work: Callable[[], R]) -> R:
    """Run work in a thread. Raises Problem."""
    try:
        return await asyncio.get_running_loop().run_in_executor(None, work)
    except AnsweredMeanwhile as error:
        raise Problem(409, "conflict", str(error)) from None
    except (SettingsError, DatasetError) as error:
        raise invalid(str(error)) from None
    except StorageFull as error:
        raise Problem(507, "storage-full", str(error)) from None
    except StorageError as error:
        raise Problem(500, "storage-failed", str(error)) from None


def _text(content: Any, name: str, default: str | None = None) -> str:
    """Return a text of a body. Raises Problem 422."""
    value = content.get(name, default) if isinstance(content, dict) else None
    if type(value) is not str or len(value) > 1000 or (default is None and not value):
        raise invalid(f'send an object with "{name}", a text of at most 1000 characters')
    return value


def _said(answer: Answer | None) -> dict[str, str] | None:
    return None if answer is None else {"kind": answer.kind, "label": answer.label}


def _given(content: Any) -> list[Given]:
    """Return the answers of a body. Raises Problem 422 for any other shape."""
    wanted = (
        'send {"answers": [{"photo": 0, "kind": "label", "label": "hat", "seen": null}]}; the '
        "kind is label, none, unusable or skip"
    )
    try:
        entries = content["answers"]
        photos = [entry["photo"] for entry in entries]
        answers = [_answer_of(entry) for entry in entries]
        seen = [_answer_of(entry["seen"]) if entry.get("seen") else None for entry in entries]
    except (TypeError, KeyError, AttributeError, DatasetError):
        raise invalid(wanted) from None
    if any(type(photo) is not int for photo in photos):
        raise invalid(wanted)
    return [Given(*each) for each in zip(photos, answers, seen, strict=True)]


def _answer_of(entry: Any) -> Answer:
    kind, label = entry["kind"], entry.get("label", "")
    if type(kind) is not str or type(label) is not str:
        raise TypeError("kind and label are texts")
    return Answer(kind, label)  # type: ignore[arg-type]  # Answer checks it


def run(
    labelling: Labelling,
    *,
    port: int,
    announce: Callable[[str], None],
    launch: Callable[[str], None] | None = None,
) -> None:
    """Serve a labelling's page until SIGINT or SIGTERM; it is closed then.

    Raises SettingsError, or StorageError when the port is taken.
    """
    try:
        labelling.start()
        run_page(
            lambda settings, bound: LabelService(labelling, settings, bound),
            port=port,
            announce=announce,
            launch=launch,
        )
    finally:
        labelling.close()
