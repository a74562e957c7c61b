"""Parse the tensors of inference requests (Open Inference Protocol V2)."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

from tailorbird.images import Pixels

NESTED = 4
"""Maximum number of images as nested lists, in which each value is a Python object."""


class BadTensor(Exception):
    """A request that does not fit the protocol or the model."""


def parse_tensor(
    text: bytes, size: int, most: int, raw: bytes = b""
) -> tuple[dict[str, Any], Pixels]:
    """Parse a request with one input: the request without its data, and uint8 (N, S, S, 3).

    text: the JSON part. size: the model's S. most: the largest N. raw: the binary part.

    Raises BadTensor.
    """
    if text.count(b"[") + text.count(b"{") > NESTED * (size * size + size + 1) + 1000:
        raise BadTensor(
            f"nested JSON is accepted for at most {NESTED} images; send `data` flat, or as "
            "binary data"
        )
    try:
        request = json.loads(text)
    except (ValueError, RecursionError):
        raise BadTensor("the body's JSON part cannot be parsed") from None
    tensor = _only_input(request)
    shape = _checked_shape(tensor, size, most)
    data = tensor.pop("data", None)
    parameters = tensor.get("parameters")
    binary = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    if binary is None:
        if raw:
            raise BadTensor(
                f"{len(raw)} bytes follow the JSON part, but the input has no binary_data_size"
            )
        return request, _from_numbers(data, shape)
    if type(binary) is not int or binary != len(raw) or binary != math.prod(shape):
        raise BadTensor(
            f"the input has {len(raw)} bytes of binary data; its shape needs {math.prod(shape)}"
        )
    return request, np.frombuffer(raw, np.uint8).reshape(shape)


def _only_input(request: Any) -> dict[str, Any]:
    inputs = request.get("inputs") if isinstance(request, dict) else None
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise BadTensor("`inputs` must hold exactly one tensor, `images`")
    return inputs[0]


def _checked_shape(tensor: dict[str, Any], size: int, most: int) -> list[int]:
    shape: Any = tensor.get("shape")
    whole = isinstance(shape, list) and all(type(side) is int for side in shape)
    named = tensor.get("name") == "images" and tensor.get("datatype") == "UINT8"
    if not named or not whole or len(shape) != 4 or shape[1:] != [size, size, 3]:
        raise BadTensor(f"the input must be `images`, UINT8, of shape [N, {size}, {size}, 3]")
    if not 1 <= shape[0] <= most:
        raise BadTensor(f"the input holds {shape[0]} images; it must hold 1 to {most}")
    checked: list[int] = shape
    return checked


def _from_numbers(data: object, shape: list[int]) -> Pixels:
    """Return a tensor written as JSON numbers, flat or nested."""
    try:
        values = np.asarray(data)
    except ValueError:
        raise BadTensor("`data` is nested unevenly") from None
    whole = values.dtype.kind in "iu" or values.size == 0
    if not whole or values.size != math.prod(shape) or values.ndim not in (1, 4):
        raise BadTensor(
            f"`data` must hold {math.prod(shape)} whole numbers, flat or nested as its shape"
        )
    if values.min() < 0 or values.max() > 255:
        raise BadTensor("`data` must hold whole numbers from 0 to 255")
    return values.astype(np.uint8).reshape(shape)
