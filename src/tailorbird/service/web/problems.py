"""Refusals: an exception with an HTTP status, a code for programs and a message for people."""

from __future__ import annotations

from typing import Any

from tailorbird.errors import ImageError, ImageTooLarge, UnsupportedImage
from tailorbird.images import HEAD, identify

RETRY_AFTER = 1
"""Seconds that a client should wait after a temporary refusal; the queue empties in less."""


class Problem(Exception):
    """A request that cannot be answered as sent.

    status: the HTTP status. code: a fixed word for programs. message: what was wrong and what is
    valid. headers: further headers of the response.
    """

    def __init__(
        self, status: int, code: str, message: str, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = headers or {}

    def as_dict(self) -> dict[str, Any]:
        """Return the object under `error` of a response."""
        return {"status": self.status, "code": self.code, "message": self.message}


class ClientGone(Exception):
    """The client closed the connection before its response was ready."""


def overloaded(message: str = "the queue of photos is full; try again in a moment") -> Problem:
    """Return 503: the queue is full."""
    return Problem(503, "overloaded", message, {"Retry-After": str(RETRY_AFTER)})


def too_late() -> Problem:
    """Return 503: the request's deadline passed before it was answered."""
    message = "the response was not ready before the request's deadline; try again in a moment"
    return Problem(503, "deadline", message, {"Retry-After": str(RETRY_AFTER)})


def invalid(message: str) -> Problem:
    """Return 422: a parameter or field has a value that is not valid."""
    return Problem(422, "invalid", message)


def of_image(error: ImageError, data: bytes) -> Problem:
    """Return the problem for a photo that cannot be used.

    413 for too many pixels, 415 for a picture or document of a format that is not accepted, 422
    for what is not a usable picture.
    """
    if isinstance(error, ImageTooLarge):
        return Problem(413, "image-too-large", str(error))
    row = identify(data[:HEAD])
    if isinstance(error, UnsupportedImage) and row is not None and row.visual:
        return Problem(415, "unsupported-format", str(error))
    return Problem(422, "unreadable-image", str(error))
