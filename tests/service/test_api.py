"""The HTTP API as its users meet it: right answers, names and failures in their places, and a
document that tells the truth.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from openapi_spec_validator import validate

from support.data import encoded, picture
from support.hostile_images import bomb
from support.server import Server, serve, with_classes
from tailorbird.model import Classifier

TOKEN = "a-token-of-the-tests"
LABELS = ("disc", "box", "cross")
PHOTOS = [encoded(picture(label, 500 + number)) for number, label in enumerate(LABELS * 2)]


@pytest.fixture(scope="module")
def server(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service with corrections and everything else as it is by default."""
    folder = tmp_path_factory.mktemp("api")
    with serve(Path(shutil.copy(trained, folder / "shapes.onnx"))) as running:
        yield running


@pytest.fixture(scope="module")
def classifier(trained: Path) -> Classifier:
    return Classifier(trained)


def test_a_raw_photo_gets_the_prediction_of_the_classifier(
    server: Server, classifier: Classifier
) -> None:
    for photo in PHOTOS:
        said = server.predict(photo, "/v1/predict?top=3").json()
        (result,) = said["results"]
        expected = classifier.predict(photo)
        assert (
            result["label"] == expected.label
            and result["unsure"] == expected.unsure
            and result["name"] is None
        )
        assert [entry["label"] for entry in result["top"]] == [label for label, _ in expected.top]
        for entry, (_, probability) in zip(result["top"], expected.top, strict=True):
            assert abs(entry["probability"] - probability) < 1e-6
        assert result["probability"] == result["top"][0]["probability"]
        assert abs(result["threshold"] - classifier.info.threshold) < 1e-12
        assert "heatmaps" not in result and result["receipt"]


@pytest.mark.parametrize(
    "kind", ["", "image/png", "application/octet-stream", "IMAGE/JPEG; charset=x"]
)
def test_a_raw_photo_is_accepted_with_several_content_types(server: Server, kind: str) -> None:
    headers = {"Content-Type": kind} if kind else {}
    said = server.post("/v1/predict", content=PHOTOS[0], headers=headers)
    assert said.status_code == 200 and said.json()["results"][0]["label"] == "disc"


def test_photos_of_one_form_are_answered_in_order(server: Server, classifier: Classifier) -> None:
    photos = [encoded(picture(LABELS[n % 3], 900 + n)) for n in range(32)]
    files = [("photo", (f"{n}.jpg", photo, "image/jpeg")) for n, photo in enumerate(photos)]
    results = server.post("/v1/predict?top=1", files=files).json()["results"]
    assert [result["name"] for result in results] == [f"{n}.jpg" for n in range(32)]
    for result, photo in zip(results, photos, strict=True):
        expected = classifier.predict(photo)
        assert (
            result["label"] == expected.label
            and abs(result["probability"] - expected.probability) < 1e-6
        )
        assert len(result["top"]) == 1
    too_many = server.post("/v1/predict", files=[*files, files[0]])
    assert too_many.status_code == 400 and too_many.json()["error"]["code"] == "too-many-parts"


def test_top_and_heatmap_are_checked(server: Server) -> None:
    for top, number in (("1", 1), ("2", 2), ("3", 3), ("100", 3), ("99999", 3), ("all", 3)):
        answer = server.predict(PHOTOS[0], f"/v1/predict?top={top}").json()
        assert len(answer["results"][0]["top"]) == number
    for query in (
        "top=0",
        "top=-1",
        "top=2.0",
        "top=",
        "top=%D9%A3",
        "top=" + "9" * 5000,
        "heatmap=2",
        "heatmap=yes",
    ):
        refused = server.predict(PHOTOS[0], f"/v1/predict?{query}")
        assert refused.status_code == 422 and refused.json()["error"]["code"] == "invalid", query


def test_heat_maps_are_the_classifiers_scaled_to_one(
    server: Server, classifier: Classifier
) -> None:
    for top in (1, 2, 3, 50):
        (result,) = server.predict(PHOTOS[1], f"/v1/predict?heatmap=1&top={top}").json()["results"]
        expected = classifier.predict(PHOTOS[1], heatmaps=True)
        assert expected.heatmaps is not None
        assert [shown["label"] for shown in result["heatmaps"]] == [
            label for label, _ in expected.top[: min(top, 3)]
        ]
        for shown, raw in zip(result["heatmaps"], expected.heatmaps, strict=False):
            values = np.array(shown["values"])
            assert values.shape == (shown["height"], shown["width"]) == raw.shape
            peak = float(raw.max())
            assert values.max() == (1 if peak > 0 else 0) and values.min() >= 0
            assert np.abs(values - (raw / peak if peak > 0 else raw)).max() <= 0.0005 + 1e-6
    assert "heatmaps" not in server.predict(PHOTOS[1], "/v1/predict?heatmap=0").json()["results"][0]


@pytest.mark.parametrize(
    "name",
    [
        "Größe und Ähre.jpg",
        "<script>alert(1)</script>.jpg",
        "../../etc/passwd",
        "C:\\Users\\me\\a.jpg",
        "日本.jpg",
        "a b;c.jpg",
        "%00.jpg",
    ],
)
def test_file_names_are_returned_unchanged_and_never_opened(server: Server, name: str) -> None:
    boundary = "a-boundary"
    quoted = name.replace("\\", "\\\\")
    body = (
        (
            f'--{boundary}\r\nContent-Disposition: form-data; name="photo"; '
            f'filename="{quoted}"\r\nContent-Type: image/jpeg\r\n\r\n'
        ).encode()
        + PHOTOS[2]
        + f"\r\n--{boundary}--\r\n".encode()
    )
    answer = server.post(
        "/v1/predict",
        content=body,
        headers={"Content-Type": f"multipart/form-data; boundary={boundary}"},
    )
    said = answer.json()["results"][0]
    assert said["label"] == "cross"
    assert said["name"] in (name, quoted, re.split(r"[/\\]", name)[-1]), (
        "the name, or its last part"
    )
    assert (
        answer.headers["content-type"] == "application/json"
        and answer.headers["x-content-type-options"] == "nosniff"
    )


def test_long_file_names_are_truncated(server: Server) -> None:
    said = server.post("/v1/predict", files={"photo": ("n" * 3000 + ".jpg", PHOTOS[0])}).json()
    assert said["results"][0]["name"] == "n" * 255


def test_a_bad_photo_among_several_fails_alone(server: Server) -> None:
    svg = b"<svg xmlns='http://www.w3.org/2000/svg'></svg>"
    files = [
        ("photo", ("good.jpg", PHOTOS[0])),
        ("photo", ("cut.jpg", PHOTOS[1][:300])),
        ("photo", ("drawing.svg", svg)),
        ("photo", ("empty.jpg", b"")),
        ("photo", ("bomb.png", bomb(20_000, 20_000))),
        ("photo", ("also good.jpg", PHOTOS[2])),
    ]
    said = server.post("/v1/predict", files=files)
    results = said.json()["results"]
    assert said.status_code == 200 and [result["name"] for result in results] == [
        name for _, (name, _) in files
    ]
    assert [result["label"] for result in (results[0], results[-1])] == ["disc", "cross"]
    assert [(bad["error"]["status"], bad["error"]["code"]) for bad in results[1:5]] == [
        (422, "unreadable-image"),
        (415, "unsupported-format"),
        (422, "unreadable-image"),
        (413, "image-too-large"),
    ]
    assert "SVG" in results[2]["error"]["message"] and "label" not in results[1]
    all_bad = server.post("/v1/predict", files=files[1:3])
    assert all_bad.status_code == 200 and all(
        "error" in result for result in all_bad.json()["results"]
    )


def test_the_model_endpoint_describes_the_model(
    server: Server, classifier: Classifier, trained: Path
) -> None:
    import hashlib

    said = server.get("/v1/model").json()
    info = classifier.info.as_dict()
    assert said["name"] == "shapes" and said["classes"] == list(classifier.classes)
    assert said["sha256"] == hashlib.sha256(trained.read_bytes()).hexdigest()
    assert (
        said["size"] == classifier.info.resize.size
        and said["threshold"] == classifier.info.threshold
    )
    assert (
        said["scores"] == json.loads(json.dumps(info["scores"]))
        and said["created"] == info["created"]
    )
    assert said["heatmaps"] is True and said["corrections"] is True and said["keep_photos"] is False
    assert said["limits"] == {"body_bytes": 20 * 2**20, "pixels": 50_000_000, "photos": 32}
    assert {"JPEG", "PNG"} <= set(said["accepts"]) and said["format"] == 1
    assert server.predict(PHOTOS[0]).json()["model"] == {"name": "shapes", "sha256": said["sha256"]}


def test_probes_pages_and_conditional_requests(server: Server) -> None:
    assert server.get("/healthz").json() == {"status": "alive"} and server.get(
        "/readyz"
    ).json() == {"status": "ready"}
    page = server.get("/")
    assert (
        page.headers["content-type"].startswith("text/html")
        and page.headers["cache-control"] == "no-cache"
    )
    again = server.get("/", headers={"If-None-Match": page.headers["etag"]})
    assert (
        again.status_code == 304
        and not again.content
        and again.headers["etag"] == page.headers["etag"]
    )
    head = httpx.head(server.url + "/v1/model")
    assert head.status_code == 200 and not head.content


def test_metrics_count_requests_photos_and_answers(server: Server) -> None:
    name = 'tailorbird_photos_total{outcome="unreadable-image"}'
    before, requests = (
        server.metric(name),
        server.metric('tailorbird_http_requests_total{route="/v1/predict"}'),
    )
    server.predict(b"")
    assert server.metric(name) == before + 1
    assert server.metric('tailorbird_http_requests_total{route="/v1/predict"}') == requests + 1
    text = server.get("/metrics").text
    assert "tailorbird_ready 1.0" in text and "tailorbird_inference_seconds_bucket" in text
    for path in ("/v1/xyzzy", "/static/xyzzy", "/v2/models/xyzzy"):
        server.get(path)
    assert "xyzzy" not in server.get("/metrics").text, "what clients make up is no label"


def test_reload_over_http_takes_the_new_file_and_refuses_a_bad_one(
    trained: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copy(trained, tmp_path / "shapes.onnx"))
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    with serve(model, "--token", TOKEN, "--corrections", "off") as server:
        old = server.get("/v1/model", headers=bearer).json()["sha256"]
        assert server.post("/v1/model/reload", headers=bearer).json() == {
            "sha256": old,
            "changed": False,
        }
        assert server.post("/v1/model/reload").status_code == 401
        with_classes(trained, model, ["b1", "b2", "b3"])
        said = server.post("/v1/model/reload", headers=bearer).json()
        assert said["changed"] and said["sha256"] != old
        answer = server.post("/v1/predict", content=PHOTOS[0], headers=bearer).json()
        assert answer["results"][0]["label"] == "b3" and answer["results"][0]["receipt"] is None
        assert answer["model"]["sha256"] == said["sha256"]
        for spoil in (lambda: model.write_bytes(b"no model"), model.unlink):
            spoil()
            refused = server.post("/v1/model/reload", headers=bearer)
            assert refused.status_code == 409 and refused.json()["error"]["code"] == "conflict"
            assert "the old one is still served" in refused.json()["error"]["message"]
            assert server.get("/v1/model", headers=bearer).json()["sha256"] == said["sha256"]
            assert server.post("/v1/predict", content=PHOTOS[0], headers=bearer).status_code == 200
        metrics = server.get("/metrics", headers=bearer).text
        assert 'tailorbird_model_reloads_total{result="refused"} 2.0' in metrics
        assert len(server.events("reload-refused")) == 2
        assert server.post("/v1/corrections", headers=bearer, json={}).status_code == 404
        assert server.get("/v1/corrections/stats", headers=bearer).status_code == 404
        _check_document(server.get("/openapi.json").json())


def test_reloading_over_http_needs_a_token_to_be_set(server: Server) -> None:
    refused = server.post("/v1/model/reload")
    assert refused.status_code == 403 and "SIGHUP" in refused.json()["error"]["message"]


def test_the_openapi_document_is_valid_and_names_every_route(server: Server, trained: Path) -> None:
    from starlette.routing import Route

    from tailorbird.service import ServeSettings, create_app

    document = server.get("/openapi.json").json()
    _check_document(document)
    service = create_app(ServeSettings(model=trained))
    pages = {"/", "/dashboard", "/docs", "/static/{name}", "/favicon.ico"}
    routes = {
        (route.path, method.lower())
        for route in service._router.routes
        if isinstance(route, Route) and route.path not in pages
        for method in (route.methods or set()) - {"HEAD"}
    }
    described = {(path, method) for path, item in document["paths"].items() for method in item}
    assert described == routes


def _check_document(document: dict[str, Any]) -> None:
    validate(document)
    operations = [operation for item in document["paths"].values() for operation in item.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    assert all(operation["summary"] and operation["responses"] for operation in operations)


KEEPS_NONE = (
    "no photo was kept: this service keeps none, so no model can learn from this correction; "
    "--keep-photos keeps them"
)


def test_corrections_are_acknowledged_and_counted(trained: Path, tmp_path: Path) -> None:
    with serve(Path(shutil.copy(trained, tmp_path / "shapes.onnx"))) as server:
        empty = server.get("/v1/corrections/stats").json()
        assert empty["total"] == 0 and empty["accuracy"] is None and empty["per_class"] == []
        receipts = [server.predict(photo).json()["results"][0]["receipt"] for photo in PHOTOS[:3]]
        first = server.post("/v1/corrections", json={"receipt": receipts[0], "answer": "disc"})
        assert first.status_code == 201 and first.json() == {
            "id": 1,
            "right": True,
            "answer": "disc",
            "new_class": False,
            "stored_photo": False,
            "note": KEEPS_NONE,
        }
        wrong = server.post(
            "/v1/corrections", json={"receipt": receipts[1], "answer": "disc"}
        ).json()
        assert wrong == first.json() | {"id": 2, "right": False}
        form = server.post(
            "/v1/corrections", files={"receipt": (None, receipts[2]), "answer": (None, "cross")}
        )
        assert form.status_code == 201 and form.json()["right"]
        stats = server.get("/v1/corrections/stats").json()
        assert (stats["total"], stats["right"]) == (3, 2) and stats["mistaken"] == [
            {"predicted": "box", "answer": "disc", "count": 1}
        ]
        # The same receipt again: a row more, and the newest answer counts.
        again = server.post(
            "/v1/corrections", json={"receipt": receipts[1], "answer": "box"}
        ).json()
        assert again == first.json() | {"id": 4, "answer": "box"}
        stats = server.get("/v1/corrections/stats").json()
        assert (stats["total"], stats["right"], stats["accuracy"], stats["mistaken"]) == (
            3,
            3,
            1.0,
            [],
        )
        assert {(row["label"], row["total"], row["right"]) for row in stats["per_class"]} == {
            ("disc", 1, 1), ("box", 1, 1), ("cross", 1, 1),
        }  # fmt: skip
        assert server.metric("tailorbird_corrections_up") == 1
        assert server.metric('tailorbird_corrections_stored_total{result="stored"}') == 4


def test_photos_are_kept_on_request_only_and_byte_for_byte(trained: Path, tmp_path: Path) -> None:
    model = Path(shutil.copy(trained, tmp_path / "shapes.onnx"))
    with serve(model, "--keep-photos") as server:
        assert server.get("/v1/model").json()["keep_photos"] is True
        receipt = server.predict(PHOTOS[0]).json()["results"][0]["receipt"]

        def correct(photo: bytes | None, name: str = "a.jpg") -> httpx.Response:
            parts: dict[str, Any] = {"receipt": (None, receipt), "answer": (None, "disc")}
            return server.post(
                "/v1/corrections",
                files=parts | ({"photo": (name, photo)} if photo is not None else {}),
            )

        other = correct(PHOTOS[1])
        assert other.status_code == 409 and "exactly the bytes" in other.json()["error"]["message"]
        assert correct(PHOTOS[0] + b"x").status_code == 409 and correct(b"").status_code == 409
        assert not list(tmp_path.rglob("*.jpg")), "nothing is kept of what was refused"
        assert correct(PHOTOS[0], "../../../evil.jpg").json()["stored_photo"] is True
        assert correct(None).json()["stored_photo"] is False
        kept = [path for path in (tmp_path / "shapes.photos").rglob("*") if path.is_file()]
        assert [path.read_bytes() for path in kept] == [PHOTOS[0]]
        assert not list(tmp_path.rglob("evil*")) and not list(tmp_path.parent.rglob("evil.jpg"))
    with serve(
        model
    ) as server:  # without --keep-photos a photo that is sent along is checked and forgotten
        receipt = server.predict(PHOTOS[3]).json()["results"][0]["receipt"]
        parts = {
            "receipt": (None, receipt),
            "answer": (None, "disc"),
            "photo": ("a.jpg", PHOTOS[3]),
        }
        assert server.post("/v1/corrections", files=parts).json()["stored_photo"] is False
    assert len([path for path in (tmp_path / "shapes.photos").rglob("*") if path.is_file()]) == 1


def test_new_classes_and_none_of_these(trained: Path, tmp_path: Path) -> None:
    model = Path(shutil.copy(trained, tmp_path / "shapes.onnx"))
    with serve(model, "--keep-photos") as server:
        assert server.get("/v1/model").json()["new_classes"] is True
        receipt = server.predict(PHOTOS[0]).json()["results"][0]["receipt"]

        def correct(**fields: Any) -> Any:
            return server.post("/v1/corrections", json={"receipt": receipt, **fields}).json()

        new = correct(answer="  Silk  scarf ")
        assert (new["answer"], new["new_class"], new["right"]) == ("Silk scarf", True, False)
        assert correct(answer="silk SCARF")["answer"] == "Silk scarf", "one new class, not two"
        known = correct(answer="DISC")
        assert (known["answer"], known["new_class"], known["right"]) == ("disc", False, True)
        command = new["note"].partition("that was predicted: ")[2]
        assert shlex.split(command)[0] == "curl" and "'answer=  Silk  scarf '" in command
        (tmp_path / "photo.jpg").write_bytes(PHOTOS[0])
        sent = subprocess.run(
            ["curl", "-s", *shlex.split(command)[1:]],
            cwd=tmp_path, capture_output=True, check=True, timeout=30,
        )  # fmt: skip
        assert json.loads(sent.stdout) | {"id": 0} == new | {
            "id": 0, "stored_photo": True, "note": None,
        }  # fmt: skip
        bad = correct(answer="zero\u200bwidth")
        assert "cannot be seen" in bad["error"]["message"]
        none = correct(none_of_these=True)
        assert (none["answer"], none["new_class"], none["right"]) == (None, False, False)
        stats = server.get("/v1/corrections/stats").json()
        assert (stats["total"], stats["none_of_these"], stats["per_class"]) == (1, 1, [])
        receipt = server.predict(PHOTOS[1]).json()["results"][0]["receipt"]
        correct(answer="Silk scarf")
        assert (
            server.metric('tailorbird_corrections{label="_none_of_these_",right="no"}') == 1
            and server.metric('tailorbird_corrections{label="_new_",right="no"}') == 1
        )
    with serve(model, "--no-new-classes") as server:
        assert server.get("/v1/model").json()["new_classes"] is False
        receipt = server.predict(PHOTOS[2]).json()["results"][0]["receipt"]
        answer = {"receipt": receipt, "answer": "Silk scarf"}
        refused = server.post("/v1/corrections", json=answer)
        assert refused.status_code == 422 and "takes no others" in refused.text
        form = {"receipt": (None, receipt), "none_of_these": (None, "true")}
        assert server.post("/v1/corrections", files=form).status_code == 201


def test_invalid_receipts_are_refused_and_valid_ones_survive_a_restart(
    trained: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copy(trained, tmp_path / "shapes.onnx"))
    other = Path(shutil.copy(trained, tmp_path / "other.onnx"))
    with serve(model) as server:
        receipt = server.predict(PHOTOS[0]).json()["results"][0]["receipt"]
    with serve(other) as server:
        foreign = server.predict(PHOTOS[0]).json()["results"][0]["receipt"]
    payload, _, signature = receipt.rpartition(".")
    flipped = ("B" if payload[10] == "A" else "A").join((payload[:10], payload[11:]))
    with serve(model) as server:
        for bad, expected in (
            (foreign, 409),
            (f"{flipped}.{signature}", 409),
            (f"{payload}.", 409),
            (f"{payload}.{signature[:-1]}", 409),
            (f"{receipt}x", 409),
            (f".{signature}", 422),
            (payload, 422),
            ("", 422),
            ("\ud800.x", 422),
            ("ü.ü", 422),
            ("A" * 70_000 + "." + signature, 422),
            ("A" * 200_000 + ".x", 413),
        ):
            body = json.dumps({"receipt": bad, "answer": "disc"})
            refused = server.post(
                "/v1/corrections", content=body, headers={"Content-Type": "application/json"}
            )
            assert refused.status_code == expected, (bad[:40], refused.text)
        for bad in (
            {"receipt": receipt, "answer": "x" * 101},
            {"receipt": receipt, "answer": "None of these"},
            {"receipt": receipt, "answer": "disc", "none_of_these": True},
            {"receipt": receipt, "none_of_these": 1},
            {"receipt": receipt, "none_of_these": False},
            {"receipt": receipt},
            {"answer": "disc"},
            [],
            "x",
            {"receipt": 1, "answer": []},
        ):
            assert server.post("/v1/corrections", json=bad).status_code == 422, bad
        assert server.get("/v1/corrections/stats").json()["total"] == 0
        assert (
            server.post("/v1/corrections", json={"receipt": receipt, "answer": "disc"}).status_code
            == 201
        )
