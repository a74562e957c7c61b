"""Starting, reloading, restarting, being killed, ending: nothing accepted is lost, nothing
acknowledged is forgotten.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from support.data import encoded, picture
from support.server import (
    Server,
    alive,
    children,
    eventually,
    load,
    rest,
    serve,
    serve_with,
    status,
    with_classes,
)
from tailorbird import installing

LABELS = ("disc", "box", "cross")
PHOTOS = [encoded(picture(label, 600 + number)) for number, label in enumerate(LABELS * 2)]
TRUTH = {
    hashlib.sha256(photo).hexdigest(): LABELS[number % 3] for number, photo in enumerate(PHOTOS)
}


@pytest.fixture
def model(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(trained, tmp_path / "shapes.onnx"))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def only_answers(answers: list[httpx.Response | Exception]) -> list[httpx.Response]:
    lost = [answer for answer in answers if isinstance(answer, Exception)]
    assert not lost, lost
    return [answer for answer in answers if isinstance(answer, httpx.Response)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_under_load_loses_no_accepted_request(model: Path, number: int) -> None:
    with serve(model, "--drain", "1.5") as server:
        answers: list[object] = []
        not_ready: list[float] = []
        signalled = threading.Event()

        def work(client: httpx.Client, index: int) -> None:
            while True:
                try:
                    answers.append(
                        client.post("/v1/predict", content=PHOTOS[index % 6]).status_code
                    )
                except httpx.ConnectError:
                    return  # nobody listens any more: nothing was accepted
                except httpx.HTTPError as error:
                    answers.append(error)
                    return
                if signalled.is_set() and len(answers) > 3000:
                    return

        with server.client() as client, server.client() as probe:
            workers = [threading.Thread(target=work, args=(client, index)) for index in range(6)]
            for worker in workers:
                worker.start()
            assert eventually(lambda: len(answers) > 20)
            assert probe.get("/readyz").status_code == 200
            server.send_signal(number)
            signalled.set()
            patience = time.monotonic() + 1.2
            while time.monotonic() < patience and not not_ready:
                try:
                    if probe.get("/readyz").status_code == 503:
                        not_ready.append(time.monotonic())
                        assert server.get("/healthz").status_code == 200, "it lives while it drains"
                except httpx.HTTPError:
                    break
            assert server.wait() == 0
            for worker in workers:
                worker.join()
        assert not_ready, "it said that it is not ready before it stopped listening"
        # A connection may still be waiting to be accepted when listening ends. What was accepted
        # was answered, and arrived.
        lost = [answer for answer in answers if isinstance(answer, Exception)]
        assert len(lost) <= 6 and all(
            isinstance(error, httpx.ReadError | httpx.RemoteProtocolError) for error in lost
        ), lost
        logged = [
            event["status"] for event in server.events("request") if event["path"] == "/v1/predict"
        ]
        assert set(logged) == {200} and len(logged) == answers.count(200) > 20
        assert server.events("draining") and server.events("stopped")
        assert not server.events("failed") and "Traceback" not in server.text()


def test_a_request_still_sending_its_body_is_answered_during_shutdown(model: Path) -> None:
    with (
        serve(model, "--drain", "0.2") as server,
        server.connect() as raw,
        server.connect() as idle,
    ):
        photo = PHOTOS[0]
        raw.sendall(
            b"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n"
            % len(photo)
            + photo[:1000]
        )
        idle.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        received = b""
        while not received.endswith(b'{"status":"alive"}'):
            received += idle.recv(4096)
        server.send_signal(signal.SIGTERM)
        time.sleep(0.8)
        assert rest(idle) == b"", "an idle connection is closed"
        with pytest.raises(OSError):
            server.connect(1).close()
        raw.sendall(photo[1000:])
        answer = rest(raw)
        assert (
            status(answer) == 200 and b'"disc"' in answer and b"connection: close" in answer.lower()
        )
        assert server.wait() == 0


def test_a_second_and_a_third_signal_shorten_the_shutdown(model: Path) -> None:
    with serve(model, "--drain", "60") as server:
        server.send_signal(signal.SIGTERM)
        assert eventually(lambda: server.get("/readyz").status_code == 503)
        start = time.monotonic()
        server.send_signal(signal.SIGTERM)
        assert server.wait() == 0 and time.monotonic() - start < 50, "the second ends the drain"
    with serve(model, "--drain", "60") as server, server.connect() as raw:
        raw.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\nx")
        for _ in range(3):
            server.send_signal(signal.SIGINT)
            time.sleep(0.4)
        assert server.wait(50) == 0, "the third does not wait for clients"


def test_reloads_under_load_lose_no_request_and_mix_no_models(
    trained: Path, model: Path, tmp_path: Path
) -> None:
    second = with_classes(trained, tmp_path / "second.onnx", ["box 2", "cross 2", "disc 2"])
    names = {sha256(trained): {*LABELS}, sha256(second): {"box 2", "cross 2", "disc 2"}}
    with serve(model) as server:
        with load(server, PHOTOS, threads=4) as answers:
            for number in range(6):
                fresh = tmp_path / "fresh"
                shutil.copy(second if number % 2 == 0 else trained, fresh)
                fresh.replace(model)
                server.send_signal(signal.SIGHUP)
                assert eventually(lambda n=number: len(server.events("reloaded")) > n)
                # More answers than there are threads: at least one was asked for after the reload.
                before = len(answers)
                assert eventually(lambda n=before: len(answers) > n + 8)
            eventually(lambda: len(answers) > 60)
        found = only_answers(answers)
        assert {answer.status_code for answer in found} == {200}
        seen = set()
        for answer in found:
            said = answer.json()
            seen.add(said["model"]["sha256"])
            result = said["results"][0]
            assert {entry["label"] for entry in result["top"]} == names[said["model"]["sha256"]], (
                said
            )
            assert result["label"].removesuffix(" 2") in LABELS
        assert seen == set(names)


def test_an_invalid_new_model_leaves_the_old_one_serving(trained: Path, model: Path) -> None:
    with serve(model) as server:
        good = server.get("/v1/model").json()["sha256"]
        for number, content in enumerate((b"no model", trained.read_bytes()[:5000], b"", None), 1):
            model.unlink(missing_ok=True)
            if content is not None:
                model.write_bytes(content)
            server.send_signal(signal.SIGHUP)
            assert eventually(lambda n=number: len(server.events("reload-refused")) == n)
            assert (
                server.get("/v1/model").json()["sha256"] == good
                and server.get("/readyz").status_code == 200
            )
            assert server.predict(PHOTOS[0]).json()["results"][0]["label"] == "disc"
        assert server.metric('tailorbird_model_reloads_total{result="refused"}') == 4
        shutil.copy(trained, model)
        server.send_signal(signal.SIGHUP)
        assert (
            eventually(lambda: server.events("reloaded"))
            and server.events("reloaded")[0]["changed"] is False
        )


def test_signals_are_handled_once_the_address_is_printed(model: Path) -> None:
    with serve(model, "--drain", "0") as server:
        server.send_signal(signal.SIGHUP)
        assert server.get("/healthz").status_code == 200
        assert server.stop() == 0
    with serve(model, "--drain", "0") as server:
        assert server.stop() == 0


def test_two_workers_share_load_and_metrics_and_are_restarted(
    trained: Path, model: Path, tmp_path: Path
) -> None:
    token = {"Authorization": "Bearer a-token-of-tests"}
    with serve(model, "--workers", "2", "--token", "a-token-of-tests", "--drain", "0.2") as server:
        workers = children(server.process.pid)
        assert len(workers) == 2

        def ask() -> httpx.Response:
            return server.post("/v1/predict", content=PHOTOS[0], headers=token)

        def served_by() -> set[int]:
            return {event["pid"] for event in server.events("request") if event["status"] == 200}

        asked = 0
        while len(served_by()) < 2 and asked < 400:
            threads = [threading.Thread(target=ask) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            asked += 8
        assert served_by() == set(workers)

        def metrics() -> str:
            return server.get("/metrics", headers=token).text

        assert "tailorbird_ready 2.0" in metrics()
        counted = [
            line
            for line in metrics().splitlines()
            if line.startswith("tailorbird_predictions_total")
        ]
        assert sum(float(line.rpartition(" ")[2]) for line in counted) == asked, (
            "of both workers, whichever is asked"
        )

        # Reload: told to one worker, heard by both.
        with_classes(trained, model, ["b2", "c2", "d2"])
        said = server.post("/v1/model/reload", headers=token).json()
        assert said["changed"]

        def shas(requests: int = 24) -> set[str]:
            return {ask().json()["model"]["sha256"] for _ in range(requests)}

        assert eventually(lambda: shas() == {said["sha256"]})

        # The file goes bad, then a worker dies: the new one serves what the other does.
        model.write_bytes(b"no model")
        os.kill(workers[0], signal.SIGKILL)
        assert eventually(
            lambda: not alive(workers[0]) and len(children(server.process.pid)) == 2, 30
        )
        assert server.events("worker-died")
        new = next(pid for pid in children(server.process.pid) if pid not in workers)
        assert eventually(lambda: ask() and new in served_by()), "the new worker takes requests"
        assert shas() == {said["sha256"]}
        assert server.post("/v1/model/reload", headers=token).status_code == 409

        # Another good file lies there, but nobody asked to take it: both still serve the same.
        with_classes(trained, model, ["b3", "c3", "d3"])
        os.kill(workers[1], signal.SIGKILL)
        assert eventually(
            lambda: not alive(workers[1]) and len(children(server.process.pid)) == 2, 30
        )
        newer = next(pid for pid in children(server.process.pid) if pid not in (*workers, new))
        assert eventually(lambda: ask() and newer in served_by())
        assert shas() == {said["sha256"]}
        server.send_signal(signal.SIGHUP)
        assert eventually(lambda: shas() == {sha256(model)})

        assert server.stop() == 0
        assert eventually(lambda: not alive(new) and not alive(newer))


def test_workers_end_when_their_supervisor_is_killed(model: Path) -> None:
    with serve(model, "--workers", "2", "--drain", "0.1") as server:
        workers = children(server.process.pid)
        server.send_signal(signal.SIGKILL)
        assert eventually(lambda: not any(alive(worker) for worker in workers))
        with pytest.raises(OSError):
            server.connect(1).close()
        assert server.events("supervisor-gone")


def fails(*arguments: str, code: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code] if code else [sys.executable, "-m", "tailorbird"]
    return subprocess.run(
        [*command, "serve", *arguments], capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_service_that_cannot_start_reports_the_reason(
    model: Path, tmp_path: Path, workers: str
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = fails(str(model), "--port", port, "--workers", workers)
    assert (
        done.returncode == 1
        and f"port {port}" in done.stderr
        and "--port" in done.stderr
        and not done.stdout
    )
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"no model")
    for path in (bad, tmp_path / "missing.onnx"):
        done = fails(str(path), "--port", "0", "--workers", workers)
        assert (
            done.returncode == 2
            and path.name in done.stderr
            and "Traceback" not in done.stderr
            and not done.stdout
        )
    assert not list(tmp_path.glob("*.db")), "a service that did not start leaves no database"


def test_a_database_that_cannot_be_opened_is_a_clear_error(model: Path, tmp_path: Path) -> None:
    for database, workers in (
        (str(tmp_path), "1"),
        ("mysql://u:hunter2@h/d", "1"),
        (str(tmp_path / "no" / "x.db"), "2"),
    ):
        done = fails(str(model), "--port", "0", "--corrections", database, "--workers", workers)
        assert (
            done.returncode in (1, 2)
            and "Traceback" not in done.stderr
            and "hunter2" not in done.stderr
        ), done.stderr
        assert done.stderr.strip()


@pytest.mark.parametrize("package", ["starlette", "sqlalchemy"])
def test_a_missing_extra_is_reported(model: Path, package: str) -> None:
    code = f"import sys; sys.modules[{package!r}] = None\nfrom tailorbird.cli import main\nmain()"
    done = fails(str(model), "--port", "0", code=code)
    assert (
        done.returncode == 1
        and installing.install("serve") in done.stderr
        and package in done.stderr
    )
    assert "Traceback" not in done.stderr and not done.stdout


def test_two_services_may_share_one_database(trained: Path, tmp_path: Path) -> None:
    first = Path(shutil.copy(trained, tmp_path / "first.onnx"))
    second = with_classes(trained, tmp_path / "second.onnx", list(reversed(LABELS)))
    database = str(tmp_path / "both.db")
    with (
        serve(first, "--corrections", database) as one,
        serve(second, "--corrections", database) as two,
    ):
        receipts = [
            server.predict(PHOTOS[0]).json()["results"][0]["receipt"] for server in (one, two)
        ]
        ids: list[int] = []

        def correct(server: Server, receipt: str) -> None:
            for _ in range(15):
                answer = server.post("/v1/corrections", json={"receipt": receipt, "answer": "disc"})
                assert answer.status_code == 201, answer.text
                ids.append(answer.json()["id"])

        # Each takes the other's receipts: the secret is the database's.
        threads = [
            threading.Thread(target=correct, args=pair)
            for pair in zip((one, two), reversed(receipts), strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(ids) == list(range(1, 31))
        stats = [server.get("/v1/corrections/stats").json() for server in (one, two)]
        for each in stats:
            each.pop("uploads")  # counted for each model
        assert stats[0] == stats[1]


def acknowledge_and_kill(server: Server, victims: list[int]) -> list[int]:
    """Ids that were acknowledged before the processes were killed in the middle of more."""
    receipts = [server.predict(photo).json()["results"][0]["receipt"] for photo in PHOTOS]
    acknowledged: list[int] = []

    def work(number: int) -> None:
        while True:
            try:
                answer = server.post(
                    "/v1/corrections", json={"receipt": receipts[number % 6], "answer": "disc"}
                )
            except httpx.HTTPError:
                return
            if answer.status_code == 201:
                acknowledged.append(answer.json()["id"])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(acknowledged) >= 60)
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    for thread in threads:
        thread.join()
    assert len(acknowledged) >= 20
    return acknowledged


def test_acknowledged_corrections_survive_kill_9(model: Path, tmp_path: Path) -> None:
    with serve(model, "--workers", "2") as server:
        victims = [server.process.pid, *children(server.process.pid)]
        acknowledged = acknowledge_and_kill(server, victims)
    assert len(set(acknowledged)) == len(acknowledged)
    with sqlite3.connect(tmp_path / "shapes.db") as database:
        stored = {row[0] for row in database.execute("SELECT id FROM tailorbird_corrections")}
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert set(acknowledged) <= stored
    with serve(model) as server:
        assert server.get("/v1/corrections/stats").json()["total"] == 4


def test_acknowledged_corrections_survive_kill_9_in_postgresql(
    model: Path, postgres_database: str
) -> None:
    import psycopg

    with serve(model, environment={"TAILORBIRD_CORRECTIONS": postgres_database}) as server:
        acknowledged = acknowledge_and_kill(server, [server.process.pid])
        assert "p@ss" not in server.text() and "p%40ss" not in server.text()
    with psycopg.connect(postgres_database) as database:
        stored = {row[0] for row in database.execute("SELECT id FROM tailorbird_corrections")}
    assert set(acknowledged) <= stored


def test_predictions_continue_while_postgresql_is_down(model: Path) -> None:
    from support.postgres_server import PostgresServer

    database = PostgresServer()
    try:
        with serve_with(model, corrections=database.url()) as server:
            receipt = server.predict(PHOTOS[0]).json()["results"][0]["receipt"]
            body = {"receipt": receipt, "answer": "disc"}
            assert server.post("/v1/corrections", json=body).status_code == 201
            database.kill()
            refused = server.post("/v1/corrections", json=body)
            assert (
                refused.status_code == 503 and refused.json()["error"]["code"] == "storage-failed"
            )
            assert refused.headers["retry-after"] and database.url() not in refused.text
            assert (
                server.predict(PHOTOS[0]).status_code == 200
                and server.get("/readyz").status_code == 200
            )
            assert server.get("/metrics").status_code == 200
            database.start()
            assert eventually(
                lambda: server.post("/v1/corrections", json=body).status_code == 201, 20
            )
            assert server.get("/v1/corrections/stats").json()["total"] == 1
    finally:
        database.stop()
