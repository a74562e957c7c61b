"""`POST /v1/predict`, `GET /v1/model` and `POST /v1/model/reload`."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt
from starlette.requests import Request
from starlette.responses import JSONResponse

from tailorbird.errors import ImageError, ModelFileError
from tailorbird.images import SERVED, Pixels
from tailorbird.model.metadata import FORMAT
from tailorbird.service import receipts
from tailorbird.service.batching import Answer
from tailorbird.service.decoding import Decoder
from tailorbird.service.drift import outcome_of
from tailorbird.service.served import Served
from tailorbird.service.state import State, state_of
from tailorbird.service.uploads import Upload, photos_of
from tailorbird.service.web.exchange import check_query, deadline_of, exchange_of, in_time
from tailorbird.service.web.problems import Problem, invalid, of_image, overloaded

RECEIPT_CLASSES = 3
"""Most probable classes that a receipt holds."""


async def predict(request: Request) -> JSONResponse:
    """Classify one photo or several."""
    check_query(request, "top", "heatmap")
    state = state_of(request)
    served = state.slot.current
    top = _top(request, len(served.classifier.classes))
    heatmaps = _heatmap(request, served)
    if state.batcher.full:
        raise overloaded()  # before the body is received: a refusal must be cheap under overload
    uploads = await photos_of(request, most_photos=state.settings.max_photos)
    deadline = deadline_of(request)
    with state.batcher.admitted(len(uploads)):
        work = (_answer(state, served, upload, heatmaps, deadline) for upload in uploads)
        answers = await in_time(request, asyncio.gather(*work))
    results = []
    for upload, answer in zip(uploads, answers, strict=True):
        if isinstance(answer, Problem):
            state.telemetry.photo(answer.code)
            if len(uploads) == 1 or answer.status == 503:  # temporary: send the whole request again
                raise answer
            results.append({"name": upload.name, "error": answer.as_dict()})
        else:
            results.append({"name": upload.name, **_result(state, served, upload, answer, top)})
    exchange_of(request).notes["photos"] = len(uploads)
    return JSONResponse(
        {"model": {"name": served.name, "sha256": served.sha256}, "results": results}
    )


async def _answer(
    state: State, served: Served, upload: Upload, heatmaps: bool, deadline: float
) -> tuple[str, Answer] | Problem:
    """Return the SHA-256 of a photo's bytes and the model's answer, or why there is none."""

    def decode(decoder: Decoder) -> tuple[Pixels, str]:
        digest = hashlib.sha256(upload.data).hexdigest() if state.corrections else ""
        return decoder.photo(upload.data, served.rule, state.settings.max_pixels), digest

    try:
        pixels, digest = await state.batcher.decode(decode, deadline)
        answer = await state.batcher.classify(served, pixels, heatmaps=heatmaps, deadline=deadline)
        return digest, answer
    except ImageError as error:
        return of_image(error, upload.data)
    except Problem as problem:
        return problem


def _result(
    state: State, served: Served, upload: Upload, answered: tuple[str, Answer], top: int
) -> dict[str, Any]:
    """Return one entry of `results`, and offer the photo to the candidate, if there is one."""
    digest, answer = answered
    info = served.classifier.info
    order = np.argsort(-answer.probabilities, kind="stable")[: max(top, RECEIPT_CLASSES)]
    ranked = tuple((info.classes[i], float(answer.probabilities[i])) for i in order)
    label, probability = ranked[0]
    outcome = outcome_of(served, answer)
    state.telemetry.photo(outcome, label)
    result: dict[str, Any] = {
        "label": label,
        "probability": probability,
        "unsure": outcome != "answered",
        "unfamiliar": outcome == "unfamiliar",
        "unfamiliarity": answer.unfamiliarity,
        "threshold": info.threshold,
        "top": [{"label": name, "probability": p} for name, p in ranked[:top]],
        "receipt": None,
    }
    if state.tally is not None:
        state.tally.count(served, digest, answer)
    if state.corrections is not None:
        number = receipts.new_id()
        result["receipt"] = receipts.issue(
            state.secret,
            photo=digest,
            model=served.sha256,
            model_name=served.name,
            top=ranked[:RECEIPT_CLASSES],
            refused=outcome == "unfamiliar",
            id=number,
        )
        if state.candidate is not None:
            state.candidate.offer(upload.data, receipt=number, model=served.sha256, label=label)
    if answer.heatmaps is not None:
        shown = zip(ranked[:top], answer.heatmaps, strict=False)
        result["heatmaps"] = [_heatmap_content(name, values) for (name, _), values in shown]
    return result


def _heatmap_content(label: str, values: npt.NDArray[np.float32]) -> dict[str, Any]:
    """Return one map, scaled to a maximum of 1; a map of zeros stays zero."""
    peak = float(values.max())
    scaled = values / peak if peak > 0 else values
    height, width = values.shape
    return {
        "label": label,
        "width": width,
        "height": height,
        "values": np.round(scaled.astype(np.float64), 3).tolist(),
    }


async def model(request: Request) -> JSONResponse:
    """Return the model's metadata and the service's limits."""
    state = state_of(request)
    served = state.slot.current
    info = served.classifier.info.as_dict()
    settings = state.settings
    corrections = state.corrections is not None
    return JSONResponse(
        {
            "name": served.name,
            "sha256": served.sha256,
            "classes": info["classes"],
            "display": settings.page.display(info["classes"]),
            "size": served.rule.size,
            "resize": info["resize"],
            "threshold": info["threshold"],
            "temperature": info["temperature"],
            "scores": info["scores"],
            "backbone": info["backbone"],
            "settings": info["settings"],
            "data": {
                name: info["data"][name]
                for name in ("fingerprint", "splits")
                if name in info["data"]
            },
            "versions": info["versions"],
            "created": info["created"],
            "loaded": served.loaded,
            "format": FORMAT,
            "heatmaps": served.classifier.has_heatmaps,
            "unfamiliar_above": served.classifier.info.unfamiliar_above,
            "corrections": corrections,
            "new_classes": corrections and settings.new_classes,
            "keep_photos": corrections and settings.photos is not None,
            "limits": {
                "body_bytes": settings.max_body,
                "pixels": settings.max_pixels,
                "photos": settings.max_photos,
            },
            "accepts": list(SERVED),
        }
    )


async def reload(request: Request) -> JSONResponse:
    """Load the model file's present content; requires a token, so that not everybody can."""
    state = state_of(request)
    if state.settings.token is None:
        message = (
            "reloading over HTTP needs a service started with --token; or send the process SIGHUP"
        )
        raise Problem(403, "forbidden", message)
    try:
        changed = await state.reload_everywhere()
    except ModelFileError as error:
        message = f"the new model was refused, the old one is still served: {error}"
        raise Problem(409, "conflict", message) from None
    return JSONResponse({"sha256": state.slot.current.sha256, "changed": changed})


def _top(request: Request, classes: int) -> int:
    """Return how many classes the results hold: `top` of the query, 3 by default."""
    text = request.query_params.get("top", "3")
    if text == "all":
        return classes
    if not text.isascii() or not text.isdecimal() or len(text) > 9 or int(text) < 1:
        raise invalid(f"top is {text[:50]!r}; it must be a whole number from 1, or `all`")
    return min(int(text), classes)


def _heatmap(request: Request, served: Served) -> bool:
    """Return whether heat maps are requested: `heatmap` of the query."""
    text = request.query_params.get("heatmap", "0")
    if text not in ("0", "1", "false", "true"):
        raise invalid(f"heatmap is {text[:50]!r}; it must be 0 or 1")
    wanted = text in ("1", "true")
    if wanted and not served.classifier.has_heatmaps:
        raise invalid(f"the model {served.name} has no heat maps; leave out ?heatmap=1")
    return wanted
