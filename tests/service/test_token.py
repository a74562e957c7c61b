"""A service with a token: who is answered, what is logged, how tokens are compared."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.refusals import (
    HOST,
    PHOTO,
    refusal,
)
from support.server import Server, eventually, rest, serve, status

TOKEN = "a-token-of-the-tests"


@pytest.fixture(scope="module")
def guarded(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run a service with a token."""
    model = Path(shutil.copy(trained, tmp_path_factory.mktemp("guarded") / "shapes.onnx"))
    with serve(model, environment={"TAILORBIRD_TOKEN": TOKEN}) as running:
        yield running


def test_without_the_token_only_probes_and_pages_are_served(guarded: Server) -> None:
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
    # With the token, any Host is accepted.
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
    assert big.status_code == 401, "a client that sends the body receives the refusal"


def test_the_log_contains_no_photos_file_names_or_tokens(guarded: Server) -> None:
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
        "/v1/corrections",
        json={"receipt": receipt, "answer": "a-secret\u200banswer"},
        headers=bearer,
    )
    eventually(lambda: "/v1/corrections" in guarded.text())
    lines = guarded.text().splitlines()
    events = [json.loads(line) for line in lines]
    assert all({"time", "level", "event", "pid"} <= set(event) for event in events)
    logged = [event for event in events if event.get("request_id") == "logged-request"]
    assert {(event["path"], event["status"]) for event in logged} == {
        ("/v1/predict", 200),
        ("/v1/corrections", 422),
    }
    for secret in (TOKEN, "a-secret", "a-wrong-secret", "in-the-query", receipt[:40], "JFIF"):
        assert secret not in guarded.text(), secret


def test_tokens_are_compared_in_constant_time() -> None:
    """Check that hmac.compare_digest compares two digests of equal length."""
    import inspect

    from tailorbird.service.web.middleware import Guard

    source = inspect.getsource(Guard._check_token)
    assert "hmac.compare_digest(given, expected)" in source and "sha256(token" in source
