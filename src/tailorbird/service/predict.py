"""`POST /v1/predict` and `GET /v1/model`."""

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
from tailorbird.service.served import Served
from tailorbird.service.state import State, state_of
from tailorbird.service.uploads import Upload, photos_of
from tailorbird.service.web.exchange import deadline_of, in_time
from tailorbird.service.web.problems import Problem, of_image, overloaded


async def predict(request: Request) -> JSONResponse:
    """Classify one photo or several."""
    state = state_of(request)
    top = _whole(request, "top", 3, 1, 100)
    heatmaps = _flag(request, "heatmap")
    served = state.slot.current
    if heatmaps and not served.classifier.has_heatmaps:
        raise Problem(
            422, "invalid", f"the model {served.name} has no heat maps; leave ?heatmap= out"
        )
    if state.batcher.full:
        raise overloaded()  # before the body is received: under overload a refusal must be cheap
    uploads = await photos_of(request, most_photos=state.settings.max_photos)
    with state.batcher.admitted(len(uploads)):
        answers = await in_time(
            request,
            asyncio.gather(
                *(
                    _answer(state, served, upload, heatmaps, deadline_of(request))
                    for upload in uploads
                )
            ),
        )
    results = []
    for upload, answer in zip(uploads, answers, strict=True):
        if isinstance(answer, Problem):
            state.telemetry.photo(answer.code)
            if len(uploads) == 1 or answer.status == 503:  # what time cures is tried again whole
                raise answer
            results.append({"name": upload.name, "error": answer.as_dict()})
        else:
            results.append({"name": upload.name, **_result(state, served, *answer, top=top)})
    request.scope["tailorbird"].notes["photos"] = len(uploads)
    return JSONResponse(
        {"model": {"name": served.name, "sha256": served.sha256}, "results": results}
    )


async def _answer(
    state: State, served: Served, upload: Upload, heatmaps: bool, deadline: float
) -> tuple[str, Answer] | Problem:
    """The SHA-256 of the photo's bytes and the model's answer; a Problem for a photo that cannot be used."""

    def decode(decoder: Decoder) -> tuple[Pixels, str]:
        digest = hashlib.sha256(upload.data).hexdigest() if state.corrections else ""
        return decoder.photo(upload.data, served.rule, state.settings.max_pixels), digest

    try:
        pixels, digest = await state.batcher.decode(decode, deadline)
        return digest, await state.batcher.classify(
            served, pixels, heatmaps=heatmaps, deadline=deadline
        )
    except ImageError as error:
        return of_image(error, upload.data)
    except Problem as problem:
        return problem


def _result(
    state: State, served: Served, digest: str, answer: Answer, *, top: int
) -> dict[str, Any]:
    """One entry of `results`."""
    info = served.classifier.info
    order = np.argsort(-answer.probabilities, kind="stable")
    ranked = tuple((info.classes[i], float(answer.probabilities[i])) for i in order[: max(top, 3)])
    label, probability = ranked[0]
    unsure = probability < info.threshold
    state.telemetry.photo("unsure" if unsure else "answered", label)
    said: dict[str, Any] = {
        "label": label,
        "probability": probability,
        "unsure": unsure,
        "threshold": info.threshold,
        "top": [{"label": name, "probability": p} for name, p in ranked[:top]],
        "receipt": None,
    }
    if state.corrections is not None:
        said["receipt"] = receipts.issue(
            state.secret, photo=digest, model=served.sha256, model_name=served.name, top=ranked[:3]
        )
    if answer.heatmaps is not None:
        shown = zip(ranked[:top], answer.heatmaps, strict=False)
        said["heatmaps"] = [_heatmap(name, values) for (name, _), values in shown]
    return said


def _heatmap(label: str, values: npt.NDArray[np.float32]) -> dict[str, Any]:
    """One map, scaled so that its largest value is 1; a map of zeros stays one."""
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
    """What is being served."""
    state = state_of(request)
    served = state.slot.current
    info = served.classifier.info.as_dict()
    data = {name: info["data"][name] for name in ("fingerprint", "splits") if name in info["data"]}
    settings = state.settings
    return JSONResponse(
        {
            "name": served.name,
            "sha256": served.sha256,
            "classes": info["classes"],
            "size": served.rule.size,
            "resize": info["resize"],
            "threshold": info["threshold"],
            "temperature": info["temperature"],
            "scores": info["scores"],
            "backbone": info["backbone"],
            "settings": info["settings"],
            "data": data,
            "versions": info["versions"],
            "created": info["created"],
            "loaded": served.loaded,
            "format": FORMAT,
            "heatmaps": served.classifier.has_heatmaps,
            "corrections": state.corrections is not None,
            "keep_photos": state.corrections is not None and settings.photos is not None,
            "limits": {
                "body_bytes": settings.max_body,
                "pixels": settings.max_pixels,
                "photos": settings.max_photos,
            },
            "accepts": list(SERVED),
        }
    )


async def reload(request: Request) -> JSONResponse:
    """Take the model file's present content; refused without a token, because anybody could call it."""
    state = state_of(request)
    if state.settings.token is None:
        raise Problem(
            403,
            "forbidden",
            "reloading over HTTP needs a service started with --token; or send the process SIGHUP",
        )
    try:
        changed = await state.reload(told_by="http")
    except ModelFileError as error:
        raise Problem(
            409, "conflict", f"the new model was refused and the old one goes on: {error}"
        ) from None
    # Always: another process may still serve what this one, started later, has never seen.
    state.tell_the_others()
    return JSONResponse({"sha256": state.slot.current.sha256, "changed": changed})


def _whole(request: Request, name: str, default: int, low: int, high: int) -> int:
    """A whole number of the query. Raises Problem 422."""
    text = request.query_params.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdecimal() or len(text) > 9 or not low <= int(text) <= high:
        raise Problem(
            422,
            "invalid",
            f"{name} is {text[:50]!r}; it must be a whole number from {low} to {high}",
        )
    return int(text)


def _flag(request: Request, name: str) -> bool:
    """A yes or no of the query. Raises Problem 422."""
    text = request.query_params.get(name, "0")
    if text not in ("0", "1", "false", "true"):
        raise Problem(422, "invalid", f"{name} is {text[:50]!r}; it must be 0 or 1")
    return text in ("1", "true")
