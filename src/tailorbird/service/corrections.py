"""`POST /v1/corrections` and `GET /v1/corrections/stats`: what people say of the answers."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse

from tailorbird.corrections import Corrections
from tailorbird.errors import InputError, StorageError, StorageFull
from tailorbird.service import receipts
from tailorbird.service.state import State, state_of
from tailorbird.service.uploads import parse_form
from tailorbird.service.web.exchange import body_of, in_time, media_type
from tailorbird.service.web.logs import log
from tailorbird.service.web.problems import RETRY_AFTER, Problem, overloaded

T = TypeVar("T")

MOST_JSON = 128 * 1024
"""Bytes of a correction sent as JSON; a receipt has some hundred."""


async def correct(request: Request) -> JSONResponse:
    """Store one answer; 201 means it is committed."""
    state = state_of(request)
    store = _store(state)
    text, answer, photo = await _fields(request)
    receipt = receipts.read(state.secret, text)
    if answer not in state.slot.current.classifier.classes:
        raise Problem(
            422,
            "invalid",
            f"the answer {answer[:100]!r} is none of the model's classes; GET /v1/model lists them",
        )
    if photo is not None and hashlib.sha256(photo).hexdigest() != receipt.photo:
        raise Problem(
            409,
            "conflict",
            "the photo is not the one the receipt was given for; send the very bytes that were predicted",
        )
    keep = photo if state.settings.photos is not None else None

    def add() -> int:
        return store.add(
            sha256=receipt.photo,
            predicted=receipt.label,
            probability=receipt.probability,
            top=receipt.top,
            answer=answer,
            model=receipt.model_name,
            model_sha256=receipt.model,
            receipt=receipt.id,
            photo=keep,
        )

    number = await in_time(request, stored(state, add))
    state.telemetry.correction("stored")
    return JSONResponse(
        {"id": number, "right": answer == receipt.label, "stored_photo": keep is not None}, 201
    )


async def stats(request: Request) -> JSONResponse:
    """How often the model was right, of the photos people answered about."""
    state = state_of(request)
    store = _store(state)
    await request.body()  # or its empty end would be taken for the client's going away
    return JSONResponse((await in_time(request, stored(state, store.stats))).as_dict())


async def stored(state: State, work: Callable[[], T]) -> T:
    """Database work in a thread, few at a time. Raises Problem 507 for a full disk, 503 for a database that is away.

    The thread goes on when the caller gives up: what it commits later is a correction that was not acknowledged.
    """
    if state.storing_waits >= state.settings.queue:
        raise overloaded(
            "more corrections are waiting than can be stored soon; try again in a moment"
        )
    state.storing_waits += 1
    try:
        return await asyncio.get_running_loop().run_in_executor(state.storing, work)
    except InputError as error:
        raise Problem(422, "invalid", str(error)) from None
    except StorageFull as error:
        state.telemetry.correction("storage-full")
        log("storage-full", level="error", message=str(error))
        raise Problem(
            507,
            "storage-full",
            "the disk is full: this correction was not stored; predictions go on",
        ) from None
    except StorageError as error:
        state.telemetry.correction("storage-failed")
        log("storage-failed", level="error", message=str(error))
        message = (
            "the corrections database does not answer: nothing was stored; try again in a moment"
        )
        raise Problem(503, "storage-failed", message, {"Retry-After": str(RETRY_AFTER)}) from None
    finally:
        state.storing_waits -= 1


def _store(state: State) -> Corrections:
    if state.corrections is None:
        raise Problem(
            404,
            "not-found",
            "this service keeps no corrections; start it with --corrections shop.db",
        )
    return state.corrections


async def _fields(request: Request) -> tuple[str, str, bytes | None]:
    """Receipt, answer and the photo if it was sent. Raises Problem."""
    kind, options = media_type(request)
    body = await body_of(request)
    photo = None
    if kind == "application/json" and len(body) > MOST_JSON:
        # Parsing holds up every other request: some bytes of JSON become many times as many of objects.
        raise Problem(
            413, "body-too-large", f"a correction as JSON has at most {MOST_JSON // 1024} KiB"
        )
    if kind == "multipart/form-data":
        form = parse_form(body, options, most_photos=1)
        receipt, answer = form.fields.get("receipt"), form.fields.get("answer")
        photo = form.photos[0].data if form.photos else None
    elif kind == "application/json":
        try:
            said = json.loads(body)
        except (ValueError, RecursionError):
            raise Problem(400, "bad-request", "the body is not JSON") from None
        said = said if isinstance(said, dict) else {}
        receipt, answer = said.get("receipt"), said.get("answer")
    else:
        raise Problem(
            415,
            "unsupported-media-type",
            "send a correction as application/json or multipart/form-data",
        )
    if not isinstance(receipt, str) or not isinstance(answer, str):
        raise Problem(
            422,
            "invalid",
            "a correction needs two texts: `receipt`, of a result of /v1/predict, and `answer`, the right class",
        )
    return receipt, answer, photo
