"""Answers of people for the stores of corrections."""

from __future__ import annotations

import hashlib
import os
from typing import Any

from support.data import encoded, picture
from tailorbird.corrections import Corrections

MODEL = "0" * 64


def photo(number: int, label: str = "disc", kind: str = "PNG") -> bytes:
    return encoded(picture(label, 50_000 + number, (24, 20)), kind)


def add(
    store: Corrections,
    data: bytes,
    answer: str,
    predicted: str = "box",
    receipt: str | None = None,
    **more: Any,
) -> int:
    digest = hashlib.sha256(data).hexdigest()
    values: dict[str, Any] = {"model": "shop", "model_sha256": MODEL, "probability": 0.75, **more}
    return store.add(
        sha256=digest,
        predicted=predicted,
        top=[(predicted, 0.75), (answer, 0.25)],
        answer=answer,
        receipt=receipt or os.urandom(8).hex(),
        **values,
    )
