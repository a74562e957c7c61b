"""Unacceptable photos, bodies, origins, hosts, paths and settings are refused with the reason."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from support.data import encoded
from support.hostile_images import bomb
from support.refusals import (  # noqa: F401 (fixtures)
    BROKEN,
    HEADERS,
    HOST,
    PHOTO,
    carries_headers,
    refusal,
    server,
)
from support.server import Server, rest, status

UNSUPPORTED = {
    "SVG": b'<?xml version="1.0"?><svg '
    b'xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
    "TIFF": encoded(Image.new("RGB", (9, 9)), "TIFF"),
    "PDF": b"%PDF-1.7\n1 0 obj\n",
    "HEIC": b"\0\0\0\x24ftypheic\0\0\0\0mif1heic" + bytes(100),
    "JPEG XL": b"\xff\x0a" + bytes(100),
    "JPEG 2000": encoded(Image.new("RGB", (9, 9)), "JPEG2000"),
    "icon (ICO)": encoded(Image.new("RGB", (16, 16)), "ICO"),
    "Photoshop (PSD)": b"8BPS\0\1" + bytes(100),
    "MP4 video": b"\0\0\0\x18ftypisom" + bytes(100),
    "QOI": b"qoif" + bytes(100),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_unsupported_formats_are_refused_by_name(server: Server, name: str) -> None:
    refusal(server.predict(UNSUPPORTED[name]), 415, "unsupported-format", name)
    if name in ("SVG", "HEIC"):
        assert "export it as" in server.predict(UNSUPPORTED[name]).json()["error"]["message"]


@pytest.mark.parametrize("name", BROKEN)
def test_unreadable_photos_are_refused_with_422(server: Server, name: str) -> None:
    refusal(server.predict(BROKEN[name]), 422, "unreadable-image")


def test_a_decompression_bomb_is_refused_by_its_header(server: Server) -> None:
    start = time.perf_counter()
    for width, height in ((50_000, 50_000), (2**31 - 1, 1), (7072, 7072)):
        refusal(server.predict(bomb(width, height)), 413, "image-too-large", "pixels")
    assert time.perf_counter() - start < 20


def test_a_jpeg_with_too_many_scans_is_refused(server: Server) -> None:
    from support.hostile_images import repeated_scans

    refusal(server.predict(repeated_scans(9_000)), 413, "image-too-large", "scans")


def test_an_oversized_body_is_refused_and_the_client_receives_the_refusal(server: Server) -> None:
    big = bytes(3 * 2**20)
    refusal(server.predict(big), 413, "body-too-large", "1 MiB")
    chunked = server.post(
        "/v1/predict", content=iter([big[:65536]] * 48), headers={"Content-Type": "image/jpeg"}
    )
    refusal(chunked, 413, "body-too-large")
    refusal(server.post("/v1/predict", files={"photo": ("a.jpg", big)}), 413, "body-too-large")
    # A large announced body is refused before it arrives, and with `Expect` before it is sent.
    for expect in (b"", b"Expect: 100-continue\r\n"):
        with server.connect() as raw:
            raw.sendall(
                b"POST /v1/predict HTTP/1.1\r\n"
                + HOST
                + b"Content-Length: 999999999\r\n"
                + expect
                + b"\r\n"
            )
            raw.shutdown(socket.SHUT_WR) if not expect else None
            answer = rest(raw)
            assert (
                status(answer) in ((413,) if expect else (0, 413)) and b"100 Continue" not in answer
            )


def test_malformed_and_oversized_forms_are_refused_with_400(server: Server) -> None:
    files = [("photo", (f"{n}.jpg", PHOTO)) for n in range(5)]
    refusal(server.post("/v1/predict", files=files), 400, "too-many-parts", "4 photos")
    fields: dict[str, Any] = {f"f{n}": (None, "x") for n in range(40)}
    refusal(server.post("/v1/predict", files=fields), 400, "too-many-parts", "fields")
    empty = b"--b--\r\n"
    answer = server.post(
        "/v1/predict",
        content=empty,
        headers={"Content-Type": "multipart/form-data; boundary=b"},
    )
    refusal(answer, 400, "bad-request", "no photo")
    part = b'--b\r\nContent-Disposition: form-data; name="photo"; filename="a"\r\n\r\n'
    for body, kind in (
        (part + PHOTO, "multipart/form-data; boundary=b"),
        (part + PHOTO + b"\r\n--b--\r\n", "multipart/form-data"),
        (part + PHOTO + b"\r\n--b--\r\n", "multipart/form-data; boundary=other"),
        (part + PHOTO + b"\r\n--b--\r\n", "multipart/form-data; boundary=" + "b" * 5000),
        (b"", "multipart/form-data; boundary=b"),
        (b"--b\r\n\r\nx\r\n--b--\r\n", "multipart/form-data; boundary=b"),
        (
            b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n",
            "multipart/form-data; boundary=b",
        ),
        (
            b"--b\r\n" + b"X" * 100_000 + b"\r\n\r\nx\r\n--b--\r\n",
            "multipart/form-data; boundary=b",
        ),
        (
            b"--b\r\n" + b"A: b\r\n" * 50_000 + b"\r\nx\r\n--b--\r\n",
            "multipart/form-data; boundary=b",
        ),
    ):
        refusal(
            server.post("/v1/predict", content=body, headers={"Content-Type": kind}),
            400,
            "bad-request",
        )


def test_unsupported_content_types_and_encodings_are_refused_with_415(server: Server) -> None:
    for kind in ("text/plain", "application/xml", "application/x-www-form-urlencoded"):
        refusal(
            server.post("/v1/predict", content=PHOTO, headers={"Content-Type": kind}),
            415,
            "unsupported-media-type",
        )
    for encoding in ("gzip", "br", "deflate", "identity, gzip"):
        headers = {"Content-Type": "image/jpeg", "Content-Encoding": encoding}
        refusal(
            server.post("/v1/predict", content=PHOTO, headers=headers),
            415,
            "unsupported-media-type",
        )


def test_cross_site_posts_are_refused_unless_the_origin_is_allowed(server: Server) -> None:
    def said(**headers: str) -> httpx.Response:
        return server.post(
            "/v1/predict", content=PHOTO, headers={"Content-Type": "image/jpeg", **headers}
        )

    for origin in (
        "https://evil.example",
        "null",
        "http://127.0.0.1",
        "http://[",
        "//",
        "file://",
        f"{server.url}.evil.example",
        "ü",
    ):
        refusal(
            said(Origin=origin) if origin.isascii() else said(Origin="%C3%BC"), 403, "forbidden"
        )
    refusal(said(**{"Sec-Fetch-Site": "cross-site"}), 403, "forbidden")
    assert said(Origin=server.url).status_code == 200
    allowed = said(Origin="https://shop.example")
    assert (
        allowed.status_code == 200
        and allowed.headers["access-control-allow-origin"] == "https://shop.example"
    )
    # An allowed page must be able to read the reason of a refusal.
    refused = server.post("/v1/predict", content=b"x", headers={"Origin": "https://shop.example"})
    refusal(refused, 422, "unreadable-image")
    assert refused.headers["access-control-allow-origin"] == "https://shop.example"
    preflight = httpx.options(
        server.url + "/v1/predict",
        headers={
            "Origin": "https://shop.example",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "content-type",
        },
    )
    assert (
        preflight.status_code == 200 and "POST" in preflight.headers["access-control-allow-methods"]
    )
    assert "access-control-allow-origin" not in said(Origin="https://evil.example").headers


def test_unknown_host_names_are_refused(server: Server) -> None:
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", ""):
        refusal(server.get("/v1/model", headers={"Host": host}), 400, "bad-host")
    for host in ("127.0.0.1", f"localhost:{server.port}", "[::1]:80", "LOCALHOST"):
        assert server.get("/v1/model", headers={"Host": host}).status_code == 200
    double = (
        b"GET /healthz HTTP/1.1\r\n" + HOST + b"Host: evil.example\r\nConnection: close\r\n\r\n"
    )
    assert status(server.say(double)) == 400


def test_unknown_paths_and_methods_are_answered_with_json(server: Server) -> None:
    refusal(server.get("/nowhere"), 404, "not-found", "/nowhere")
    refusal(server.get("/v1/model/"), 404, "not-found")
    refusal(server.get("/v1/predict"), 405, "method-not-allowed", "POST")
    for method in ("DELETE", "PUT", "PATCH", "TRACE", "OPTIONS"):
        answer = httpx.request(method, server.url + "/v1/predict")
        refusal(answer, 405, "method-not-allowed")
        assert "POST" in answer.headers["allow"]
    assert server.get("/v2/models/other").json() == {
        "error": "there is no model 'other' here; this service has 'shapes'"
    }


def test_every_response_has_security_headers_and_a_request_id(server: Server) -> None:
    for path in (
        "/",
        "/v1/model",
        "/healthz",
        "/metrics",
        "/openapi.json",
        "/nowhere",
        "/v2",
        "/static/none",
    ):
        answer = server.get(path)
        carries_headers(answer.headers)
        assert answer.headers["x-request-id"] != server.get(path).headers["x-request-id"]
    carries_headers(server.predict(PHOTO).headers)
    assert (
        server.get("/healthz", headers={"X-Request-Id": "mine.1-2_3"}).headers["x-request-id"]
        == "mine.1-2_3"
    )
    for made_up in ("a" * 65, "a b", "a<b>", "é".encode()):
        assert (
            server.get("/healthz", headers={"X-Request-Id": made_up}).headers["x-request-id"]
            != made_up
        )
    assert (
        "unsafe" not in HEADERS["Content-Security-Policy"]
        and "server" not in server.get("/healthz").headers
    )


def test_invalid_service_settings_are_refused(trained: Path) -> None:
    from tailorbird.errors import SettingsError
    from tailorbird.service import ServeSettings

    wrong: list[tuple[dict[str, Any], str]] = [
        ({"token": "short"}, "at least 8"),
        ({"token": " a space before"}, "spaces"),
        ({"token": "ümläute!"}, "ASCII"),
        ({"port": 70000}, "port"),
        ({"workers": 0}, "workers"),
        ({"queue": 3}, "queue"),
        ({"deadline": 0}, "deadline"),
        ({"allow_origins": ("shop.example",)}, "origin"),
        ({"allow_origins": ("null",)}, "origin"),
        ({"max_pixels": 1}, "max pixels"),
    ]
    for options, words in wrong:
        with pytest.raises(SettingsError, match=words):
            ServeSettings(model=trained, **options)
    with pytest.raises(SettingsError, match=r"port is 70000.*workers is 0"):
        ServeSettings(model=trained, port=70000, workers=0)
    assert "hunter22" not in repr(
        ServeSettings(model=trained, token="hunter22", corrections="postgresql://u:hunter22@h/d")
    )
