"""Photos of none of the classes: what the API, the V2 protocol, metrics and the page say."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from support.browser import (  # noqa: F401 (fixtures)
    OpenPage,
    browser,
    open_page,
    server,
    violations,
)
from support.data import encoded, picture
from support.server import Server, serve
from support.serving import Server as PageServer
from support.upload_page import UNSURE, answered, change_response, choose, photo
from tailorbird.model import Classifier

OLD = Path(__file__).resolve().parents[1] / "model" / "files" / "format-1.onnx"
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 96, 3), dtype=np.uint8))
UNFAMILIAR = {**UNSURE, "unfamiliar": True, "unfamiliarity": 1.7}


def result(server: Server, image: Image.Image) -> dict[str, Any]:
    found: dict[str, Any] = server.predict(encoded(image)).json()["results"][0]
    return found


def infer(server: Server, name: str, pixels: np.ndarray, *outputs: str) -> Any:
    tensor = {"name": "images", "datatype": "UINT8", "shape": pixels.shape}
    body = {
        "inputs": [{**tensor, "data": pixels.ravel().tolist()}],
        "outputs": [{"name": output} for output in outputs],
    }
    return server.post(f"/v2/models/{name}/infer", json=body)


def test_the_api_says_which_photos_are_unfamiliar_and_counts_them(
    trained: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copy(trained, tmp_path / "shop.onnx"))
    classifier = Classifier(model)
    with serve(model) as server:
        usual, other = result(server, picture("box", 4)), result(server, NOISE)
        assert not usual["unfamiliar"]
        assert other["unfamiliar"] and other["unsure"]
        limit = server.get("/v1/model").json()["unfamiliar_above"]
        assert limit == classifier.info.unfamiliar_above
        assert usual["unfamiliarity"] < limit < other["unfamiliarity"]
        expected = classifier.predict(io.BytesIO(encoded(NOISE))).unfamiliarity
        assert other["unfamiliarity"] == pytest.approx(expected, abs=1e-4)
        agreed = {"receipt": other["receipt"], "none_of_these": True}
        assert server.post("/v1/corrections", json=agreed).json()["right"]
        wrong = {"receipt": usual["receipt"], "none_of_these": True}
        assert not server.post("/v1/corrections", json=wrong).json()["right"]
        stats = server.get("/v1/corrections/stats").json()
        assert (stats["right"], stats["none_of_these"], stats["none_refused"]) == (1, 2, 1)
        assert server.metric('tailorbird_photos_total{outcome="unfamiliar"}') == 1
        uploads = server.get("/v1/corrections/stats").json()["uploads"]
        assert (uploads["photos"], uploads["unfamiliar"]) == (2, 1)
        assert uploads["by_day"][-1]["unfamiliar"] == 1
        assert server.stop() == 0
    with serve(model) as server:
        assert server.metric('tailorbird_uploads{outcome="unfamiliar"}') == 1


def test_the_v2_protocol_has_the_output(trained: Path, tmp_path: Path) -> None:
    model = Path(shutil.copy(trained, tmp_path / "shop.onnx"))
    classifier = Classifier(model)
    size = classifier.info.resize.size
    pixels = np.stack(
        [np.full((size, size, 3), 90, np.uint8), np.asarray(NOISE.resize((size,) * 2))]
    )
    scores = np.asarray(classifier.outputs(pixels).unfamiliarity)
    with serve(model) as server:
        outputs = server.get("/v2/models/shop").json()["outputs"]
        assert {"name": "unfamiliarity", "datatype": "FP32", "shape": [-1]} in outputs
        answer = infer(server, "shop", pixels, "unfamiliarity").json()["outputs"]
        assert [output["name"] for output in answer] == ["unfamiliarity"]
        assert answer[0]["shape"] == [2]
        assert answer[0]["data"] == pytest.approx(list(scores), abs=1e-4)
        names = [output["name"] for output in infer(server, "shop", pixels).json()["outputs"]]
        assert names == ["probabilities", "heatmaps", "unfamiliarity"]
        assert server.metric('tailorbird_photos_total{outcome="unfamiliar"}') >= 2


def test_a_model_file_of_before_does_not_know(tmp_path: Path) -> None:
    model = Path(shutil.copy(OLD, tmp_path / "old.onnx"))
    with serve(model) as server:
        said = result(server, NOISE)
        assert (said["unfamiliar"], said["unfamiliarity"]) == (False, None)
        assert server.get("/v1/model").json()["unfamiliar_above"] is None
        pixels = np.zeros((1, 16, 16, 3), np.uint8)
        refused = infer(server, "old", pixels, "unfamiliarity")
        assert refused.status_code == 400
        assert "has no output 'unfamiliarity'" in refused.text
        uploads = server.get("/v1/corrections/stats").json()["uploads"]
        assert uploads["photos"] == 1 and uploads["unfamiliar"] is None
        assert uploads["drift"] == []
        assert 'tailorbird_uploads{outcome="unfamiliar"}' not in server.get("/metrics").text


def test_the_card_says_none_of_the_classes_and_one_click_confirms(
    open_page: OpenPage, server: PageServer
) -> None:
    page = open_page("/", before=lambda page: change_response(page, "/v1/predict", UNFAMILIAR))
    choose(page, photo())
    shown = answered(page)
    expect(shown).to_have_attribute("data-state", "unfamiliar")
    expect(shown.locator(".verdict")).to_have_text("None of the classes, it seems")
    expect(shown.locator(".sureness")).to_have_text("Closest: box (41%)")
    expect(page.locator("#news")).to_have_text(
        "box.jpg: none of the classes, it seems; closest is box, 41 percent"
    )
    assert shown.evaluate("card => getComputedStyle(card).borderStyle") == "dashed"
    assert violations(page) == []
    before = server.get("/v1/corrections/stats")["none_of_these"]
    expect(shown.locator(".choices button")).to_have_text(
        ["None of these", "box41%", "disc35%", "cross24%", "Something else…"]
    )
    shown.get_by_role("button", name="None of these").click()
    expect(shown).to_contain_text("Thank you. Noted as None of these.")
    assert server.get("/v1/corrections/stats")["none_of_these"] == before + 1


def test_unfamiliar_photos_are_counted_among_several(open_page: OpenPage) -> None:
    page = open_page("/", before=lambda page: change_response(page, "/v1/predict", UNFAMILIAR))
    choose(page, photo("a.jpg"), photo("b.jpg"))
    answered(page, "a.jpg")
    answered(page, "b.jpg")
    expect(page.locator("#tally")).to_have_text("2 photos: 2 none of the classes")
