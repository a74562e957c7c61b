"""Checks of the refusals and headers of a running service, with a photo and raw requests."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from support.data import encoded, picture
from support.server import Server, serve_with
from tailorbird.service.web.middleware import security_headers

PHOTO = encoded(picture("disc", 77))


HOST = b"Host: 127.0.0.1\r\n"


HEADERS = security_headers()


@pytest.fixture(scope="module")
def server(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run a service with small limits, short timeouts and no corrections."""
    model = Path(shutil.copy(trained, tmp_path_factory.mktemp("limits") / "shapes.onnx"))
    with serve_with(
        model, max_body=2**20, receive_timeout=1.5, head_timeout=1.0, connections=60, max_photos=4,
        allow_origins=["https://shop.example"],
    ) as running:  # fmt: skip
        yield running


def refusal(answer: httpx.Response, expected: int, code: str, words: str = "") -> None:
    """Check that a response is this refusal, in the form that all refusals share."""
    assert answer.status_code == expected, answer.text
    error = answer.json()["error"]
    assert error["status"] == expected and error["code"] == code and words in error["message"], (
        error
    )
    assert error["request_id"] == answer.headers["x-request-id"]
    carries_headers(answer.headers)


def carries_headers(headers: httpx.Headers) -> None:
    """Check the security headers and the request id of a response."""
    assert {name: headers.get(name) for name in HEADERS} == HEADERS
    assert headers.get("x-request-id")


BROKEN: dict[str, bytes] = {
    "nothing": b"",
    "text": b"this is no picture",
    "json": b'{"a": 1}',
    "zeros": bytes(5000),
    "noise": bytes(np.random.default_rng(3).integers(128, 256, 5000, dtype=np.uint8)),
    "page": b"<!doctype html><html></html>",
    "zip": b"PK\3\4" + bytes(100),
    "cut JPEG": PHOTO[: len(PHOTO) // 2],
    "JPEG header": PHOTO[:20],
    "cut PNG": encoded(picture("box", 1), "PNG")[:-2000],
    "cut WebP": encoded(picture("box", 1), "WEBP")[:-500],
    "cut GIF": encoded(picture("box", 1), "GIF")[:200],
    "cut BMP": encoded(picture("box", 1), "BMP")[:200],
}


HEAD = b"GET /healthz HTTP/1.1\r\n" + HOST


POST = b"POST /v1/predict HTTP/1.1\r\n" + HOST


REQUESTS = {
    "endless header": HEAD + b"X: " + b"a" * 3_000_000,
    "endless URL": b"GET /" + b"a" * 3_000_000,
    "10,000 headers": HEAD + b"X: a\r\n" * 10_000 + b"\r\n",
    "101 headers": HEAD + b"X: a\r\n" * 101 + b"\r\n",
    "two lengths": POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "negative length": POST + b"Content-Length: -5\r\n\r\nhello",
    "length overflow": POST + b"Content-Length: 99999999999999999999999999\r\n\r\nhello",
    "length of words": POST + b"Content-Length: five\r\n\r\nhello",
    "length and chunks": POST
    + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    + HEAD
    + b"\r\n",
    "chunks and length": POST
    + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"
    + HEAD
    + b"\r\n",
    "chunked, then not": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "a strange encoding": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a space before the colon": POST + b"Content-Length : 5\r\n\r\nhello",
    "a folded header": HEAD + b"X: a\r\n b\r\n\r\n",
    "a bare line feed in a header": HEAD + b"X: a\nY: b\r\n\r\n",
    "a zero byte in a header": HEAD + b"X: a\0b\r\n\r\n",
    "a damaged chunk": POST + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\nhello\r\n0\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00" + bytes(range(256)),
    "a word that is no method": b"FETCH / HTTP/1.1\r\n" + HOST + b"\r\n",
    "CONNECT": b"CONNECT evil.example:443 HTTP/1.1\r\n" + HOST + b"\r\n",
    "bytes in the path": b"GET /\xff\xfe HTTP/1.1\r\n" + HOST + b"\r\n",
}
