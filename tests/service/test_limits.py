"""What a service does with input nobody should send: the right refusal, at once, readable, and
nothing else suffers.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from support.data import encoded, picture
from support.hostile_images import bomb
from support.server import Server, eventually, load, rest, serve, serve_with, status
from tailorbird.service.web.middleware import security_headers

TOKEN = "a-token-of-the-tests"
PHOTO = encoded(picture("disc", 77))
HOST = b"Host: 127.0.0.1\r\n"

HEADERS = security_headers()


@pytest.fixture(scope="module")
def server(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Small limits, short patience, no corrections."""
    model = Path(shutil.copy(trained, tmp_path_factory.mktemp("limits") / "shapes.onnx"))
    with serve_with(
        model, max_body=2**20, receive_timeout=1.5, head_timeout=1.0, connections=60, max_photos=4,
        allow_origins=["https://shop.example"],
    ) as running:  # fmt: skip
        yield running


def refusal(answer: httpx.Response, expected: int, code: str, words: str = "") -> None:
    """The answer is this refusal, in the form of every refusal."""
    assert answer.status_code == expected, answer.text
    error = answer.json()["error"]
    assert error["status"] == expected and error["code"] == code and words in error["message"], (
        error
    )
    assert error["request_id"] == answer.headers["x-request-id"]
    carries_headers(answer.headers)


def carries_headers(headers: httpx.Headers) -> None:
    assert {name: headers.get(name) for name in HEADERS} == HEADERS
    assert headers.get("x-request-id")


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
def test_formats_that_are_not_accepted_are_named(server: Server, name: str) -> None:
    refusal(server.predict(UNSUPPORTED[name]), 415, "unsupported-format", name)
    if name in ("SVG", "HEIC"):
        assert "export it as" in server.predict(UNSUPPORTED[name]).json()["error"]["message"]


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


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_usable_picture_is_422(server: Server, name: str) -> None:
    refusal(server.predict(BROKEN[name]), 422, "unreadable-image")


def test_a_pixel_bomb_is_refused_by_its_header(server: Server) -> None:
    start = time.perf_counter()
    for width, height in ((50_000, 50_000), (2**31 - 1, 1), (7072, 7072)):
        refusal(server.predict(bomb(width, height)), 413, "image-too-large", "pixels")
    assert time.perf_counter() - start < 2


def test_a_jpeg_of_endless_scans_is_refused_too(server: Server) -> None:
    from support.hostile_images import repeated_scans

    refusal(server.predict(repeated_scans(9_000)), 413, "image-too-large", "scans")


def test_a_body_too_large_is_refused_and_the_client_hears_it(server: Server) -> None:
    big = bytes(3 * 2**20)
    refusal(server.predict(big), 413, "body-too-large", "1 MiB")
    chunked = server.post(
        "/v1/predict", content=iter([big[:65536]] * 48), headers={"Content-Type": "image/jpeg"}
    )
    refusal(chunked, 413, "body-too-large")
    refusal(server.post("/v1/predict", files={"photo": ("a.jpg", big)}), 413, "body-too-large")
    # Said to be large and never sent: refused without waiting for it, and with `Expect` before
    # anything is sent.
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


def test_forms_that_are_damaged_or_hold_too_much_are_400(server: Server) -> None:
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


def test_types_and_encodings_of_bodies_that_are_not_accepted_are_415(server: Server) -> None:
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


def test_pages_of_other_sites_may_not_post_unless_allowed(server: Server) -> None:
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
    # A page that may ask must also be able to read why it was refused.
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


def test_names_that_are_not_this_machines_are_refused(server: Server) -> None:
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", ""):
        refusal(server.get("/v1/model", headers={"Host": host}), 400, "bad-host")
    for host in ("127.0.0.1", f"localhost:{server.port}", "[::1]:80", "LOCALHOST"):
        assert server.get("/v1/model", headers={"Host": host}).status_code == 200
    double = (
        b"GET /healthz HTTP/1.1\r\n" + HOST + b"Host: evil.example\r\nConnection: close\r\n\r\n"
    )
    assert status(server.say(double)) == 400


def test_unknown_paths_and_methods_are_json_too(server: Server) -> None:
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


def test_every_answer_carries_the_security_headers_and_a_request_id(server: Server) -> None:
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


@pytest.fixture(scope="module")
def guarded(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With a token."""
    model = Path(shutil.copy(trained, tmp_path_factory.mktemp("guarded") / "shapes.onnx"))
    with serve(model, environment={"TAILORBIRD_TOKEN": TOKEN}) as running:
        yield running


def test_without_the_token_only_probes_and_pages_are_answered(guarded: Server) -> None:
    for path in (
        "/v1/model",
        "/v1/corrections/stats",
        "/metrics",
        "/v2",
        "/v2/models/shapes",
        "/v1/nowhere",
        "/nowhere",
        "//v1/model",
    ):
        for header in (
            {},
            {"Authorization": "Bearer wrong-token"},
            {"Authorization": TOKEN},
            {"Authorization": f"Basic {TOKEN}"},
            {"Authorization": f"Bearer {TOKEN}x"},
            {"Authorization": "Bearer"},
        ):
            answer = guarded.get(path, headers=header)
            assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer", (
                path
            )
    refusal(guarded.get("/v1/model"), 401, "unauthorized")
    for path in ("/", "/healthz", "/readyz", "/openapi.json", "/v2/health/ready"):
        assert guarded.get(path).status_code == 200
    for scheme in ("Bearer", "bearer", "BEARER"):
        assert (
            guarded.get("/v1/model", headers={"Authorization": f"{scheme} {TOKEN}"}).status_code
            == 200
        )
    # A token lets the owner's own pages in under any name.
    assert (
        guarded.get(
            "/v1/model", headers={"Authorization": f"Bearer {TOKEN}", "Host": "shop.example"}
        ).status_code
        == 200
    )


def test_a_wrong_token_is_refused_before_the_body_is_sent(guarded: Server) -> None:
    with guarded.connect() as raw:
        raw.sendall(
            b"POST /v1/predict HTTP/1.1\r\n"
            + HOST
            + b"Content-Type: image/jpeg\r\nContent-Length: 1000000\r\nExpect: 100-continue\r\n\r\n"
        )
        start = time.perf_counter()
        answer = rest(raw)
    assert (
        status(answer) == 401 and b"100 Continue" not in answer and time.perf_counter() - start < 2
    )
    big = guarded.post(
        "/v1/predict", content=bytes(8 * 2**20), headers={"Content-Type": "image/jpeg"}
    )
    assert big.status_code == 401, "a client that sends all the same hears the refusal"


def test_the_log_has_neither_photos_nor_names_nor_tokens(guarded: Server) -> None:
    bearer = {"Authorization": f"Bearer {TOKEN}", "X-Request-Id": "logged-request"}
    files = {"photo": ("a-secret-name.jpg", PHOTO)}
    receipt = guarded.post("/v1/predict", files=files, headers=bearer).json()["results"][0][
        "receipt"
    ]
    guarded.post(
        "/v1/predict?token=in-the-query",
        content=b"a-secret-photo",
        headers={"Authorization": "Bearer a-wrong-secret"},
    )
    guarded.post(
        "/v1/corrections", json={"receipt": receipt, "answer": "a-secret-answer"}, headers=bearer
    )
    eventually(lambda: len(guarded.events("request")) > 3)
    lines = guarded.text().splitlines()
    events = [json.loads(line) for line in lines if not line.startswith(("Serving", "Corrections"))]
    assert all({"time", "level", "event", "pid"} <= set(event) for event in events)
    logged = [event for event in events if event.get("request_id") == "logged-request"]
    assert {(event["path"], event["status"]) for event in logged} == {
        ("/v1/predict", 200),
        ("/v1/corrections", 422),
    }
    for secret in (TOKEN, "a-secret", "a-wrong-secret", "in-the-query", receipt[:40], "JFIF"):
        assert secret not in guarded.text(), secret


def test_tokens_are_compared_in_constant_time() -> None:
    """The comparison is hmac's, of two digests of the same length, whatever was sent."""
    import inspect

    from tailorbird.service.web.middleware import Guard

    source = inspect.getsource(Guard._check_token)
    assert "hmac.compare_digest(given, expected)" in source and "sha256(token" in source


def test_overload_is_refused_at_once_while_probes_answer(trained: Path, tmp_path: Path) -> None:
    model = Path(shutil.copy(trained, tmp_path / "shapes.onnx"))
    photo = encoded(picture("disc", 5, (2000, 1600)), "PNG", compress_level=1)
    with (
        serve_with(model, queue=4, max_photos=4) as server,
        load(server, [photo], threads=8) as answers,
    ):
        probes = []
        for _ in range(6):
            for path in ("/healthz", "/metrics"):
                start = time.perf_counter()
                assert server.get(path).status_code == 200
                probes.append(time.perf_counter() - start)
            time.sleep(0.05)
        assert eventually(
            lambda: any(isinstance(a, httpx.Response) and a.status_code == 503 for a in answers)
        )
    assert statistics.median(probes) < 0.5, probes
    found = [answer for answer in answers if isinstance(answer, httpx.Response)]
    assert len(found) == len(answers) and {answer.status_code for answer in found} == {200, 503}
    for answer in found:
        if answer.status_code == 503:
            refusal(answer, 503, "overloaded")
            assert int(answer.headers["retry-after"]) >= 1


def test_many_large_bodies_at_once_cannot_fill_the_memory(trained: Path, tmp_path: Path) -> None:
    """Each of these requests is within its own limit; together they are not."""
    model = Path(shutil.copy(trained, tmp_path / "shapes.onnx"))
    with serve_with(model, max_body=64 * 2**20, receive_timeout=8) as server:
        before = server.memory()
        head = (
            b"POST /v1/predict HTTP/1.1\r\n"
            + HOST
            + b"Content-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % (64 * 2**20)
        )
        answers: list[bytes] = []

        def send() -> None:
            with server.connect(12) as raw:
                try:
                    raw.sendall(head)
                    for _ in range(60):
                        raw.sendall(bytes(2**20))
                except OSError:
                    pass
                answers.append(rest(raw))

        threads = [threading.Thread(target=send) for _ in range(10)]
        for thread in threads:
            thread.start()
        worst = 0.0
        while any(thread.is_alive() for thread in threads):
            worst = max(worst, server.memory())
            time.sleep(0.02)
        assert worst - before < 256 + 150, f"{worst - before:.0f} MiB"
        assert 503 in {status(answer) for answer in answers}
        assert eventually(lambda: server.predict(PHOTO).status_code == 200, 15)


def test_deadlines_are_kept_and_late_photos_cost_no_inference(
    trained: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copy(trained, tmp_path / "shapes.onnx"))
    slow = encoded(picture("disc", 5, (3000, 2500)), "PNG", compress_level=1)
    with serve_with(model, deadline=0.3) as server:
        with load(server, [slow], threads=8) as answers:
            eventually(
                lambda: (
                    sum(isinstance(a, httpx.Response) and a.status_code == 503 for a in answers)
                    >= 4
                )
            )
        late = [a for a in answers if isinstance(a, httpx.Response) and a.status_code == 503]
        assert late and all(isinstance(answer, httpx.Response) for answer in answers)
        refusal(late[0], 503, "deadline")
        assert late[0].headers["retry-after"]
        assert server.metric("tailorbird_dropped_photos_total") > 0
        assert eventually(lambda: server.metric("tailorbird_photos_waiting") == 0)


def small_disk(folder: Path) -> bool:
    """Make the folder a disk of its own of half a MiB, where this is allowed."""
    folder.mkdir()
    return os.geteuid() == 0 and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)], capture_output=True
    ).returncode == 0  # fmt: skip


def test_a_full_disk_refuses_corrections_and_nothing_else(trained: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    if not small_disk(disk):
        pytest.skip("only root may make a small disk; the same is tested inside one process below")
    try:
        model = Path(shutil.copy(trained, tmp_path / "shapes.onnx"))
        with serve(model, "--corrections", str(disk / "shop.db")) as server:
            receipt = server.predict(PHOTO).json()["results"][0]["receipt"]
            body = {"receipt": receipt, "answer": "disc"}
            assert server.post("/v1/corrections", json=body).status_code == 201
            filler = disk / "filler"
            with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass
            stored = 1
            for _ in range(200):
                answer = server.post("/v1/corrections", json=body)
                if answer.status_code != 201:
                    break
                stored += 1
            refusal(answer, 507, "storage-full", "not stored")
            assert (
                server.predict(PHOTO).status_code == 200
                and server.get("/readyz").status_code == 200
            )
            assert (
                'tailorbird_corrections_stored_total{result="storage-full"} 1.0'
                in server.get("/metrics").text
            )
            filler.unlink()
            assert server.post("/v1/corrections", json=body).status_code == 201
            stats = server.get("/v1/corrections/stats").json()
            assert stats["total"] == 1, "one receipt, however often it was answered"
        import sqlite3

        with sqlite3.connect(disk / "shop.db") as database:
            assert database.execute("SELECT count(*) FROM tailorbird_corrections").fetchone() == (
                stored + 1,
            )
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)


@pytest.mark.parametrize(
    ("error", "expected", "code"),
    [("StorageFull", 507, "storage-full"), ("StorageError", 503, "storage-failed")],
)
def test_storage_errors_become_refusals(
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: str,
    expected: int,
    code: str,
) -> None:
    import asyncio

    from tailorbird import errors
    from tailorbird.corrections import Corrections
    from tailorbird.service import ServeSettings, create_app

    def fail(*_: object, **__: object) -> int:
        raise getattr(errors, error)("the disk says no, in /a/secret/folder")

    app = create_app(ServeSettings(model=trained, corrections=str(tmp_path / "shop.db")))
    transport = httpx.ASGITransport(app)

    async def ask() -> tuple[httpx.Response, httpx.Response]:
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            said = await client.post("/v1/predict", content=PHOTO)
            receipt = said.json()["results"][0]["receipt"]
            monkeypatch.setattr(Corrections, "add", fail)
            refused = await client.post(
                "/v1/corrections", json={"receipt": receipt, "answer": "disc"}
            )
            return refused, await client.post("/v1/predict", content=PHOTO)

    refused, after = asyncio.run(ask())
    refusal(refused, expected, code)
    assert "secret" not in refused.text and after.status_code == 200
    assert ("retry-after" in refused.headers) == (expected == 503)


def test_settings_that_cannot_be_meant_are_refused(trained: Path) -> None:
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


# Connections that do not behave.


def test_slow_headers_end_in_408_and_silence_in_nothing(server: Server) -> None:
    with server.connect() as slow, server.connect() as silent:
        start = time.perf_counter()
        ended = []
        for byte in b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: " + b"a" * 1000:
            try:
                slow.sendall(bytes([byte]))
                time.sleep(0.02)
            except OSError:
                break
            slow.settimeout(0.001)
            try:
                if not (data := slow.recv(65536)):
                    break
                ended.append(data)
            except TimeoutError:
                continue
        assert time.perf_counter() - start < 8
        assert status(b"".join(ended)) == 408 and b"x-request-id" in b"".join(ended)
        assert rest(silent) == b""


def test_a_slow_body_ends_in_408(server: Server) -> None:
    with server.connect() as raw:
        raw.sendall(b"POST /v1/predict HTTP/1.1\r\n" + HOST + b"Content-Length: 1000\r\n\r\n")
        for _ in range(4):
            raw.sendall(b"x")
            time.sleep(0.2)
        answer = rest(raw)
    assert (
        status(answer) == 408 and b'"request-timeout"' in answer and b"connection: close" in answer
    )


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


@pytest.mark.parametrize("name", REQUESTS)
def test_what_is_no_proper_request_is_400_and_the_connection_ends(
    server: Server, name: str
) -> None:
    answer = server.say(REQUESTS[name], 5)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert status(answer) == 400 and answer.count(b"HTTP/1.1 ") == 1, answer[:300]
    assert (
        not answer.endswith(b"<still open>")
        and b"content-security-policy" in head
        and b"x-request-id" in head
    )
    assert json.loads(body)["error"]["code"] == "bad-request"


def test_paths_lead_nowhere_else(server: Server) -> None:
    for path in (
        "/static/%2e%2e/pages.py",
        "/static/..%2fpages.py",
        "/static/../pages.py",
        "/static//etc/passwd",
        "/static/%2fetc%2fpasswd",
        "/static/%00",
        "/static/index.html%00.js",
        "/static/..",
        "/static/.",
        "/static/",
        "/static/%c0%ae%c0%ae/x",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/static/%ff%fe",
        "/v1/%70redict%00",
        "/static/" + "a" * 5000,
        "/v1/../v1/predict",
        "*",
    ):
        answer = server.say(
            b"GET " + path.encode() + b" HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"
        )
        assert status(answer) == 404, (path, answer[:200])


def test_old_and_odd_but_honest_requests_are_answered(server: Server) -> None:
    plain = server.say(b"GET /healthz HTTP/1.0\r\n" + HOST + b"\r\n")
    assert status(plain) == 200 and plain.endswith(b'{"status":"alive"}'), (
        "HTTP/1.0 ends with the connection"
    )
    absolute = b"GET http://127.0.0.1/healthz HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"
    assert status(server.say(absolute)) == 200
    upgrade = (
        HEAD + b"Connection: close, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n"
    )
    assert status(server.say(upgrade)) == 200, (
        "no other protocol is spoken, which is answered in this one"
    )
    for connection in (b"Upgrade, HTTP2-Settings", b"close, Upgrade"):
        wish = b"Connection: " + connection + b"\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n"
        head = POST + wish + b"Content-Length: %d\r\n\r\n" % len(PHOTO)
        with (
            server.connect() as raw
        ):  # as Java's client sends every request, here in three pieces and with another behind it
            for piece in (
                head[:70],
                head[70:] + PHOTO[:100],
                PHOTO[100:] + HEAD + b"Connection: close\r\n\r\n",
            ):
                raw.sendall(piece)
                time.sleep(0.05)
            answer = rest(raw)
        assert status(answer) == 200 and b'"disc"' in answer
        assert answer.count(b"HTTP/1.1 200") == (1 if b"close" in connection else 2), answer
    chunked = (
        POST
        + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n"
        % (
            len(PHOTO),
            PHOTO,
        )
    )
    assert status(server.say(chunked)) == 200
    blank = b"\r\n\r\n" + HEAD + b"Connection: close\r\n\r\n"
    assert status(server.say(blank)) == 200


def test_pipelined_requests_are_answered_in_order_and_not_without_end(server: Server) -> None:
    with server.connect() as raw:
        raw.sendall(HEAD + b"X-Request-Id: a1\r\n\r\n" + POST + (b"X-Request-Id: "
                                                                b"a2\r\nContent-Length: "
                                                                b"%d\r\n\r\n") % len(PHOTO) + PHOTO
                    + HEAD + b"X-Request-Id: a3\r\nConnection: close\r\n\r\n")  # fmt: skip
        answer = rest(raw)
    assert [line[-2:] for line in answer.split(b"\r\n") if line.startswith(b"x-request-id")] == [
        b"a1",
        b"a2",
        b"a3",
    ]
    before = server.memory()
    with server.connect(5) as raw:
        flood = server.say((HEAD + b"\r\n") * 50_000, 5)
        assert flood.count(b"HTTP/1.1 200") < 1000 and not flood.endswith(b"<still open>")
        assert raw
    assert server.memory() - before < 30


def test_connections_beyond_the_most_allowed_hear_503(server: Server) -> None:
    eventually(lambda: server.get("/healthz").status_code == 200)
    with Many(server, 60) as held:
        assert len(held) == 60
        with server.connect(3) as one_more:
            answer = rest(one_more)
        assert (
            status(answer) == 503
            and b"retry-after: 1" in answer
            and b'"overloaded"' in answer
            and b"x-request-id" in answer
        )
    assert eventually(lambda: server.get("/healthz").status_code == 200)


class Many:
    """Connections that send the beginning of a request and hold it."""

    def __init__(self, server: Server, count: int) -> None:
        self._held = [server.connect() for _ in range(count)]

    def __enter__(self) -> list[socket.socket]:
        for raw in self._held:
            raw.sendall(b"GET /healthz HTTP/1.1\r\n")
        return self._held

    def __exit__(self, *_: object) -> None:
        for raw in self._held:
            raw.close()


def test_a_client_that_reads_no_answers_is_dropped(server: Server) -> None:
    """Two dozen documents do not fit into what the system buffers for a client that never reads."""
    with socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        raw.connect(("127.0.0.1", server.port))
        eventually(lambda: _connections(server.port) >= 1)
        raw.settimeout(1)
        request = b"GET /openapi.json HTTP/1.1\r\n" + HOST + b"\r\n"
        try:
            for _ in range(400):
                raw.sendall(request * 8)
                time.sleep(0.005)
        except OSError:
            pass
        local = raw.getsockname()[1]
        assert eventually(lambda: not _open_to(server.port, local), 20), (
            "the service still holds the connection"
        )


def _tcp() -> list[list[str]]:
    return [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]


def _connections(port: int) -> int:
    return sum(row[1].endswith(f":{port:04X}") and row[3] == "01" for row in _tcp())


def _open_to(port: int, client: int) -> bool:
    """Whether the service's end of a connection is established still."""
    return any(
        row[1].endswith(f":{port:04X}") and row[2].endswith(f":{client:04X}") and row[3] == "01"
        for row in _tcp()
    )


def test_a_photo_whose_client_left_is_dropped_before_inference(
    trained: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copy(trained, tmp_path / "shapes.onnx"))
    slow = encoded(picture("disc", 5, (3000, 2500)), "PNG", compress_level=1)
    head = POST + b"Content-Type: image/png\r\nContent-Length: %d\r\n\r\n" % len(slow)
    with serve_with(model) as server:
        leaving = [server.connect() for _ in range(24)]
        for raw in leaving:
            raw.sendall(head + slow)
        for raw in leaving:
            raw.close()
        assert eventually(lambda: server.metric("tailorbird_dropped_photos_total") >= 8), (
            server.get("/metrics").text
        )
        assert eventually(lambda: server.metric("tailorbird_photos_waiting") == 0)
        assert server.metric("tailorbird_batch_photos_sum") <= 16
        assert server.metric('tailorbird_http_requests_total{status="499"}') >= 8
        assert server.predict(PHOTO).status_code == 200


def test_half_closed_connections_end(server: Server) -> None:
    for request in (b"", HEAD, POST + b"Content-Length: 100\r\n\r\nhello", HEAD + b"\r\n"):
        with server.connect(5) as raw:
            raw.sendall(request)
            raw.shutdown(socket.SHUT_WR)
            assert not rest(raw).endswith(b"<still open>")
    assert server.get("/healthz").status_code == 200


def test_memory_does_not_grow_with_abuse(server: Server) -> None:
    attacks: list[Callable[[], object]] = [
        lambda: server.say(REQUESTS["10,000 headers"], 2),
        lambda: server.say(REQUESTS["length and chunks"], 2),
        lambda: server.say(REQUESTS["a damaged chunk"], 2),
        lambda: server.predict(BROKEN["cut JPEG"]),
        lambda: server.predict(bytes(900_000)),
        lambda: server.predict(PHOTO),
        lambda: server.get("/nowhere/" + os.urandom(8).hex()),
        lambda: server.connect().close(),
    ]
    for attack in attacks * 5:
        attack()
    before = server.memory()
    for attack in attacks * 15:
        attack()
    assert server.memory() - before < 25
    assert server.predict(PHOTO).json()["results"][0]["label"] == "disc"
    assert not server.events("failed"), server.events("failed")[:1]
