"""Compare a backbone file with the framework that it was converted from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tailorbird.errors import BackboneError
from tailorbird.inference import Runner

if TYPE_CHECKING:
    import onnx

AGREEMENT = 1e-3
"""Maximum difference, relative to the largest feature."""


def check_agreement(
    proto: onnx.ModelProto,
    images: npt.NDArray[np.uint8],
    expected: npt.NDArray[np.float32],
    *,
    name: str,
    framework: str,
) -> float:
    """Run a backbone file and return the largest difference from features, relative to them.

    Args:
        proto: content of the file.
        images: uint8 (N, S, S, 3).
        expected: the framework's features of the images, (N, K).
        name: name of the network, for messages.
        framework: framework and its version, for messages.

    Raises BackboneError when ONNX's checker refuses the file, features are not finite, or the
    difference is above AGREEMENT.
    """
    import onnx

    try:
        onnx.checker.check_model(proto, full_check=True)
    except Exception as problem:  # ValidationError and InferenceError share no base class
        raise BackboneError(
            f"the file made from {name} does not pass ONNX's checker: {problem}"
        ) from None
    if not np.isfinite(expected).all():
        raise BackboneError(f"{name} gives features that are NaN or infinite")
    runner = Runner(proto, name, BackboneError)
    outputs = dict(zip(runner.outputs, runner.run(images), strict=True))
    unit = max(float(np.abs(expected).max()), 1e-6)
    found = [outputs["features"]]
    if "feature_map" in outputs:
        found.append(outputs["feature_map"].mean(axis=(2, 3)))
    gap = max(float(np.abs(rows - expected).max()) for rows in found) / unit
    if not gap <= AGREEMENT:
        raise BackboneError(
            f"the backbone made from {name} disagrees with {framework}: the largest difference is "
            f"{gap:.3g} of the largest feature; at most {AGREEMENT:g} is allowed"
        )
    return gap
