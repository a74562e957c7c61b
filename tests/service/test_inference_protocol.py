"""The Open Inference Protocol, spoken by a client nobody here wrote: tritonclient."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from support.data import encoded, picture
from support.server import Server, serve
from tailorbird import images
from tailorbird.images import Pixels
from tailorbird.model import Classifier

LENGTH = "Inference-Header-Content-Length"


@pytest.fixture(scope="module")
def server(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve(
        Path(shutil.copy(trained, tmp_path_factory.mktemp("protocol") / "shapes.onnx"))
    ) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Any]:
    connected = triton.InferenceServerClient(server.url.removeprefix("http://"), concurrency=4)
    yield connected
    connected.close()


@pytest.fixture(scope="module")
def classifier(trained: Path) -> Classifier:
    return Classifier(trained)


@pytest.fixture(scope="module")
def batch(classifier: Classifier) -> Pixels:
    """uint8 (5, S, S, 3)."""
    photos = [
        encoded(picture(label, 700 + n))
        for n, label in enumerate(("disc", "box", "cross", "disc", "box"))
    ]
    return np.stack([images.load(photo, classifier.info.resize) for photo in photos])


def tensor(batch: Pixels, *, binary: bool = True) -> Any:
    given = triton.InferInput("images", list(batch.shape), "UINT8")
    given.set_data_from_numpy(batch, binary_data=binary)
    return given


def outputs(*names: str, binary: bool = True) -> list[Any]:
    return [triton.InferRequestedOutput(name, binary_data=binary) for name in names]


def test_it_is_alive_ready_and_says_what_it_is(client: Any, classifier: Classifier) -> None:
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("shapes") and client.is_model_ready("shapes", "1")
    assert not client.is_model_ready("other") and not client.is_model_ready("shapes", "2")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    size = classifier.info.resize.size
    for version in ("", "1"):
        said = client.get_model_metadata("shapes", version)
        assert said["inputs"] == [
            {"name": "images", "datatype": "UINT8", "shape": [-1, size, size, 3]}
        ]
        assert said["outputs"][0] == {"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]}
        assert said["outputs"][1]["name"] == "heatmaps" and said["versions"] == ["1"]


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_answers_are_the_classifiers(
    client: Any, classifier: Classifier, batch: Pixels, binary_in: bool, binary_out: bool
) -> None:
    rows, maps = classifier.run(batch, heatmaps=True)
    assert maps is not None
    said = client.infer(
        "shapes",
        [tensor(batch, binary=binary_in)],
        outputs=outputs("probabilities", "heatmaps", binary=binary_out),
        request_id="my-id",
    )
    assert np.abs(said.as_numpy("probabilities") - rows).max() < 1e-6
    assert (
        said.as_numpy("heatmaps").shape == maps.shape
        and np.abs(said.as_numpy("heatmaps") - maps).max() < 1e-5
    )
    assert said.get_response()["id"] == "my-id" and said.get_response()["model_name"] == "shapes"
    only = client.infer(
        "shapes",
        [tensor(batch[:1], binary=binary_in)],
        outputs=outputs("probabilities", binary=binary_out),
    )
    assert only.as_numpy("heatmaps") is None and only.as_numpy("probabilities").shape == (1, 3)
    everything = client.infer("shapes", [tensor(batch[:2])], model_version="1")
    assert everything.as_numpy("heatmaps").shape[0] == 2


def test_many_requests_at_once(client: Any, classifier: Classifier, batch: Pixels) -> None:
    rows, _ = classifier.run(batch)
    waiting = [
        client.async_infer("shapes", [tensor(batch[n % 5][None])], outputs=outputs("probabilities"))
        for n in range(20)
    ]
    for number, request in enumerate(waiting):
        assert (
            np.abs(request.get_result().as_numpy("probabilities")[0] - rows[number % 5]).max()
            < 1e-6
        )


def test_wrong_tensors_surface_as_the_clients_exceptions(client: Any, batch: Pixels) -> None:
    float_input = triton.InferInput("images", list(batch.shape), "FP32")
    float_input.set_data_from_numpy(batch.astype(np.float32))
    misnamed = triton.InferInput("input", list(batch.shape), "UINT8")
    misnamed.set_data_from_numpy(batch)
    for inputs, wanted, words in (
        ([tensor(batch[:, :50].copy())], outputs("probabilities"), "UINT8, of shape"),
        ([tensor(batch[0])], outputs("probabilities"), "UINT8, of shape"),
        ([float_input], outputs("probabilities"), "UINT8"),
        ([misnamed], outputs("probabilities"), "`images`"),
        ([tensor(batch), tensor(batch)], outputs("probabilities"), "exactly one"),
        ([tensor(np.repeat(batch, 8, axis=0))], outputs("probabilities"), "1 to 32"),
        ([tensor(batch)], outputs("logits"), "no output 'logits'"),
        (
            [tensor(batch)],
            [triton.InferRequestedOutput("probabilities", class_count=2)],
            "classification",
        ),
    ):
        with pytest.raises(InferenceServerException, match=words) as refused:
            client.infer("shapes", inputs, outputs=wanted)
        assert refused.value.status() == "400"
    with pytest.raises(InferenceServerException, match="no model 'other'"):
        client.infer("other", [tensor(batch)])
    with pytest.raises(InferenceServerException, match="compressed bodies"):
        client.infer("shapes", [tensor(batch)], request_compression_algorithm="gzip")


def infer(server: Server, said: object, extra: bytes = b"", length: str | None = None) -> Any:
    body = said if isinstance(said, bytes) else json.dumps(said).encode()
    return server.post(
        "/v2/models/shapes/infer",
        content=body + extra,
        headers={} if length is None else {LENGTH: length},
    )


def test_json_tensors_flat_or_nested(server: Server, classifier: Classifier, batch: Pixels) -> None:
    rows, _ = classifier.run(batch[:1])
    shape = list(batch[:1].shape)
    for data in (batch[:1].ravel().tolist(), batch[:1].tolist()):
        body = {
            "inputs": [{"name": "images", "datatype": "UINT8", "shape": shape, "data": data}],
            "outputs": [{"name": "probabilities"}],
        }
        said = infer(server, body).json()["outputs"][0]
        assert said["shape"] == [1, 3] and np.abs(np.array(said["data"]) - rows[0]).max() < 1e-6


def test_damaged_requests_are_400_in_the_protocols_own_form(server: Server, batch: Pixels) -> None:
    shape = list(batch[:1].shape)
    count = batch[:1].size

    def with_data(data: object, **more: object) -> dict[str, object]:
        return {
            "inputs": [
                {"name": "images", "datatype": "UINT8", "shape": shape, "data": data, **more}
            ]
        }

    zeros = [0] * count
    bad: list[object] = [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        {},
        {"inputs": []},
        {"inputs": [3]},
        {"inputs": {}},
        with_data(None),
        with_data("zeros"),
        with_data({}),
        with_data([]),
        with_data([0] * (count - 1)),
        with_data([0.5] * count),
        with_data([True] * count),
        with_data([256] * count),
        with_data([-1] * count),
        with_data([2**70] * count),
        with_data(["0"] * count),
        with_data([[0, 1], [2]]),
        with_data(zeros, shape=[1, -128, -128, 3]),
        with_data(zeros, shape="x"),
        with_data(zeros, shape=[True, *shape[1:]]),
        with_data(zeros, shape=[0, *shape[1:]]),
        with_data(zeros, shape=[10**30, *shape[1:]]),
        with_data(zeros, datatype="INT8"),
        with_data(None, parameters={"binary_data_size": count}),
        with_data(None, parameters={"binary_data_size": -1}),
        with_data(None, parameters={"binary_data_size": "many"}),
        {**with_data(zeros), "outputs": "all"},
        {**with_data(zeros), "outputs": [{}]},
        {**with_data(zeros), "outputs": [{"name": ["probabilities"]}]},
        {**with_data(zeros), "outputs": [{"name": {}}]},
    ]
    for body in bad:
        answer = infer(server, body)
        assert answer.status_code == 400 and list(answer.json()) == ["error"], (
            str(body)[:100],
            answer.text[:200],
        )
    for length in ("-1", "1.5", "9" * 5000, "99999999", "", "ten"):
        answer = infer(server, with_data(zeros), length=length)
        assert answer.status_code == 400, length
    assert infer(server, with_data(zeros), bytes(10), length="10").status_code == 400
    assert infer(server, with_data(zeros, parameters=[1])).status_code == 200, (
        "what is not understood is passed over"
    )
    halves = infer(server, {**with_data(zeros), "id": "\ud800"})
    assert halves.status_code == 200 and halves.json()["id"] == "?"


def test_json_that_is_all_brackets_does_not_hold_others_up(server: Server) -> None:
    """Six million empty lists are 18 MB of JSON and ten seconds of a parser that lets nobody else
    run.
    """
    import threading
    import time

    body = b'{"inputs":[' + b"[]," * 6_000_000 + b"[]]}"
    slowest = 0.0
    sending = threading.Thread(target=lambda: answers.append(infer(server, body)))
    answers: list[Any] = []
    sending.start()
    while sending.is_alive():
        start = time.perf_counter()
        assert server.get("/healthz").status_code == 200
        slowest = max(slowest, time.perf_counter() - start)
        time.sleep(0.02)
    assert answers[0].status_code == 400 and "flat" in answers[0].json()["error"]
    assert slowest < 2
