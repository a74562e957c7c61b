"""A candidate model beside the served one: what is counted, and that its failures hurt nobody."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.data import encoded, picture
from support.server import Server, eventually, serve, with_classes
from tailorbird.corrections import open_store
from tailorbird.corrections.trials import Trial, TrialCounts
from tailorbird.errors import SettingsError
from tailorbird.files import sha256_file
from tailorbird.metrics.paired import mcnemar, paired_interval
from tailorbird.service import ServeSettings, candidate
from tailorbird.service.candidate import Candidate

MODEL, OTHER = "a" * 64, "b" * 64


def predicted(server: Server, label: str, seed: int) -> dict[str, Any]:
    """Predict a drawn photo."""
    answer = server.predict(encoded(picture(label, seed)))
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()["results"][0]
    return result


def trial(server: Server) -> dict[str, Any]:
    found: dict[str, Any] = server.get("/v1/corrections/stats").json()["candidate"]
    return found


@pytest.fixture
def model(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(trained, tmp_path / "shop.onnx"))


@pytest.fixture
def other(trained: Path, tmp_path: Path) -> Path:
    """A candidate that calls boxes crosses and crosses boxes."""
    return with_classes(trained, tmp_path / "next.onnx", ["cross", "box", "disc"])


def test_the_candidate_sees_the_same_photos_and_people_decide(model: Path, other: Path) -> None:
    with serve(model, "--candidate", str(other)) as server:
        assert eventually(lambda: trial(server)["state"] == "running")
        assert trial(server)["sha256"] == sha256_file(other)
        results = [
            predicted(server, label, seed)
            for seed in range(801, 804)
            for label in ("disc", "box", "disc")
        ]
        assert eventually(lambda: trial(server)["photos"] == 9)
        labels = [result["label"] for result in results]
        agree = labels.count("disc")
        found = trial(server)
        assert (found["photos"], found["agree"], found["answered"]) == (9, agree, 0)
        assert found["interval"] == [-1, 1] and found["better"] is None
        for result in results:
            body = {"receipt": result["receipt"], "answer": result["label"]}
            assert server.post("/v1/corrections", json=body).status_code == 201
        found = trial(server)
        table = (agree, 9 - agree, 0, 0)
        names = ("both", "only_served", "only_candidate", "neither")
        assert tuple(found[name] for name in names) == table
        assert found["p_value"] == mcnemar(9 - agree, 0)
        assert found["interval"] == list(paired_interval(*table))
        assert found["difference"] == pytest.approx((agree - 9) / 9)
        assert server.metric('tailorbird_candidate_photos_total{outcome="answered"}') == 9
        # Once the candidate serves, it is compared with itself no more.
        Path(shutil.copy(other, other.with_suffix(".tmp"))).replace(model)
        server.send_signal(signal.SIGHUP)
        assert eventually(lambda: trial(server)["state"] == "same")
        assert trial(server)["photos"] == 0, "counts belong to a pair of models"
        assert server.stop() == 0


@pytest.mark.parametrize("content", [None, b"no model"])
def test_a_candidate_that_cannot_be_opened_is_logged_and_answers_go_on(
    model: Path, tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "next.onnx"
    if content is not None:
        path.write_bytes(content)
    with serve(model, "--candidate", str(path)) as server:
        assert eventually(lambda: trial(server)["state"] == "failed")
        assert predicted(server, "disc", 1)["label"]
        (event, *_) = server.events("candidate-failed")
        assert "next.onnx" in event["message"] and event["level"] == "error"
        assert trial(server)["message"] in event["message"]
        assert server.stop() == 0


def test_a_candidate_that_is_killed_is_started_again(model: Path, other: Path) -> None:
    with serve(model, "--candidate", str(other)) as server:
        assert eventually(lambda: trial(server)["state"] == "running")
        (pid,) = candidates(server.process.pid)
        os.kill(pid, signal.SIGKILL)
        assert predicted(server, "disc", 1)["label"]
        assert eventually(lambda: server.events("candidate-failed"))
        assert "exit code -9" in server.events("candidate-failed")[0]["message"]
        assert eventually(
            lambda: predicted(server, "disc", 2) and trial(server)["state"] == "running", 30
        )
        assert server.stop() == 0
        assert not candidates(server.process.pid), "it ends with the service"


def candidates(parent: int) -> list[int]:
    """The candidate processes of a service."""
    try:
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        threads = [
            Path(f"/proc/{parent}/task/{task.name}/children").read_text().split()
            for task in Path(f"/proc/{parent}/task").iterdir()
        ]
    except OSError:
        return []
    pids = {int(pid) for pid in [*children, *(pid for each in threads for pid in each)]}
    return [pid for pid in pids if b"candidate" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_a_candidate_needs_a_database(model: Path, other: Path) -> None:
    with pytest.raises(SettingsError, match="candidate requires a database of corrections"):
        ServeSettings(model=model, candidate=other)


# --- the queue ------------------------------------------------------------------------------------


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[tuple[Candidate, list[str]]]:
    """A candidate whose thread hangs in its first photo, and the outcomes it counts."""
    outcomes: list[str] = []
    go_on = threading.Event()
    monkeypatch.setattr(Candidate, "_started", lambda self: None)
    monkeypatch.setattr(Candidate, "_ask", lambda self, photo: go_on.wait(30))
    with open_store(str(tmp_path / "shop.db")) as store:
        found = Candidate(
            tmp_path / "x.onnx",
            store,
            max_pixels=1000,
            busy=lambda: "busy" in outcomes,
            meter=outcomes.append,
        )
        yield found, outcomes
        go_on.set()
        found.close()


def offer(to: Candidate, data: bytes = b"photo") -> bool:
    return to.offer(data, receipt="r", model=MODEL, label="disc")


def test_photos_are_dropped_when_the_queue_is_full_or_cores_are_busy(
    stuck: tuple[Candidate, list[str]],
) -> None:
    found, outcomes = stuck
    outcomes.append("busy")
    assert not offer(found) and outcomes == ["busy", "dropped"]
    outcomes.clear()
    assert offer(found)
    assert eventually(lambda: found._photos.empty())
    taken = [offer(found) for _ in range(candidate.WAITING + 5)]
    assert taken == [True] * candidate.WAITING + [False] * 5
    assert outcomes == ["dropped"] * 5


def test_large_photos_are_dropped_by_their_bytes(
    stuck: tuple[Candidate, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    found, _ = stuck
    monkeypatch.setattr(candidate, "WAITING_BYTES", 100)
    assert offer(found)
    assert eventually(lambda: found._photos.empty())
    assert offer(found, b"x" * 60) and not offer(found, b"x" * 60) and offer(found, b"x" * 40)


def test_the_same_model_is_not_asked_twice(stuck: tuple[Candidate, list[str]]) -> None:
    found, _ = stuck
    found.sha256 = MODEL
    assert not offer(found) and found.state(MODEL) == "same" and found.state(OTHER) == "running"


# --- the table ------------------------------------------------------------------------------------


def test_counts_join_the_newest_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tailorbird.corrections import trials

    with open_store(str(tmp_path / "shop.db")) as store:
        assert store.trial(MODEL, OTHER) == TrialCounts()
        rows = [
            Trial("r0", MODEL, OTHER, "disc", "disc"),
            Trial("r1", MODEL, OTHER, "disc", "box"),
            Trial("r2", MODEL, OTHER, "disc", "box"),
            Trial("r3", MODEL, OTHER, "disc", "box"),
            Trial("r4", MODEL, OTHER, "disc", "disc"),
            Trial("r5", MODEL, "c" * 64, "disc", "box"),
        ]
        store.add_trials(rows)

        def answer(receipt: str, label: str) -> None:
            store.add(
                sha256=(receipt[1] * 64), predicted="disc", probability=0.5,
                top=[("disc", 0.5)], answer=label, model="shop", model_sha256=MODEL,
                receipt=receipt,
            )  # fmt: skip

        answer("r0", "disc")
        answer("r1", "disc")
        answer("r1", "box")  # somebody thought again
        answer("r2", "disc")
        answer("r3", "cross")
        assert store.trial(MODEL, OTHER) == TrialCounts(5, 2, 1, 1, 1, 1)
        assert store.trial(OTHER, MODEL) == TrialCounts()
        store.forget("2" * 64)
        assert store.trial(MODEL, OTHER) == TrialCounts(4, 2, 1, 0, 1, 1)
        monkeypatch.setattr(trials, "MOST", 3)
        store.add_trials([Trial("r6", MODEL, OTHER, "disc", "disc")])
        assert store.trial(MODEL, OTHER).photos == 2, "the oldest rows are deleted"


@pytest.mark.postgres
def test_counts_are_the_same_in_postgresql(postgres_database: str) -> None:
    with open_store(postgres_database) as store:
        assert store.trial(MODEL, OTHER) == TrialCounts()
        store.add_trials([Trial("r0", MODEL, OTHER, "disc", "box")] * 2)
        assert store.trial(MODEL, OTHER) == TrialCounts(photos=2)
        store.forget("2" * 64)


def test_the_document_describes_the_candidate(model: Path, other: Path) -> None:
    from jsonschema import Draft202012Validator

    with serve(model, "--candidate", str(other)) as server:
        document = json.loads(server.get("/openapi.json").text)
        schema = document["components"]["schemas"]["Stats"]
        Draft202012Validator(schema).validate(server.get("/v1/corrections/stats").json())
