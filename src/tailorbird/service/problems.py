"""Refusals: one exception that carries an HTTP status, a code for programs and a sentence for people."""

from __future__ import annotations

from typing import Any

from tailorbird.errors import ImageError, ImageTooLarge, UnsupportedImage
from tailorbird.images import foreign_format

RETRY_AFTER = 1
"""Seconds a client is asked to wait after a refusal that time will cure; the queue empties in less."""

_NOT_PICTURES = frozenset(
    {None, "text", "script", "XML", "HTML page", "ZIP archive", "gzip archive", "program"}
)


class Problem(Exception):
    """A request that cannot be answered as asked.

    status: of HTTP. code: a fixed word for programs. message: what was wrong and what would be right.
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
        """The object under `error`."""
        return {"status": self.status, "code": self.code, "message": self.message}


class ClientGone(Exception):
    """The client closed the connection before its answer was ready; nobody is there to be told."""


def overloaded(
    message: str = "more photos are waiting than can be answered soon; try again in a moment",
) -> Problem:
    """503: the queue is full."""
    return Problem(503, "overloaded", message, {"Retry-After": str(RETRY_AFTER)})


def too_late() -> Problem:
    """503: the request's deadline passed before it was answered."""
    message = "the answer was not ready before the request's deadline; try again in a moment"
    return Problem(503, "deadline", message, {"Retry-After": str(RETRY_AFTER)})


def of_image(error: ImageError, data: bytes) -> Problem:
    """413 for too many pixels, 415 for a picture or document of a format that is not accepted, 422 for what is no usable picture."""
    if isinstance(error, ImageTooLarge):
        return Problem(413, "image-too-large", str(error))
    if isinstance(error, UnsupportedImage) and foreign_format(data[:4096]) not in _NOT_PICTURES:
        return Problem(415, "unsupported-format", str(error))
    return Problem(422, "unreadable-image", str(error))
