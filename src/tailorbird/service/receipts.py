"""Issue and check receipts: signed predictions, with which corrections can be trusted.

A receipt holds the SHA-256 of the photo's bytes, the prediction and the model's hash, signed
(HMAC-SHA256) with a secret that the corrections database holds. So any process of the service can
check it, and no state is kept between the prediction and the correction.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass

from itsdangerous import BadPayload, BadSignature, URLSafeSerializer

from tailorbird.service.web.problems import Problem, invalid

MOST_CHARACTERS = 64 * 1024


@dataclass(frozen=True)
class Receipt:
    """One prediction.

    photo, model: SHA-256 in hexadecimal. top: the most probable classes with their probabilities,
    the most probable first. refused: the model said that it seems to be none of the classes.
    """

    id: str
    photo: str
    model: str
    model_name: str
    top: tuple[tuple[str, float], ...]
    refused: bool = False

    @property
    def label(self) -> str:
        """The predicted class."""
        return self.top[0][0]

    @property
    def probability(self) -> float:
        """The probability of the predicted class."""
        return self.top[0][1]


def new_id() -> str:
    """Return an id for a new receipt."""
    return secrets.token_hex(8)


def issue(
    secret: bytes,
    *,
    photo: str,
    model: str,
    model_name: str,
    top: tuple[tuple[str, float], ...],
    refused: bool = False,
    id: str | None = None,
) -> str:
    """Return a new receipt as text; `id` is what `new_id` returned."""
    content = {
        "i": id or new_id(),
        "p": photo,
        "m": model,
        "n": model_name,
        "t": [[label, round(p, 6)] for label, p in top],
        **({"u": True} if refused else {}),
    }
    text = _serializer(secret).dumps(content)
    return text if isinstance(text, str) else text.decode()


def read(secret: bytes, text: str) -> Receipt:
    """Check a receipt and return its content.

    Raises Problem 422 if it is malformed, 409 if it was changed or signed by another service.
    """
    if "." not in text[1:] or len(text) > MOST_CHARACTERS or not text.isascii():
        raise invalid(
            "the receipt is damaged; send the `receipt` of a result of /v1/predict unchanged"
        )
    try:
        content = _serializer(secret).loads(text)
        top = tuple((str(label), float(p)) for label, p in content["t"])
        if not top:
            raise ValueError("no class")
        refused = "u" in content
        return Receipt(content["i"], content["p"], content["m"], content["n"], top, refused)
    except BadPayload:
        raise _refused("is of another version") from None
    except BadSignature:
        raise _refused("was not signed by this service") from None
    except (ValueError, KeyError, TypeError):  # the signature is valid, so another version wrote it
        raise _refused("is of another version") from None


def _refused(what: str) -> Problem:
    message = f"the receipt {what}; send the photo to /v1/predict again for a new one"
    return Problem(409, "conflict", message)


def _serializer(secret: bytes) -> URLSafeSerializer:
    signer = {"key_derivation": "hmac", "digest_method": hashlib.sha256}
    return URLSafeSerializer(secret, salt=b"tailorbird receipt", signer_kwargs=signer)
