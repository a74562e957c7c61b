"""Uploads are counted in bins, survive restarts and failures, and a change is reported."""

from __future__ import annotations

import datetime
import json
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from support.data import encoded, picture
from support.server import Server, eventually, serve
from tailorbird import onnx_files
from tailorbird.corrections import open_store
from tailorbird.corrections.uploads import Place
from tailorbird.errors import StorageError
from tailorbird.files import sha256_file
from tailorbird.metrics.drift import CONFIDENCE, PREDICTED, distributions
from tailorbird.model import Classifier
from tailorbird.model.metadata import KEY
from tailorbird.service import drift
from tailorbird.service.batching import Answer
from tailorbird.service.drift import Tally, uploads_report
from tailorbird.service.served import Served, open_served


@pytest.fixture(scope="module")
def known(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained model with the distributions of 150 more validation photos than it had."""
    classifier = Classifier(trained)
    photos = [np.asarray(photo) for photo in usual(150, start=1000)]
    rows = [classifier.predict(photo, top=3) for photo in photos]
    probabilities = np.array(
        [[dict(row.top)[label] for label in classifier.classes] for row in rows]
    )
    unfamiliarity = np.array([row.unfamiliarity for row in rows])
    target = tmp_path_factory.mktemp("known") / "shop.onnx"
    return with_metadata(
        trained,
        target,
        distributions={
            key: bins.as_dict() for key, bins in distributions(probabilities, unfamiliarity).items()
        },
    )


@pytest.fixture
def model(known: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(known, tmp_path / "shop.onnx"))


@pytest.fixture
def served(known: Path) -> Served:
    return open_served(known)


def with_metadata(model: Path, target: Path, **changes: Any) -> Path:
    """Write a model file with other metadata; None removes an entry."""
    proto = onnx.load(model)
    stored = {**json.loads(onnx_files.metadata(proto)[KEY]), **changes}
    kept = {name: value for name, value in stored.items() if value is not None}
    onnx_files.set_metadata(proto, {KEY: json.dumps(kept)})
    onnx.save(proto, target)
    return target


def uploads(server: Server) -> dict[str, Any]:
    found: dict[str, Any] = server.get("/v1/corrections/stats").json()["uploads"]
    return found


def send(server: Server, photos: list[Image.Image]) -> None:
    for photo in photos:
        assert server.predict(encoded(photo)).status_code == 200


def usual(number: int, start: int = 5000) -> list[Image.Image]:
    return [picture(("disc", "box", "cross")[n % 3], start + n) for n in range(number)]


def strange(number: int) -> list[Image.Image]:
    """Photos of nothing: coloured noise."""
    random = np.random.default_rng(0)
    return [
        Image.fromarray(random.integers(0, 256, (80, 96, 3), dtype=np.uint8)) for _ in range(number)
    ]


def probabilities(label: int, confidence: float) -> np.ndarray:
    rest = (1 - confidence) / 2
    return np.array([confidence if n == label else rest for n in range(3)], np.float32)


def said(label: int, confidence: float) -> Answer:
    return Answer(probabilities(label, confidence), None)


def test_uploads_are_counted_and_a_restart_loses_nothing(model: Path) -> None:
    with serve(model) as server:
        send(server, usual(9))
        found = uploads(server)
        assert found["photos"] == 9
        today = datetime.datetime.now(datetime.UTC).date()
        assert datetime.date.fromisoformat(found["by_day"][-1]["day"]) >= today
        send(server, usual(2, start=6000))  # not flushed by a request for the figures
        assert server.stop() == 0
    with serve(model) as server:
        send(server, usual(1, start=7000))
        assert uploads(server)["photos"] == 12
        assert server.metric("tailorbird_uploads") == 12
        measures = [change["measure"] for change in uploads(server)["drift"]]
        assert measures == [
            name
            for name in ("confidence", "unfamiliarity", "predicted")
            if name in Classifier(model).info.distributions
        ]


def test_a_photo_that_is_sent_again_counts_once(model: Path) -> None:
    photo = encoded(picture("box", 1))
    with serve(model) as server:
        for _ in range(5):
            server.predict(photo)
        assert uploads(server)["photos"] == 1
        size = Classifier(model).info.resize.size
        pixels = np.full((1, size, size, 3), 90, np.uint8)
        tensor = {"name": "images", "datatype": "UINT8", "shape": pixels.shape}
        request = {"inputs": [{**tensor, "data": pixels.ravel().tolist()}]}
        for _ in range(2):
            assert server.post("/v2/models/shop/infer", json=request).status_code == 200
        assert uploads(server)["photos"] == 2, "tensors are counted too"


def test_counts_are_stored_without_a_request_for_them(model: Path) -> None:
    with serve(model) as server:
        send(server, usual(3))
        key = sha256_file(model)

        def stored() -> bool:
            with open_store(str(model.with_suffix(".db")), create=False) as store:
                return sum(store.uploads(key).values()) > 0

        assert eventually(stored, drift.FLUSH_SECONDS + 20)
        server.send_signal(signal.SIGKILL)
        server.wait()
    with serve(model) as server:
        assert uploads(server)["photos"] == 3


def test_several_processes_count_together(model: Path) -> None:
    with serve(model, "--workers", "2") as server:
        send(server, usual(20))
        assert server.stop() == 0
    with serve(model) as server:
        assert uploads(server)["photos"] == 20


def test_photos_of_another_kind_are_reported_and_usual_ones_are_not(model: Path) -> None:
    with serve(model) as server:
        send(server, usual(30))
        before = uploads(server)
        assert not before["changed"], before["drift"]
        send(server, strange(60))
        after = uploads(server)
        assert after["changed"]
        changed = [change for change in after["drift"] if change["changed"]]
        assert all(change["calm_days"] >= 1000 for change in changed)
        assert all(change["since"] == after["by_day"][0]["day"] for change in changed)
        assert all(change["photos"] == 90 for change in changed)
        assert all(change["enough"] <= 90 for change in changed)
        server.stop()
    with serve(model) as server:
        for change in changed:
            labels = f'{{measure="{change["measure"]}"}}'
            assert server.metric(f"tailorbird_drift_changed{labels}") == 1
            assert server.metric(f"tailorbird_drift_compared{labels}") == 90
            assert server.metric(f"tailorbird_drift_distance{labels}") == pytest.approx(
                change["distance"]
            )
            assert server.metric(f"tailorbird_drift_since_seconds{labels}") > 1.7e9


def test_the_database_holds_numbers_only(model: Path) -> None:
    photo = encoded(picture("disc", 8))
    with serve(model) as server:
        files = {"photo": ("Müllers Hut.jpg", photo, "image/jpeg")}
        assert server.post("/v1/predict", files=files).status_code == 200
        assert uploads(server)["photos"] == 1
    with open_store(str(model.with_suffix(".db")), create=False) as store:
        places = list(store.uploads(sha256_file(model)))
    assert {place.measure for place in places} >= {"answer", CONFIDENCE, PREDICTED}
    assert all(type(place.bin) is int and len(place.day) == 10 for place in places)


def test_without_a_database_nothing_is_counted(model: Path) -> None:
    with serve(model, "--corrections", "off") as server:
        send(server, usual(1))
        assert server.get("/v1/corrections/stats").status_code == 404
        assert "tailorbird_uploads" not in server.get("/metrics").text


@pytest.fixture
def count_days(
    served: Served, tmp_path: Path
) -> Callable[[list[list[tuple[int, float]]]], dict[str, Any]]:
    """Return the report after days of answers (class, confidence), the last day today."""

    def counted(days: list[list[tuple[int, float]]]) -> dict[str, Any]:
        info = served.classifier.info
        today = datetime.datetime.now(datetime.UTC).date()
        with open_store(str(tmp_path / "days.db")) as store:
            for ago, answers in enumerate(reversed(days)):
                day = (today - datetime.timedelta(days=ago)).isoformat()
                for label, confidence in answers:
                    bins = {
                        CONFIDENCE: info.distributions[CONFIDENCE].bin_of(confidence),
                        PREDICTED: label,
                        "answer": 0 if confidence >= info.threshold else 1,
                    }
                    store.add_uploads(
                        {Place(served.sha256, day, name, n): 1 for name, n in bins.items()}
                    )
            return uploads_report(store, served)

    return counted


def test_the_day_of_a_change_is_found(
    served: Served, count_days: Callable[[list[list[tuple[int, float]]]], dict[str, Any]]
) -> None:
    info = served.classifier.info
    bins = info.distributions[CONFIDENCE]
    middles = [*(edge - 1e-4 for edge in bins.edges), 1.0]
    random = np.random.default_rng(0)
    shares = np.array(bins.counts) / sum(bins.counts)

    def day(photos: int, low: float) -> list[tuple[int, float]]:
        confidences = random.choice(middles, photos, p=shares)
        return [
            (int(random.integers(3)), 0.4 if random.random() < low else float(each))
            for each in confidences
        ]

    calm = [day(12, 0) for _ in range(6)]
    report = count_days([*calm, *(day(12, 0.9) for _ in range(3))])
    change = next(each for each in report["drift"] if each["measure"] == CONFIDENCE)
    assert change["changed"] and report["changed"]
    days = [each["day"] for each in report["by_day"]]
    assert change["since"] in days[5:8]
    assert change["shift"] < -0.3, "less sure than on validation"
    assert report["by_day"][-1]["unsure"] > 6
    shares_seen = [each["seen"] for each in change["bins"]]
    assert sum(shares_seen) == pytest.approx(1)
    assert (change["bins"][0]["from"], change["bins"][-1]["to"]) == (None, None)


def test_a_stream_without_a_change_is_not_reported(
    served: Served, count_days: Callable[[list[list[tuple[int, float]]]], dict[str, Any]]
) -> None:
    info = served.classifier.info
    counts = np.array(info.distributions[PREDICTED].counts)
    random = np.random.default_rng(1)
    days = [
        [(int(random.choice(3, p=counts / counts.sum())), 1.0) for _ in range(8)] for _ in range(20)
    ]
    report = count_days(days)
    predicted = next(each for each in report["drift"] if each["measure"] == PREDICTED)
    assert not predicted["changed"]
    assert predicted["photos"] == 160
    assert {each["label"] for each in predicted["bins"]} == set(info.classes)


class _Broken:
    """A store that fails as often as it is told, then keeps what it is given."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.stored: dict[Place, int] = {}

    def add_uploads(self, counts: dict[Place, int]) -> None:
        if self.failures:
            self.failures -= 1
            raise StorageError("the database cannot be reached")
        self.stored = dict(counts)


def test_counts_that_cannot_be_stored_are_kept_and_logged_once(
    served: Served, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    monkeypatch.setattr(drift, "log", lambda event, **_: events.append(event))
    store = _Broken(failures=2)
    tally = Tally(store)  # type: ignore[arg-type]
    for photo in range(3):
        tally.count(served, photo, said(0, 0.9))
        tally.flush()
    assert events == ["uploads-not-counted"]
    assert sum(store.stored.values()) == 3 * len({place.measure for place in store.stored})
    tally.close()


def test_figures_wait_for_counts_that_are_being_stored(served: Served) -> None:
    began, go_on = threading.Event(), threading.Event()

    class Slow(_Broken):
        def add_uploads(self, counts: dict[Place, int]) -> None:
            began.set()
            go_on.wait(30)
            super().add_uploads(counts)

    store = Slow(failures=0)
    tally = Tally(store)  # type: ignore[arg-type]
    tally.count(served, 1, said(0, 0.9))
    first = threading.Thread(target=tally.flush)
    first.start()
    assert began.wait(30)
    seen: list[bool] = []

    def look() -> None:
        tally.flush()
        seen.append(bool(store.stored))

    second = threading.Thread(target=look)
    second.start()
    go_on.set()
    for thread in (first, second):
        thread.join(30)
    assert seen == [True]
    tally.close()


@pytest.mark.postgres
def test_counts_are_compared_in_postgresql(served: Served, postgres_database: str) -> None:
    with open_store(postgres_database) as store:
        tally = Tally(store)
        for photo in range(60):
            tally.count(served, photo, said(0, 0.34))
        tally.close()
        report = uploads_report(store, served)
    assert report["photos"] == 60 and report["changed"]
    changed = {change["measure"]: change["changed"] for change in report["drift"]}
    assert changed[CONFIDENCE] and changed[PREDICTED]


def test_the_memory_of_photos_is_bounded(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift, "REMEMBERED", 3)
    store = _Broken(failures=0)
    tally = Tally(store)  # type: ignore[arg-type]
    for photo in (1, 2, 3, 1, 4, 2, 1):
        tally.count(served, photo, said(0, 0.9))
    tally.close()
    answers = sum(n for place, n in store.stored.items() if place.measure == "answer")
    assert answers == 5, "2 was forgotten when 4 came, because 1 had been sent again"


def test_a_model_file_of_before_counts_answers_only(tmp_path: Path, trained: Path) -> None:
    old = open_served(with_metadata(trained, tmp_path / "old.onnx", distributions=None))
    with open_store(str(tmp_path / "old.db")) as store:
        tally = Tally(store)
        tally.count(old, 1, said(1, 0.9))
        tally.close()
        report = uploads_report(store, old)
    assert report["photos"] == 1
    assert report["drift"] == [] and not report["changed"]
