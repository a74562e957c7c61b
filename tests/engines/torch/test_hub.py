"""timm downloads weights from a hub on 127.0.0.1, each scenario in its own process.

huggingface_hub reads its environment variables once, at import, as in a user's command.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.hub_server import Hub, Repository
from support.timm_networks import CNN, VIT, network, save_weights
from tailorbird.backbone import Backbone

Pulls = Callable[..., list[dict[str, Any]]]

PULL = """
import json, sys
from tailorbird.engines.pulling import pull_backbone
from tailorbird.errors import TailorbirdError
from tailorbird.progress import NoProgress
class Notes(NoProgress):
    def __init__(self):
        self.notes = []
    def note(self, text):
        self.notes.append(text)
for arguments in map(json.loads, sys.argv[1:]):
    recorded = Notes()
    try:
        path = pull_backbone(progress=recorded, **arguments)
        print(json.dumps({"path": str(path), "notes": recorded.notes}))
    except TailorbirdError as error:
        print(json.dumps({"kind": type(error).__name__, "message": str(error)}))
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("weights")
    safe = save_weights(network(CNN, classes=1000), folder / "a.safetensors").read_bytes()
    pickled = save_weights(network(VIT, classes=1000), folder / "a.pth").read_bytes()
    repositories = {
        "timm/test_efficientnet.r160_in1k": Repository({"model.safetensors": safe}),
        "timm/test_vit.r160_in1k": Repository({"pytorch_model.bin": pickled}),
    }
    with Hub(repositories) as running:
        yield running


@pytest.fixture
def pulls(tmp_path: Path, hub: Hub) -> Pulls:
    """Call with requests and environment variables; results of pulling in a new process."""

    def run(*requests: dict[str, Any], **environment: str) -> list[dict[str, Any]]:
        variables = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("HF_", "HUGGING"))
        }
        variables |= {
            "HF_HOME": str(tmp_path / "hf"),
            "HF_ENDPOINT": hub.url,
            "TAILORBIRD_CACHE": str(tmp_path / "cache"),
            **environment,
        }
        done = subprocess.run(
            [sys.executable, "-c", PULL, *map(json.dumps, requests)],
            env=variables,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    hub.requests.clear()
    return run


def test_published_weights_are_downloaded_once_and_kept(
    hub: Hub, pulls: Pulls, tmp_path: Path
) -> None:
    first, again, pickled = pulls(
        {"reference": f"timm:{CNN}"}, {"reference": f"timm:{CNN}"}, {"reference": f"timm:{VIT}"}
    )
    info = Backbone(first["path"]).info
    assert info.name == CNN and info.size == 160 and info.grid and info.trained_on == "r160_in1k"
    assert info.licence == "apache-2.0" and info.source == f"timm:{CNN}"
    assert again["path"] == first["path"] and again["notes"] == [
        f"{CNN}.backbone.onnx is already there"
    ]
    assert Backbone(pickled["path"]).info.width == 64  # tensors in a .bin file
    files = [path for path in hub.count("GET") if path.endswith("model.safetensors")]
    assert hub.count("GET")[files[0]] == 1
    # From the download cache, without a connection.
    (offline,) = pulls({"reference": f"timm:{CNN}", "size": 64}, HF_HUB_OFFLINE="1")
    assert Backbone(offline["path"]).info.size == 64, offline


def test_without_a_connection_the_message_says_what_to_do(pulls: Pulls, tmp_path: Path) -> None:
    (closed,) = pulls({"reference": f"timm:{CNN}"}, HF_ENDPOINT="http://127.0.0.1:9")
    (offline,) = pulls({"reference": f"timm:{CNN}"}, HF_HUB_OFFLINE="1")
    for found, reason in (
        (closed, "http://127.0.0.1:9 cannot be reached"),
        (offline, "HF_HUB_OFFLINE"),
    ):
        assert found["kind"] == "HubError" and reason in found["message"]
        assert "download the weights of timm/test_efficientnet.r160_in1k" in found["message"]
        assert "--weights FILE" in found["message"] and str(tmp_path / "cache") in found["message"]


def test_a_hub_that_refuses_is_quoted(hub: Hub, pulls: Pulls) -> None:
    hub.refuse = 429
    try:
        (refused,) = pulls({"reference": f"timm:{CNN}"})
    finally:
        hub.refuse = None
    assert refused["kind"] == "HubError" and "429" in refused["message"]
