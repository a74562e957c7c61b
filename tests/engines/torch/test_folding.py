"""Folded batch normalisation gives the same features and gradients."""

from __future__ import annotations

from typing import Any

import pytest

from support.timm_networks import CNN, SIDE, VIT, network
from tailorbird.engines.torch import backend
from tailorbird.engines.torch.folding import folded, folds
from tailorbird.engines.torch.tracing import TracedNetwork

FAMILIES = (CNN, "test_resnet", "test_byobnet")


def traced(name: str, **arguments: Any) -> TracedNetwork:
    return TracedNetwork(network(name, classes=0, **arguments), 160 if name == VIT else SIDE)


def gradients(part: Any, net: Any, images: Any, dtype: Any = None) -> tuple[Any, dict[str, Any]]:
    """Return features (N, K) and the gradients of the network's parameters by name."""
    torch, _ = backend.load()
    net.zero_grad(set_to_none=True)
    with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
        features = part(images).float()
    features.square().sum().backward()
    found = {name: one.grad.clone() for name, one in net.named_parameters() if one.grad is not None}
    return features.detach(), found


@pytest.mark.parametrize("name", FAMILIES)
def test_features_and_gradients_are_those_of_the_network(name: str) -> None:
    torch, _ = backend.load()
    whole = traced(name)
    images = torch.randn(4, 3, SIDE, SIDE)
    expected, slopes = gradients(whole.net, whole.net, images)
    part = folded(whole.above(0))
    assert folds(part)
    found, others = gradients(part, whole.net, images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert others.keys() == slopes.keys()
    for key, value in slopes.items():
        assert float((others[key] - value).norm() / value.norm()) < 1e-3, key


def test_padding_that_depends_on_the_size_is_kept() -> None:
    torch, _ = backend.load()
    whole = traced(CNN, pad_type="same")
    images = torch.randn(2, 3, SIDE - 1, SIDE - 1)
    part = folded(whole.above(0))
    assert any(type(one).__name__ == "Conv2dSame" for one in part.modules())
    torch.testing.assert_close(part(images), whole.net(images), rtol=1e-4, atol=1e-5)


def test_depthwise_convolutions_stay_in_float32_on_a_cpu() -> None:
    torch, _ = backend.load()
    whole = traced(CNN)
    part, seen = folded(whole.above(0)), set()
    for one in part.modules():
        if isinstance(one, torch.nn.Conv2d):
            original = one._conv_forward

            def noting(maps: Any, *rest: Any, at: Any = one, call: Any = original) -> Any:
                result = call(maps, *rest)
                seen.add((at.groups > 1, result.dtype))
                return result

            one._conv_forward = noting
    images = torch.randn(4, 3, SIDE, SIDE)
    half, slopes = gradients(part, whole.net, images, torch.bfloat16)
    assert seen == {(True, torch.float32), (False, torch.bfloat16)}
    exact, others = gradients(part, whole.net, images)
    torch.testing.assert_close(half, exact, rtol=0.1, atol=0.1)
    assert all(value.dtype == torch.float32 for value in slopes.values())
    cosine = torch.nn.functional.cosine_similarity
    assert all(cosine(slopes[k].ravel(), others[k].ravel(), 0) > 0.9 for k in slopes)


def test_a_network_without_batch_normalisation_is_left_as_it_is() -> None:
    torch, _ = backend.load()
    whole = traced(VIT)
    images = torch.randn(2, 3, 160, 160)
    part = folded(whole.above(0))
    assert not folds(part)
    assert torch.equal(part(images), whole.net(images))
    assert folded(whole.net) is whole.net
