"""`--ray` with and without an address."""

from __future__ import annotations

import pytest

from tailorbird.cli.options import _with_addresses


@pytest.mark.parametrize(
    ("given", "parsed"),
    [
        (["--ray"], ["--ray=local"]),
        (["--ray", "auto", "a.jpg"], ["--ray=auto", "a.jpg"]),
        (["--ray", "10.0.0.5:6379", "a.jpg"], ["--ray=10.0.0.5:6379", "a.jpg"]),
        (["--ray", "model.onnx", "a.jpg"], ["--ray=local", "model.onnx", "a.jpg"]),
        (["m.onnx", "--ray", "-o", "out"], ["m.onnx", "--ray=local", "-o", "out"]),
        (["--ray", "--ray"], ["--ray=local", "--ray=local"]),
        (["--ray=auto"], ["--ray=auto"]),
        (["--", "--ray", "auto"], ["--", "--ray", "auto"]),
    ],
)
def test_an_address_may_follow(given: list[str], parsed: list[str]) -> None:
    assert _with_addresses(given) == parsed
