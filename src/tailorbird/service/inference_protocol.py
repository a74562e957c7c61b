"""The Open Inference Protocol V2 over HTTP, for clients that send tensors rather than photos.

Input `images` UINT8 (N, S, S, 3), already of the model's size; outputs `probabilities` FP32 (N, C) and, where the model has
them, `heatmaps` FP32 (N, T, h, w). Tensors travel as JSON or, with the binary data extension, as raw little-endian bytes after the JSON.
Source: https://github.com/kserve/open-inference-protocol and the binary tensor data extension of NVIDIA's Triton server.
"""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

import numpy as np
import numpy.typing as npt
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tailorbird.images import Pixels
from tailorbird.service.batching import Answer
from tailorbird.service.served import Served
from tailorbird.service.state import state_of
from tailorbird.service.web.exchange import body_of, deadline_of, in_time
from tailorbird.service.web.problems import Problem, overloaded

JSON_LENGTH = "Inference-Header-Content-Length"
VERSION = "1"
NESTED = 4
"""Images in one request written as nested lists: each pixel is then an object, and parsing holds up every other request."""


async def server(request: Request) -> JSONResponse:
    """Name, version and extensions."""
    from tailorbird import __version__

    return JSONResponse(
        {"name": "tailorbird", "version": __version__, "extensions": ["binary_tensor_data"]}
    )


async def live(request: Request) -> JSONResponse:
    """The process lives."""
    return JSONResponse({"live": True})


async def ready(request: Request) -> JSONResponse:
    """The process takes requests."""
    is_ready = state_of(request).ready
    return JSONResponse({"ready": is_ready}, 200 if is_ready else 503)


async def model_ready(request: Request) -> JSONResponse:
    """The model takes requests."""
    served = _served(request)
    is_ready = state_of(request).ready
    return JSONResponse({"name": served.name, "ready": is_ready}, 200 if is_ready else 503)


async def model(request: Request) -> JSONResponse:
    """The model's inputs and outputs."""
    served = _served(request)
    size = served.rule.size
    outputs = [
        {"name": "probabilities", "datatype": "FP32", "shape": [-1, len(served.classifier.classes)]}
    ]
    if served.classifier.has_heatmaps:
        shown = min(3, len(served.classifier.classes))
        outputs.append({"name": "heatmaps", "datatype": "FP32", "shape": [-1, shown, -1, -1]})
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
    body = await body_of(request)
    length = request.headers.get(JSON_LENGTH)
    # JSON tensors take a while to parse: not in the event loop's thread.
    deadline = deadline_of(request)
    asked, images = await in_time(
        request,
        state.batcher.decode(
            lambda: _read(body, length, served, state.settings.max_photos), deadline
        ),
    )
    wanted = _wanted(asked, served)
    heatmaps = "heatmaps" in wanted
    with state.batcher.admitted(len(images)):
        answers = await in_time(
            request,
            asyncio.gather(
                *(
                    state.batcher.classify(served, image, heatmaps=heatmaps, deadline=deadline)
                    for image in images
                )
            ),
        )
    for _ in answers:
        state.telemetry.photo("answered")
    return _answer(asked, wanted, served, answers)


def _served(request: Request) -> Served:
    served = state_of(request).slot.current
    name, version = request.path_params["name"], request.path_params.get("version", VERSION)
    if name != served.name:
        raise Problem(
            404,
            "not-found",
            f"there is no model {name[:100]!r} here; this service has {served.name!r}",
        )
    if version != VERSION:
        raise Problem(
            404,
            "not-found",
            f"the model {served.name!r} has no version {version[:20]!r}; it has {VERSION!r}",
        )
    return served


def _read(
    body: bytes, length: str | None, served: Served, most: int
) -> tuple[dict[str, Any], Pixels]:
    """The JSON part and the images of a request. Raises Problem 400."""
    if length is not None and (
        not length.isdecimal() or len(length) > 12 or int(length) > len(body)
    ):
        raise _bad(f"{JSON_LENGTH} is {length[:20]!r}; the body has {len(body)} bytes")
    split = int(length) if length is not None else len(body)
    text = body[:split]
    side = served.rule.size
    if text.count(b"[") + text.count(b"{") > NESTED * (side * side + side + 1) + 1000:
        raise _bad(
            f"nested JSON is read for {NESTED} images at most; send `data` flat, or as binary data"
        )
    try:
        asked = json.loads(text)
    except (ValueError, RecursionError):
        raise _bad("the body's JSON part cannot be parsed") from None
    inputs = asked.get("inputs") if isinstance(asked, dict) else None
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise _bad("`inputs` must hold exactly one tensor, `images`")
    tensor = inputs[0]
    size = served.rule.size
    shape: Any = tensor.get("shape")
    right = isinstance(shape, list) and len(shape) == 4 and all(type(side) is int for side in shape)
    if (
        tensor.get("name") != "images"
        or tensor.get("datatype") != "UINT8"
        or not right
        or shape[1:] != [size, size, 3]
    ):
        raise _bad(f"the input must be `images`, UINT8, of shape [N, {size}, {size}, 3]")
    if not 1 <= shape[0] <= most:
        raise _bad(f"the input holds {shape[0]} images; it must hold 1 to {most}")
    parameters = tensor.get("parameters")
    binary = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    raw = body[split:]
    if binary is not None:
        if type(binary) is not int or binary != len(raw) or binary != math.prod(shape):
            raise _bad(
                f"the input has {len(raw)} bytes of binary data; its shape needs {math.prod(shape)}"
            )
        return asked, np.frombuffer(raw, np.uint8).reshape(shape)
    if raw:
        raise _bad("there are bytes after the JSON part that no input claims with binary_data_size")
    return asked, _numbers(tensor.get("data"), shape)


def _numbers(data: object, shape: list[int]) -> Pixels:
    """A tensor written as JSON numbers, flat or nested. Raises Problem 400."""
    try:
        values = np.asarray(data)
    except ValueError:
        raise _bad("`data` is nested unevenly") from None
    whole = values.dtype.kind in "iu" or (values.size == 0)
    if not whole or values.size != math.prod(shape) or values.ndim not in (1, 4):
        raise _bad(
            f"`data` must hold {math.prod(shape)} whole numbers, flat or nested as the shape says"
        )
    if values.min() < 0 or values.max() > 255:
        raise _bad("`data` must hold whole numbers from 0 to 255")
    return values.astype(np.uint8).reshape(shape)


def _wanted(asked: dict[str, Any], served: Served) -> dict[str, bool]:
    """The outputs asked for, in order, and whether each is to be binary. Raises Problem 400."""
    parameters = asked.get("parameters")
    default = bool(parameters.get("binary_data_output")) if isinstance(parameters, dict) else False
    names = ["probabilities"] + ["heatmaps"] * served.classifier.has_heatmaps
    outputs = asked.get("outputs")
    if outputs is None or outputs == []:
        return dict.fromkeys(names, default)
    wanted: dict[str, bool] = {}
    for output in outputs if isinstance(outputs, list) else [None]:
        name = output.get("name") if isinstance(output, dict) else None
        if name not in names:
            raise _bad(f"the model has no output {str(name)[:50]!r}; it has {', '.join(names)}")
        said = output.get("parameters") if isinstance(output, dict) else None
        said = said if isinstance(said, dict) else {}
        if said.get("classification"):
            raise _bad(
                "the classification extension is not supported; ask for probabilities, or use /v1/predict"
            )
        wanted[name] = bool(said.get("binary_data", default))
    return wanted


def _answer(
    asked: dict[str, Any], wanted: dict[str, bool], served: Served, answers: list[Answer]
) -> Response:
    outputs, blobs = [], []
    for name, binary in wanted.items():
        rows = [
            answer.probabilities if name == "probabilities" else answer.heatmaps
            for answer in answers
        ]
        values: npt.NDArray[np.float32] = np.stack([row for row in rows if row is not None]).astype(
            "<f4"
        )
        output: dict[str, Any] = {"name": name, "datatype": "FP32", "shape": list(values.shape)}
        if binary:
            blobs.append(values.tobytes())
            output["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            output["data"] = values.ravel().tolist()
        outputs.append(output)
    said: dict[str, Any] = {"model_name": served.name, "model_version": VERSION, "outputs": outputs}
    if isinstance(asked.get("id"), str):
        said["id"] = (
            asked["id"].encode("utf-8", "replace").decode()
        )  # JSON can hold halves of characters, UTF-8 cannot
    if not blobs:
        return JSONResponse(said)
    head = json.dumps(said).encode()
    headers = {JSON_LENGTH: str(len(head))}
    return Response(head + b"".join(blobs), media_type="application/octet-stream", headers=headers)


def _bad(message: str) -> Problem:
    return Problem(400, "bad-request", message)
