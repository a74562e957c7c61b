"""Pulling from a hub: downloads go to a server on 127.0.0.1, each scenario in its own process.

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

import onnx
import pytest

from support import published_networks as networks
from support.hub_server import Hub, Repository
from tailorbird import onnx_files
from tailorbird.backbone.contract import Backbone
from tailorbird.backbone.hub_errors import translate
from tailorbird.backbone.reference import Reference, choose, parse
from tailorbird.errors import BackboneError, HubError, SettingsError

Pulls = Callable[..., list[dict[str, Any]]]

PREPROCESSOR = json.dumps({**networks.IMAGENET, "size": {"height": 32, "width": 32}}).encode()
CARD = b"""---
license: apache-2.0
datasets:
- imagenet-1k
base_model: someone/original
---
# A network
"""

# Run one request per argument and print the result of each.
PULL = """
import json, sys
from tailorbird.backbone.hub import pull
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
        path = pull(progress=recorded, **arguments)
        print(json.dumps({"path": str(path), "notes": recorded.notes}))
    except TailorbirdError as error:
        print(json.dumps({"kind": type(error).__name__, "message": str(error)}))
"""


def repository(model: onnx.ModelProto | None = None, **more: bytes) -> dict[str, bytes]:
    model = model or networks.convolutional()
    return {
        "README.md": CARD,
        "config.json": b"{}",
        "preprocessor_config.json": PREPROCESSOR,
        "onnx/model.onnx": model.SerializeToString(),
    } | more


def large() -> onnx.ModelProto:
    """A network of 12 MB: of a cut download, huggingface_hub keeps whole pieces of 10 MiB."""
    return networks.convolutional(channels=90_000, side=32)


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    vit = networks.transformer()
    quantised = networks.convolutional(channels=3).SerializeToString()
    repositories = {
        "birds/tiny": Repository(
            repository(
                **{"onnx/model_quantized.onnx": quantised, "onnx/model_fp16.onnx": quantised}
            )
        ),
        "others/tiny": Repository(repository(vit)),
        "birds/gated": Repository(repository(), token="hf_secret"),
        "birds/private": Repository(repository(), token="hf_secret", private=True),
        "birds/bare": Repository(
            {"onnx/model.onnx": vit.SerializeToString(), "README.md": b"no header"}
        ),
        "birds/torch": Repository(
            {"model.safetensors": b"", "preprocessor_config.json": PREPROCESSOR}
        ),
        "birds/several": Repository(repository() | {"a.onnx": b"", "b.onnx": b""}),
    }
    del repositories["birds/several"].files["onnx/model.onnx"]
    with Hub(repositories) as running:
        yield running


@pytest.fixture
def pulls(tmp_path: Path, hub: Hub) -> Pulls:
    """Call with requests and environment variables; results of `pull` in a new process."""

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
        }
        variables |= {
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            **environment,
        }
        done = subprocess.run(
            [sys.executable, "-c", PULL, *map(json.dumps, requests)],
            env=variables,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    hub.requests.clear()
    return run


def test_pull_end_to_end_again_and_offline(hub: Hub, pulls: Pulls, tmp_path: Path) -> None:
    first, again, half = pulls(
        {"reference": "hf:birds/tiny"},
        {"reference": "hf:birds/tiny"},
        {"reference": "hf:birds/tiny", "size": 64},
    )
    path = Path(first["path"])
    assert path == tmp_path / "cache" / "backbones" / "tiny.backbone.onnx"
    backbone = Backbone(path)
    assert (backbone.info.name, backbone.info.licence, backbone.info.trained_on) == (
        "tiny",
        "apache-2.0",
        "imagenet-1k",
    )
    said = onnx_files.metadata(backbone.proto)
    commit = hub.repositories["birds/tiny"].commit
    assert (
        said["source"] == "hf:birds/tiny"
        and said["revision"] == commit
        and said["file"] == "onnx/model.onnx"
    )
    assert (
        said["base_model"] == "someone/original"
        and len(said["sha256"]) == 64
        and "squashed" in said["resize"]
    )
    assert any("downloading onnx/model.onnx" in line for line in first["notes"])

    assert again == {"path": str(path), "notes": ["tiny.backbone.onnx is available"]}
    assert hub.count("GET")["/birds/tiny/resolve/main/onnx/model.onnx"] == 1
    assert (
        Path(half["path"]).name == "tiny-64.backbone.onnx"
        and Backbone(half["path"]).info.size == 64
    )

    # Without a connection, what was pulled is available, another size is made from the download
    # cache, and another network is missing.
    before = len(hub.requests)
    kept, other_size, missing = pulls(
        {"reference": "hf:birds/tiny"},
        {"reference": "hf:birds/tiny", "size": 48},
        {"reference": "hf:birds/unknown"},
        HF_HUB_OFFLINE="1",
    )
    assert len(hub.requests) == before
    assert kept["path"] == str(path) and "cannot be reached" in kept["notes"][0]
    assert (
        Backbone(other_size["path"]).info.size == 48
        and "licence: apache-2.0" in other_size["notes"][-1]
    )
    assert (
        missing["kind"] == "HubError"
        and "HF_HUB_OFFLINE is set" in missing["message"]
        and "--backbone FILE.onnx" in missing["message"]
    )

    # No connection, and offline mode is not set.
    kept, missing = pulls(
        {"reference": "hf:birds/tiny"},
        {"reference": "hf:birds/unknown"},
        HF_ENDPOINT="http://127.0.0.1:9",
    )
    assert kept["path"] == str(path)
    assert missing["kind"] == "HubError"
    assert (
        "http://127.0.0.1:9 cannot be reached" in missing["message"]
        and "set HF_ENDPOINT to a mirror" in missing["message"]
    )


def test_owners_files_and_revisions_do_not_overwrite_each_other(hub: Hub, pulls: Pulls) -> None:
    commit = hub.repositories["birds/tiny"].commit
    results = pulls(
        {"reference": "hf:birds/tiny"},
        {"reference": "hf:others/tiny"},
        {"reference": "hf:birds/tiny", "file": "model_fp16.onnx"},
        {"reference": f"hf:birds/tiny@{commit}"},
        {"reference": f"hf:birds/tiny@{commit}"},
        {"reference": "hf:others/tiny"},
    )
    names = [Path(result["path"]).name for result in results]
    assert names[:3] == [
        "tiny.backbone.onnx",
        "others--tiny.backbone.onnx",
        "tiny-fp16.backbone.onnx",
    ]
    assert names[3] == names[4] == f"tiny-{commit[:12]}.backbone.onnx" and names[5] == names[1]
    widths = [Backbone(result["path"]).info.width for result in results[:3]]
    assert widths == [6, 12, 3]


def test_a_changed_repository_is_pulled_again(hub: Hub, pulls: Pulls) -> None:
    hub.repositories["birds/moving"] = Repository(repository())
    (first,) = pulls({"reference": "hf:birds/moving"})
    hub.repositories["birds/moving"] = Repository(repository(networks.convolutional(channels=10)))
    (second,) = pulls({"reference": "hf:birds/moving"})
    assert first["path"] == second["path"] and Backbone(second["path"]).info.width == 10


def test_refusals_say_what_to_do(hub: Hub, pulls: Pulls) -> None:
    expected = [
        ("hf:birds/nothing", "HubError", "no repository birds/nothing, or it is private"),
        ("hf:birds/private", "HubError", "or it is private"),
        ("hf:birds/gated", "HubError", "accept its terms, then set HF_TOKEN"),
        ("hf:birds/tiny@v9", "HubError", "has no revision 'v9'"),
        (
            "hf:birds/tiny:onnx/other.onnx",
            "HubError",
            "its ONNX files: onnx/model.onnx, onnx/model_fp16.onnx",
        ),
        ("hf:birds/bare", "BackboneError", "has no preprocessor_config.json"),
        (
            "hf:birds/torch",
            "BackboneError",
            "has no ONNX file; look for the same network under onnx-community",
        ),
        (
            "hf:birds/several",
            "BackboneError",
            "several ONNX files and none is the usual one: a.onnx, b.onnx; "
            "choose one: hf:birds/several:a.onnx",
        ),
    ]
    results = pulls(*({"reference": reference} for reference, _, _ in expected))
    for (reference, kind, message), result in zip(expected, results, strict=True):
        assert result.get("kind") == kind, (reference, result)
        assert message in result["message"], (reference, result)


def test_a_token_opens_gated_and_private_repositories(pulls: Pulls) -> None:
    gated, private = pulls(
        {"reference": "hf:birds/gated"}, {"reference": "hf:birds/private"}, HF_TOKEN="hf_secret"
    )
    assert Path(gated["path"]).exists() and Path(private["path"]).exists()


def test_a_transfer_that_breaks_off_is_resumed(hub: Hub, pulls: Pulls) -> None:
    model = large()
    hub.repositories["birds/large"] = Repository(repository(model))
    hub.cut["onnx/model.onnx"] = 11_000_000
    # Newer versions of huggingface_hub resume by themselves, older ones when run again.
    _, result = pulls({"reference": "hf:birds/large"}, {"reference": "hf:birds/large"})
    assert Backbone(result["path"]).info.width == 90_000
    ranges = [
        asked
        for method, path, asked in hub.requests
        if method == "GET" and path.endswith("model.onnx")
    ]
    assert ranges == [None, f"bytes={10 * 1024 * 1024}-"]


def test_weights_in_a_second_file_are_downloaded_and_embedded(
    hub: Hub, pulls: Pulls, tmp_path: Path
) -> None:
    networks.with_external_data(networks.transformer(), tmp_path)
    parts = {
        f"onnx/{name}": (tmp_path / name).read_bytes() for name in ("model.onnx", "model.onnx_data")
    }
    hub.repositories["birds/outside"] = Repository(repository() | parts)
    hub.repositories["birds/halved"] = Repository(
        repository() | {"onnx/model.onnx": parts["onnx/model.onnx"]}
    )
    whole, halved = pulls({"reference": "hf:birds/outside"}, {"reference": "hf:birds/halved"})
    assert Backbone(whole["path"]).info.grid == (4, 4)
    assert (
        halved["kind"] == "HubError"
        and "has no file onnx/model.onnx_data, which the network needs" in halved["message"]
    )


def test_a_hub_that_is_down_or_forbids(hub: Hub, pulls: Pulls) -> None:
    try:
        hub.refuse = 503
        (down,) = pulls({"reference": "hf:birds/tiny"})
        hub.refuse = 403
        (forbidden,) = pulls({"reference": "hf:birds/tiny"})
    finally:
        hub.refuse = None
    assert (
        down["kind"] == "HubError"
        and "cannot be reached" in down["message"]
        and "503" in down["message"]
    )
    assert (
        forbidden["kind"] == "HubError"
        and "answered 403" in forbidden["message"]
        and "HF_TOKEN" in forbidden["message"]
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_a_storage_error() -> None:
    with pytest.raises(OSError) as caught, Path("/dev/full").open("wb", buffering=0) as full:
        full.write(b"x")
    error = translate(caught.value, parse("hf:birds/tiny"), Path("folder"))
    assert (
        type(error).__name__ == "StorageError"
        and "No space left" in str(error)
        and "HF_HOME" in str(error)
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hf:a/b", Reference("a", "b")),
        ("hf:a-c/b.d_1", Reference("a-c", "b.d_1")),
        ("hf:a/b@v1", Reference("a", "b", "v1")),
        ("hf:a/b@refs/pr/4:onnx/m.onnx", Reference("a", "b", "refs/pr/4", "onnx/m.onnx")),
        ("hf:a/b:m.onnx", Reference("a", "b", None, "m.onnx")),
    ],
)
def test_references(text: str, expected: Reference) -> None:
    assert parse(text) == expected
    assert str(expected) == text


NO_REFERENCES = [
    "hf:a",
    "a/b",
    "hf:a/b/c",
    "hf:../b",
    "hf:a/b:readme.md",
    "hf:a/b@",
    "",
    "hf:a/b:",
    "hf:a/b:../m.onnx",
    "hf:a/b:/m.onnx",
]


@pytest.mark.parametrize("text", NO_REFERENCES)
def test_invalid_references(text: str) -> None:
    with pytest.raises(SettingsError, match=r"give hf:OWNER/REPO|give the path of an \.onnx file"):
        parse(text)


def test_contradicting_references_and_other_schemes() -> None:
    assert parse("hf:a/b", file="m.onnx", revision="v1") == Reference("a", "b", "v1", "m.onnx")
    with pytest.raises(SettingsError, match="has the revision 'v1'"):
        parse("hf:a/b@v1", revision="v2")
    with pytest.raises(SettingsError, match="did you mean hf:a/b"):
        parse("a/b")
    with pytest.raises(SettingsError, match="is not a valid backbone reference"):
        parse("keras:ResNet50")


def test_choosing_the_file() -> None:
    def among(*names: str, file: str | None = None) -> str:
        return choose(Reference("a", "b", None, file), dict.fromkeys(names))

    assert among("model.onnx", "onnx/model.onnx") == "onnx/model.onnx"
    assert (
        among("onnx/model.onnx", "onnx/text_model.onnx", "onnx/vision_model.onnx")
        == "onnx/vision_model.onnx"
    )
    assert among("vit_b.onnx", "README.md") == "vit_b.onnx"
    assert (
        among("onnx/model.onnx", "onnx/model_fp16.onnx", file="onnx/model_fp16.onnx")
        == "onnx/model_fp16.onnx"
    )
    with pytest.raises(HubError, match="has no file"):
        among("x/m.onnx", "y/m.onnx", file="m.onnx")
    with pytest.raises(BackboneError, match="several"):
        among("onnx/model_fp16.onnx", "onnx/model_quantized.onnx")
