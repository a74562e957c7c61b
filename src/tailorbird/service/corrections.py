"""`POST /v1/corrections` and `GET /v1/corrections/stats`: whether predictions were right."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse

from tailorbird.corrections import Corrections
from tailorbird.errors import InputError, StorageError, StorageFull
from tailorbird.metrics.paired import better, mcnemar, paired_interval
from tailorbird.service import receipts
from tailorbird.service.state import State, state_of
from tailorbird.service.uploads import parse_form
from tailorbird.service.web.exchange import (
    body_of,
    check_query,
    in_time,
    media_type,
    parse_json,
)
from tailorbird.service.web.logs import log
from tailorbird.service.web.problems import RETRY_AFTER, Problem, invalid, overloaded

T = TypeVar("T")

FIELDS = ("receipt", "answer")

MOST_JSON = 128 * 1024
"""Bytes of a correction sent as JSON; a receipt has a few hundred. Parsing blocks every other
request, and JSON becomes objects of many times its size."""


async def correct(request: Request) -> JSONResponse:
    """Store one answer; 201 means that it is committed."""
    check_query(request)
    state = state_of(request)
    store = _store(state)
    text, answer, photo = await _fields(request)
    receipt = receipts.read(state.secret, text)
    if answer not in state.slot.current.classifier.classes:
        raise invalid(
            f"the answer {answer[:100]!r} is not one of the model's classes; GET /v1/model lists "
            "them"
        )
    if photo is not None and hashlib.sha256(photo).hexdigest() != receipt.photo:
        message = (
            "the photo is not the one that the receipt was issued for; send exactly the bytes "
            "that were predicted"
        )
        raise Problem(409, "conflict", message)
    kept = photo if state.settings.photos is not None else None

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
            photo=kept,
        )

    number = await in_time(request, stored(state, add))
    state.telemetry.correction("stored")
    right = answer == receipt.label
    return JSONResponse({"id": number, "right": right, "stored_photo": kept is not None}, 201)


async def stats(request: Request) -> JSONResponse:
    """Return how often the model was right, by people's answers."""
    state = state_of(request)
    store = _store(state)
    await request.body()  # otherwise the end of the body would be taken for a disconnect
    counts = (await in_time(request, stored(state, store.stats))).as_dict()
    return JSONResponse({**counts, "candidate": await _candidate(request, state)})


async def _candidate(request: Request, state: State) -> dict[str, Any] | None:
    """Return how the candidate does beside the served model; None without a candidate.

    A is the served model and B the candidate in the paired test, which is that of `compare`.
    """
    candidate, served = state.candidate, state.slot.current.sha256
    if candidate is None:
        return None
    counts = await in_time(request, stored(state, lambda: candidate.counts(served)))
    table = (counts.both, counts.only_served, counts.only_candidate, counts.neither)
    answered = sum(table)
    winner = better(counts.only_served, counts.only_candidate)
    return {
        "name": candidate.path.stem,
        "sha256": candidate.sha256,
        "state": candidate.state(served),
        "message": candidate.message,
        **vars(counts),
        "answered": answered,
        "difference": (counts.only_candidate - counts.only_served) / max(1, answered),
        "interval": list(paired_interval(*table)),
        "p_value": mcnemar(counts.only_served, counts.only_candidate),
        "better": {"a": "served", "b": "candidate", None: None}[winner],
    }


async def stored(state: State, work: Callable[[], T]) -> T:
    """Run database work in a thread, few at a time.

    The thread continues after the caller's deadline; a correction may then be committed without
    being acknowledged.

    Raises Problem 507 for a full disk, 503 for a database that does not answer.
    """
    if state.storing_waits >= state.settings.queue:
        raise overloaded("too many corrections are waiting to be stored; try again in a moment")
    state.storing_waits += 1
    try:
        return await asyncio.get_running_loop().run_in_executor(state.storing, work)
    except InputError as error:
        raise invalid(str(error)) from None
    except StorageFull as error:
        state.telemetry.correction("storage-full")
        log("storage-full", level="error", message=str(error))
        message = "the disk is full: this correction was not stored; predictions still work"
        raise Problem(507, "storage-full", message) from None
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
        message = "this service stores no corrections; start it with --corrections shop.db"
        raise Problem(404, "not-found", message)
    return state.corrections


async def _fields(request: Request) -> tuple[str, str, bytes | None]:
    """Return the receipt, the answer, and the photo if it was sent. Raises Problem."""
    kind, options = media_type(request)
    body = await body_of(request)
    photo = None
    if kind == "multipart/form-data":
        form = parse_form(body, options, most_photos=1)
        fields: dict[str, object] = {**form.fields}
        photo = form.photos[0].data if form.photos else None
    elif kind == "application/json":
        if len(body) > MOST_JSON:
            message = f"a correction as JSON may have at most {MOST_JSON // 1024} KiB"
            raise Problem(413, "body-too-large", message)
        content = parse_json(body)
        fields = content if isinstance(content, dict) else {}
    else:
        message = "send a correction as application/json or multipart/form-data"
        raise Problem(415, "unsupported-media-type", message)
    if unknown := sorted(map(str, set(fields) - set(FIELDS))):
        raise invalid(
            f"a correction has no field {unknown[0][:50]!r}; its fields are {', '.join(FIELDS)}"
            " and, in a form, photo"
        )
    receipt, answer = fields.get("receipt"), fields.get("answer")
    if not isinstance(receipt, str) or not isinstance(answer, str):
        raise invalid(
            "a correction needs two texts: `receipt`, from a result of /v1/predict, and "
            "`answer`, the right class"
        )
    return receipt, answer, photo
