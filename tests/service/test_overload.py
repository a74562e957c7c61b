"""Overload, many large bodies, deadlines, abandoned requests and full disks."""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import subprocess
import threading
import time
from pathlib import Path

import httpx
import pytest

from support.data import encoded, picture
from support.refusals import (
    HOST,
    PHOTO,
    POST,
    refusal,
)
from support.server import eventually, load, rest, serve, serve_with, status


def test_overload_is_refused_immediately_while_probes_are_answered(
    trained: Path, tmp_path: Path
) -> None:
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


def test_concurrent_large_bodies_stay_within_the_memory_limit(
    trained: Path, tmp_path: Path
) -> None:
    """Send requests that are within the limit one by one, but not together."""
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
        assert eventually(lambda: server.predict(PHOTO).status_code == 200)


def test_photos_past_their_deadline_are_refused_without_inference(
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
    """Mount a file system of half a MiB at the folder; return whether this was permitted."""
    folder.mkdir()
    return os.geteuid() == 0 and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)], capture_output=True
    ).returncode == 0  # fmt: skip


def test_on_a_full_disk_only_corrections_are_refused(trained: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    if not small_disk(disk):
        pytest.skip("only root can mount a small disk; the next test covers it in one process")
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
            assert stats["total"] == 1, "a receipt counts once"
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


def test_photos_of_disconnected_clients_are_dropped_before_inference(
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
