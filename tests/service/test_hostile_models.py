"""Model files with hostile metadata: refused at a reload, counted, and the old model goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest

from support.data import encoded, picture
from support.server import Server, metric, serve
from tailorbird.files import write_bytes

TOKEN = {"Authorization": "Bearer a-token-of-the-tests"}
REFUSED = 'tailorbird_model_reloads_total{result="refused"}'


@pytest.fixture(scope="module")
def model(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copy(trained, tmp_path_factory.mktemp("hostile") / "shapes.onnx"))


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[Server]:
    options = ("--token", "a-token-of-the-tests", "--corrections", "off")
    with serve(model, *options) as running:
        yield running


def metadata(model: Path) -> dict[str, Any]:
    (text,) = (p.value for p in onnx.load(str(model)).metadata_props if p.key == "tailorbird")
    found: dict[str, Any] = json.loads(text)
    return found


def hostile(trained: Path) -> dict[str, str]:
    """Metadata texts that no service may take, or be stopped by."""
    said = metadata(trained)
    deep = '{"a":' * 100_000 + "1" + "}" * 100_000
    classes = said["classes"]
    return {
        "deep": json.dumps({**said, "versions": "DEEP"}).replace('"DEEP"', deep),
        "surrogate": json.dumps({**said, "classes": ["\ud800x", *classes[1:]]}),
        "negative size": json.dumps({**said, "resize": {**said["resize"], "size": -1}}),
        "not json": "{",
        "no classes": json.dumps({**said, "classes": []}),
        "huge number": json.dumps(said)[:-1] + ', "seed": 1' + "0" * 5000 + "}",
    }


@pytest.mark.parametrize(
    "name", ["deep", "surrogate", "negative size", "not json", "no classes", "huge number"]
)
def test_a_hostile_file_is_a_refused_reload(
    server: Server, model: Path, trained: Path, name: str
) -> None:
    proto = onnx.load(str(trained))
    for prop in proto.metadata_props:
        if prop.key == "tailorbird":
            prop.value = hostile(trained)[name]
    write_bytes(model, proto.SerializeToString())
    before = refused_reloads(server)
    answer = server.post("/v1/model/reload", headers=TOKEN)
    assert answer.status_code == 409, answer.text
    error = answer.json()["error"]
    assert error["code"] == "conflict" and "the old one is still served" in error["message"]
    assert refused_reloads(server) == before + 1
    assert "never retrieved" not in server.text() and not server.events("failed")
    photo = encoded(picture("disc", 1))
    assert server.post("/v1/predict", content=photo, headers=TOKEN).status_code == 200


def refused_reloads(server: Server) -> float:
    return metric(server.get("/metrics", headers=TOKEN).text, REFUSED)
