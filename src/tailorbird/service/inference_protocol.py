"""The Open Inference Protocol V2 over HTTP, for clients that send tensors rather than photos.

Input `images` UINT8 (N, S, S, 3), already of the model's size; outputs `probabilities` FP32 (N, C)
and, where the model has them, `unfamiliarity` FP32 (N) and `heatmaps` FP32 (N, T, h, w). Tensors
travel as JSON or, with the binary data extension, as raw little-endian bytes after the JSON.

Source: https://github.com/kserve/open-inference-protocol and the binary tensor data extension of
NVIDIA's Triton server.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import numpy as np
import numpy.typing as npt
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tailorbird.images import Pixels
from tailorbird.service.batching import Answer
from tailorbird.service.drift import outcome_of
from tailorbird.service.served import Served
from tailorbird.service.state import State, state_of
from tailorbird.service.tensors import BadTensor, parse_tensor
from tailorbird.service.web.exchange import body_of, deadline_of, in_time
from tailorbird.service.web.problems import Problem, overloaded

JSON_LENGTH = "Inference-Header-Content-Length"
VERSION = "1"

QUICK_JSON = 64 * 1024
"""Bytes of JSON that are parsed in the event loop; more would block every other request."""


async def server(request: Request) -> JSONResponse:
    """Return name, version and extensions of the server."""
    from tailorbird import __version__

    return JSONResponse(
        {"name": "tailorbird", "version": __version__, "extensions": ["binary_tensor_data"]}
    )


async def live(request: Request) -> JSONResponse:
    """Report that the process is alive."""
    return JSONResponse({"live": True})


async def ready(request: Request) -> JSONResponse:
    """Report whether the process accepts requests."""
    is_ready = state_of(request).accepting
    return JSONResponse({"ready": is_ready}, 200 if is_ready else 503)


async def model_ready(request: Request) -> JSONResponse:
    """Report whether the model accepts requests."""
    served = _served(request)
    is_ready = state_of(request).accepting
    return JSONResponse({"name": served.name, "ready": is_ready}, 200 if is_ready else 503)


async def model(request: Request) -> JSONResponse:
    """Return the model's inputs and outputs."""
    served = _served(request)
    size, classes = served.rule.size, len(served.classifier.classes)
    outputs = [{"name": "probabilities", "datatype": "FP32", "shape": [-1, classes]}]
    if served.classifier.has_heatmaps:
        shape = [-1, min(3, classes), -1, -1]
        outputs.append({"name": "heatmaps", "datatype": "FP32", "shape": shape})
    if served.classifier.knows_unfamiliar:
        outputs.append({"name": "unfamiliarity", "datatype": "FP32", "shape": [-1]})
    return JSONResponse(
        {
            "name": served.name,
            "versions": [VERSION],
            "platform": "onnxruntime_onnx",
            "inputs": [{"name": "images", "datatype": "UINT8", "shape": [-1, size, size, 3]}],
            "outputs": outputs,
        }
    )


async def infer(request: Request) -> Response:
    """Classify a tensor of images."""
    state = state_of(request)
    served = _served(request)
    if state.batcher.full:
        raise overloaded()
    asked, images = await _read(request, state, served)
    deadline = deadline_of(request)
    wanted = _wanted(asked, served)
    heatmaps = "heatmaps" in wanted
    with state.batcher.admitted(len(images)):
        runs = (
            state.batcher.classify(served, image, heatmaps=heatmaps, deadline=deadline)
            for image in images
        )
        answers = await in_time(request, asyncio.gather(*runs))
    for image, answer in zip(images, answers, strict=True):
        state.telemetry.photo(outcome_of(served, answer))
        if state.tally is not None:
            state.tally.count(served, hash(image.tobytes()), answer)
    return _response(asked, wanted, served, answers)


def _served(request: Request) -> Served:
    served = state_of(request).slot.current
    name, version = request.path_params["name"], request.path_params.get("version", VERSION)
    if name != served.name:
        message = f"there is no model {name[:100]!r} here; this service has {served.name!r}"
        raise Problem(404, "not-found", message)
    if version != VERSION:
        message = f"{served.name!r} has no version {version[:20]!r}; it has {VERSION!r}"
        raise Problem(404, "not-found", message)
    return served


async def _read(request: Request, state: State, served: Served) -> tuple[dict[str, Any], Pixels]:
    """Return the JSON part and the images of a request. Raises Problem."""
    body = await body_of(request)
    length = request.headers.get(JSON_LENGTH)
    if length is None:
        split = len(body)
    elif length.isdecimal() and len(length) <= 12 and int(length) <= len(body):
        split = int(length)
    else:
        raise _bad(f"{JSON_LENGTH} is {length[:20]!r}; the body has {len(body)} bytes")
    text, raw = body[:split], body[split:]
    size, most = served.rule.size, state.settings.max_photos
    try:
        if raw or len(text) <= QUICK_JSON:
            if len(text) > QUICK_JSON:
                raise BadTensor(
                    f"the JSON part before binary data has {len(text)} bytes; at most "
                    f"{QUICK_JSON} are accepted"
                )
            return parse_tensor(text, size, most, raw)
        parsed = state.batcher.decode(
            lambda decoder: decoder.tensor(text, size, most), deadline_of(request)
        )
        return await in_time(request, parsed)
    except BadTensor as error:
        raise _bad(str(error)) from None


def _wanted(asked: dict[str, Any], served: Served) -> dict[str, bool]:
    """Return the requested outputs in order, and whether each is to be binary.

    Raises Problem 400.
    """
    parameters = asked.get("parameters")
    default = bool(parameters.get("binary_data_output")) if isinstance(parameters, dict) else False
    known = served.classifier
    names = ["probabilities", *["heatmaps"] * known.has_heatmaps]
    names += ["unfamiliarity"] * known.knows_unfamiliar
    outputs = asked.get("outputs")
    if outputs is None or outputs == []:
        return dict.fromkeys(names, default)
    wanted: dict[str, bool] = {}
    for output in outputs if isinstance(outputs, list) else [None]:
        name = output.get("name") if isinstance(output, dict) else None
        if name not in names:
            raise _bad(f"the model has no output {str(name)[:50]!r}; it has {', '.join(names)}")
        given = output.get("parameters") if isinstance(output, dict) else None
        given = given if isinstance(given, dict) else {}
        if given.get("classification"):
            raise _bad(
                "the classification extension is not supported; request probabilities, or use "
                "/v1/predict"
            )
        wanted[name] = bool(given.get("binary_data", default))
    return wanted


def _response(
    asked: dict[str, Any], wanted: dict[str, bool], served: Served, answers: list[Answer]
) -> Response:
    outputs, blobs = [], []
    for name, binary in wanted.items():
        rows = [getattr(answer, name) for answer in answers]
        values: npt.NDArray[np.float32] = np.stack(rows).astype("<f4")
        output: dict[str, Any] = {"name": name, "datatype": "FP32", "shape": list(values.shape)}
        if binary:
            blobs.append(values.tobytes())
            output["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            output["data"] = values.ravel().tolist()
        outputs.append(output)
    content = {"model_name": served.name, "model_version": VERSION, "outputs": outputs}
    if isinstance(asked.get("id"), str):
        # JSON can contain lone surrogates, UTF-8 cannot.
        content["id"] = asked["id"].encode("utf-8", "replace").decode()
    if not blobs:
        return JSONResponse(content)
    head = json.dumps(content).encode()
    headers = {JSON_LENGTH: str(len(head))}
    return Response(head + b"".join(blobs), media_type="application/octet-stream", headers=headers)


def _bad(message: str) -> Problem:
    return Problem(400, "bad-request", message)
