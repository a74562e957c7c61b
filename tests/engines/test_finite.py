"""NaN and infinity are found in arrays and in the weights of ONNX graphs."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper

from support.numpy_network import NumpyNetwork
from tailorbird.engines.finite import listed, non_finite, non_finite_weights


def test_non_finite_arrays_are_named() -> None:
    arrays = {
        "whole": np.array([1, 2]),
        "fine": np.zeros(3, np.float32),
        "nan": np.array([0, np.nan], np.float16),
        "infinite": np.array([-np.inf]),
    }
    assert non_finite(arrays) == ["nan", "infinite"]
    assert listed(["nan"]) == "'nan'" and listed(["a", "b", "c"]) == "'a' and 2 more"


@pytest.mark.parametrize(
    ("values", "damaged"),
    [([0.0, np.nan], True), ([1.0, np.inf], True), (np.nan, True), (np.inf, False), (6.0, False)],
)
def test_a_single_infinite_number_is_a_limit_and_no_damaged_weight(
    values: list[float] | float, damaged: bool
) -> None:
    proto = NumpyNetwork().backbone(32)
    assert non_finite_weights(proto) == []
    proto.graph.initializer.append(numpy_helper.from_array(np.asarray(values, np.float32), "limit"))
    assert non_finite_weights(proto) == ["limit"] * damaged
