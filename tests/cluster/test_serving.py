"""The service on Ray Serve answers as one process does, and its replicas act as one service."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.data import encoded, picture
from support.server import Server, eventually, serve, with_classes
from tailorbird.cluster.serving import Replicas, check
from tailorbird.errors import SettingsError
from tailorbird.service import ServeSettings

TOKEN = "a-token-of-the-tests"
PHOTOS = [encoded(picture(label, 500)) for label in ("disc", "box", "cross")]
AUTH = {"Authorization": f"Bearer {TOKEN}"}

_ON_RAY = """
import json, pathlib, sys
from tailorbird.cluster.serving import Replicas, serve
from tailorbird.service import ServeSettings
said = json.loads(sys.argv[1])
settings = ServeSettings(**{**said, "model": pathlib.Path(said["model"]), "port": 0})
serve(settings, Replicas("local", 2, 2), announce=lambda address: print(address, flush=True))
"""


def on_ray(model: Path, **settings: Any) -> Server:
    """Start a service of two replicas as a process of its own."""
    said = json.dumps({"model": str(model), **settings})
    environment = {"TAILORBIRD_THREADS": "2", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return Server([sys.executable, "-c", _ON_RAY, said], model.parent, environment)


@pytest.fixture(scope="module")
def model(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copy(trained, tmp_path_factory.mktemp("ray") / "shapes.onnx"))


@pytest.fixture(scope="module")
def server(model: Path, postgres_url: str) -> Iterator[Server]:
    with on_ray(model, token=TOKEN, corrections=postgres_url) as running:
        yield running


def predicted(server: Server, photo: bytes) -> dict[str, Any]:
    answer = server.post(
        "/v1/predict", content=photo, headers={**AUTH, "Content-Type": "image/jpeg"}
    )
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_the_answers_are_those_of_one_process(
    server: Server, trained: Path, tmp_path: Path
) -> None:
    own = Path(shutil.copy(trained, tmp_path / "shapes.onnx"))
    with serve(own, "--token", TOKEN) as alone:
        for photo in PHOTOS:
            one, two = predicted(alone, photo), predicted(server, photo)
            for answer in (one, two):
                assert answer["results"][0].pop("receipt")
            assert one == two
        for path in ("/healthz", "/readyz", "/", "/docs", "/v1/model", "/openapi.json"):
            here, there = alone.get(path, headers=AUTH), server.get(path, headers=AUTH)
            assert here.status_code == there.status_code == 200
            if path != "/v1/model":  # which says when it was loaded
                assert here.text == there.text
            assert len(there.headers.get_list("x-request-id")) == 1
            policy = "content-security-policy"
            assert here.headers[policy] == there.headers[policy]


def test_limits_and_access_are_those_of_one_process(server: Server) -> None:
    assert server.get("/v1/model").status_code == 401
    large = server.post("/v1/predict", content=b"0" * (21 * 2**20), headers=AUTH)
    assert (large.status_code, large.json()["error"]["code"]) == (413, "body-too-large")
    foreign = server.get("/v1/model", headers={**AUTH, "Origin": "https://other.example"})
    assert "access-control-allow-origin" not in foreign.headers


def test_the_counters_are_those_of_all_replicas(server: Server) -> None:
    before = server.get("/metrics", headers=AUTH).text
    for photo in PHOTOS * 4:
        predicted(server, photo)
    after = server.get("/metrics", headers=AUTH).text

    def count(text: str) -> float:
        return value(text, "tailorbird_photos_total")

    assert count(after) - count(before) == 12
    assert value(after, "tailorbird_ready") == 2


def value(text: str, name: str) -> float:
    return sum(
        float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name)
    )


def test_any_replica_stores_a_correction_of_any(server: Server) -> None:
    numbers = set()
    for photo in PHOTOS * 2:
        receipt = predicted(server, photo)["results"][0]["receipt"]
        answer = server.post(
            "/v1/corrections", json={"receipt": receipt, "answer": "disc"}, headers=AUTH
        )
        assert answer.status_code == 201, answer.text
        numbers.add(answer.json()["id"])
    stats = server.get("/v1/corrections/stats", headers=AUTH).json()
    assert stats["total"] == len(numbers) == 2 * len(PHOTOS)


def test_a_reload_reaches_every_replica_and_a_bad_file_none(server: Server, model: Path) -> None:
    first = server.get("/v1/model", headers=AUTH).json()["sha256"]
    good = model.read_bytes()
    with_classes(model, model, ("disc", "box", "ring"))
    answer = server.post("/v1/model/reload", headers=AUTH)
    assert answer.status_code == 200 and answer.json()["changed"]
    second = answer.json()["sha256"]
    assert second != first

    def served() -> set[str]:
        return {server.get("/v1/model", headers=AUTH).json()["sha256"] for _ in range(8)}

    eventually(lambda: served() == {second})
    model.write_bytes(b"no model")
    refused = server.post("/v1/model/reload", headers=AUTH)
    assert refused.status_code == 409 and str(model) in refused.json()["error"]["message"]
    assert served() == {second}
    model.write_bytes(good)
    server.send_signal(signal.SIGHUP)
    eventually(lambda: served() == {first})


def test_the_end_is_orderly(server: Server) -> None:
    assert server.stop() == 0
    assert {event["event"] for event in server.events()} >= {"started", "request", "draining"}


@pytest.mark.parametrize(
    ("corrections", "workers", "said"),
    [
        ("shop.db", 1, "shop.db, a file that replicas on several machines cannot share"),
        ("sqlite:///shop.db", 1, "--corrections postgresql://"),
        (None, 2, "workers is 2, but Ray decides"),
    ],
)
def test_what_replicas_cannot_share_is_refused(
    corrections: str | None, workers: int, said: str
) -> None:
    settings = ServeSettings(model=Path("m.onnx"), corrections=corrections, workers=workers)
    with pytest.raises(SettingsError) as caught:
        check(settings)
    assert said in str(caught.value)


def test_the_numbers_of_replicas_are_checked() -> None:
    with pytest.raises(SettingsError, match="min_replicas is 0"):
        Replicas("local", 0, 2)
    with pytest.raises(SettingsError, match="min_replicas is 3 and max_replicas 2"):
        Replicas("local", 3, 2)
