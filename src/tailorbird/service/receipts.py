"""Receipts: what the service said about a photo, signed, so that a correction can be trusted whichever process gets it.

A receipt holds the SHA-256 of the photo's bytes, the prediction and the model's hash, as JSON in URL-safe base64, then an
HMAC-SHA256 (RFC 2104) of it under a secret kept in the corrections database. Nothing is remembered between the prediction and the correction.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import secrets
from dataclasses import dataclass

from tailorbird.service.web.problems import Problem

MOST_CHARACTERS = 64 * 1024


@dataclass(frozen=True)
class Receipt:
    """One answer. `photo` and `model` are SHA-256 in hexadecimal; `top` the most probable classes, most probable first."""

    id: str
    photo: str
    model: str
    model_name: str
    top: tuple[tuple[str, float], ...]

    @property
    def label(self) -> str:
        """The class the model said."""
        return self.top[0][0]

    @property
    def probability(self) -> float:
        """Its probability."""
        return self.top[0][1]


def issue(
    secret: bytes, *, photo: str, model: str, model_name: str, top: tuple[tuple[str, float], ...]
) -> str:
    """A new receipt as text."""
    body = {
        "i": secrets.token_hex(8),
        "p": photo,
        "m": model,
        "n": model_name,
        "t": [[label, round(p, 6)] for label, p in top],
    }
    payload = base64.urlsafe_b64encode(json.dumps(body, separators=(",", ":")).encode()).rstrip(
        b"="
    )
    return f"{payload.decode()}.{_signature(secret, payload)}"


def read(secret: bytes, text: str) -> Receipt:
    """Check a receipt. Raises Problem 422 for text that is none, 409 for one another service signed or somebody changed."""
    payload, dot, signature = text.partition(".")
    if not dot or len(text) > MOST_CHARACTERS or not text.isascii():
        raise Problem(
            422,
            "invalid",
            "the receipt is damaged; send the `receipt` of a result of /v1/predict as it came",
        )
    if not hmac.compare_digest(_signature(secret, payload.encode()), signature):
        raise Problem(
            409,
            "conflict",
            "the receipt was not signed by this service; send the photo to /v1/predict again for a new one",
        )
    try:
        body = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        top = tuple((str(label), float(p)) for label, p in body["t"])
        if not top:
            raise ValueError("no class")
        return Receipt(body["i"], body["p"], body["m"], body["n"], top)
    except (
        binascii.Error,
        ValueError,
        KeyError,
        TypeError,
    ):  # signed by us, so only another version of us wrote it
        raise Problem(
            409,
            "conflict",
            "the receipt is of another version; send the photo to /v1/predict again for a new one",
        ) from None


def _signature(secret: bytes, payload: bytes) -> str:
    digest = hmac.new(secret, payload, hashlib.sha256).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
