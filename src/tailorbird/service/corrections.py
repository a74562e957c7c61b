"""`POST /v1/corrections` and `GET /v1/corrections/stats`: whether predictions were right."""

from __future__ import annotations

import asyncio
import hashlib
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse

from tailorbird.corrections import NONE_OF_THESE, Corrections, is_right
from tailorbird.dataset.labels import folded_label, unknown_label
from tailorbird.errors import InputError, StorageError, StorageFull
from tailorbird.metrics.paired import better, mcnemar, paired_interval
from tailorbird.service import receipts
from tailorbird.service.drift import uploads_report
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

FIELDS = ("receipt", "answer", "none_of_these")

MOST_JSON = 128 * 1024
"""Bytes of a correction sent as JSON; a receipt has a few hundred. Parsing blocks every other
request, and JSON becomes objects of many times its size."""


async def correct(request: Request) -> JSONResponse:
    """Store one answer; 201 means that it is committed."""
    check_query(request)
    state = state_of(request)
    store = _store(state)
    fields = await _fields(request)
    photo = fields.photo
    receipt = receipts.read(state.secret, fields.receipt)
    classes = state.slot.current.classifier.classes
    known = fields.answer is None or fields.answer in classes
    if fields.answer is not None and not known:
        _check_new(state, fields.answer, classes)
    if photo is not None and hashlib.sha256(photo).hexdigest() != receipt.photo:
        message = (
            "the photo is not the one that the receipt was issued for; send exactly the bytes "
            "that were predicted"
        )
        raise Problem(409, "conflict", message)
    kept = photo if state.settings.photos is not None else None

    def add() -> tuple[int, str]:
        answer = NONE_OF_THESE if fields.answer is None else fields.answer
        if not known:
            answer = _label(store, answer, state.settings.page.display(classes))
        number = store.add(
            sha256=receipt.photo,
            predicted=receipt.label,
            probability=receipt.probability,
            top=receipt.top,
            answer=answer,
            model=receipt.model_name,
            model_sha256=receipt.model,
            receipt=receipt.id,
            refused=receipt.refused,
            photo=kept,
        )
        return number, answer

    number, answer = await in_time(request, stored(state, add))
    state.telemetry.correction("stored")
    content = {
        "id": number,
        "right": is_right(answer, receipt.label, refused=receipt.refused),
        "answer": None if fields.answer is None else answer,
        "new_class": fields.answer is not None and answer not in classes,
        "stored_photo": kept is not None,
        "note": None if kept is not None else _not_kept(request, state, fields),
    }
    return JSONResponse(content, 201)


def _check_new(state: State, answer: str, classes: Sequence[str]) -> None:
    """Raise Problem 422 for an answer that is no class where none may be new."""
    if folded_label(answer).strip() == folded_label(NONE_OF_THESE).strip():
        raise invalid(
            f"the answer is {answer[:100]!r}, which is no class of the model; to say so, send "
            "`none_of_these`: true instead of `answer`"
        )
    if not state.settings.new_classes:
        raise invalid(
            f"the answer {answer[:100]!r} is not one of the model's classes: "
            f"{unknown_label(answer[:100], classes)}; GET /v1/model lists them, and this service "
            "takes no others (--no-new-classes)"
        )


def _label(store: Corrections, answer: str, display: Sequence[Mapping[str, str]]) -> str:
    """Return the label of an answer, which may also be a class's name for people."""
    typed = folded_label(answer).strip()
    named = (each["label"] for each in display if folded_label(each["name"]) == typed)
    return next(named, None) or store.label_for(answer, [each["label"] for each in display])


def _not_kept(request: Request, state: State, fields: Fields) -> str:
    """Return why no photo was kept, and how to send one."""
    if state.settings.photos is None:
        return (
            "no photo was kept: this service keeps none, so no model can learn from this "
            "correction; --keep-photos keeps them"
        )
    token = ' -H "Authorization: Bearer $TAILORBIRD_TOKEN"' if state.settings.token else ""
    answer = (
        "none_of_these=true" if fields.answer is None else shlex.quote(f"answer={fields.answer}")
    )
    return (
        "no photo was kept, because none was sent with this correction; to keep it, send the "
        "correction again with the file that was predicted: "
        f"curl{token} --form-string receipt={fields.receipt} --form-string {answer} "
        f"-F photo=@photo.jpg {shlex.quote(str(request.url))}"
    )


async def stats(request: Request) -> JSONResponse:
    """Return how often the model was right, by people's answers."""
    state = state_of(request)
    store = _store(state)
    await request.body()  # otherwise the end of the body would be taken for a disconnect
    served = state.slot.current

    def count() -> dict[str, Any]:
        if state.tally is not None:
            state.tally.flush()
        return {**store.stats().as_dict(), "uploads": uploads_report(store, served)}

    counts = await in_time(request, stored(state, count))
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


@dataclass(frozen=True)
class Fields:
    """A correction as sent: the receipt, the answer (None for none of these), and the photo."""

    receipt: str
    answer: str | None
    photo: bytes | None


async def _fields(request: Request) -> Fields:
    """Return the fields of a correction. Raises Problem."""
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
    none = fields.get("none_of_these", False)
    if not isinstance(none, bool) and none not in ("true", "false"):
        raise invalid(f"none_of_these is {str(none)[:50]!r}; it must be true or false")
    if none in (True, "true") and isinstance(receipt, str) and answer is None:
        return Fields(receipt, None, photo)
    if none in (True, "true") or not isinstance(receipt, str) or not isinstance(answer, str):
        raise invalid(
            "a correction needs `receipt`, from a result of /v1/predict, and either `answer`, the "
            "right class, or `none_of_these`: true"
        )
    return Fields(receipt, answer, photo)
