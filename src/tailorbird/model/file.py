"""Write a model file, if the finished file gives the same probabilities as the pipeline."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tailorbird import onnx_files
from tailorbird.errors import ModelFileError, TrainingError
from tailorbird.files import atomic_path
from tailorbird.inference import CPU, Device, Runner
from tailorbird.model.metadata import KEY, ModelInfo, info_from
from tailorbird.model.self_test import probe_image

if TYPE_CHECKING:
    import onnx

log = logging.getLogger(__name__)

AGREEMENT = 1e-3
"""The largest difference of a probability between the finished file and the pipeline."""

HALF_AGREEMENT = 1e-2
"""The same where the pipeline computed in float16."""

UNFAMILIARITY_AGREEMENT = 2e-2
"""The largest difference of the unfamiliarity, whose threshold is about 1."""


def write(
    path: str | Path,
    graph: onnx.ModelProto,
    info: ModelInfo,
    *,
    images: npt.NDArray[np.uint8],
    expected: npt.NDArray[np.floating[Any]],
    unfamiliarity: npt.NDArray[np.float32] | None = None,
    extra: Mapping[str, str] | None = None,
    device: Device = CPU,
) -> None:
    """Write a model file, after running the finished file on real photos.

    Args:
        path: The file to write; an existing file stays unchanged when an exception is raised.
        graph: The graph as `graph.build` makes it.
        info: The metadata; the probabilities of the self-test are added.
        images: uint8 (M, S, S, 3), validation photos.
        expected: The pipeline's probabilities of these photos, (M, C).
        unfamiliarity: The pipeline's unfamiliarity of these photos, (M,); None: the graph has none.
        extra: Metadata entries to write beside the one of `info`.
        device: Where the pipeline computed; the file is compared with it there. The self-test
            always holds the answers of the CPU.

    Raises:
        TrainingError: The file and the pipeline differ by `AGREEMENT` or more.
        StorageError: The file cannot be written.
    """
    import onnx

    model = onnx.ModelProto()
    model.CopyFrom(graph)
    with atomic_path(path) as temporary:
        _save(model, info, extra, temporary)
        runner = verify(temporary, images, expected, unfamiliarity, device=device)
        if not device.is_plain:
            runner = Runner(model, str(path), ModelFileError)
            found = runner.run(images, ["probabilities"])[0]
            log.info(
                "probabilities of %d validation photos differ by up to %.2g on the CPU from those "
                "on %s, on which the scores are measured",
                len(images),
                float(np.abs(found - expected).max()),
                device.name,
            )
        # Only the metadata changes now: the graph's probabilities of the probe image are added.
        probe = runner.run_batch(probe_image(info.resize.size), ["probabilities"])[0][0]
        rounded = tuple(round(float(probability), 6) for probability in probe)
        _save(model, replace(info, self_test=rounded), extra, temporary)


def _save(
    model: onnx.ModelProto, info: ModelInfo, extra: Mapping[str, str] | None, path: Path
) -> None:
    onnx_files.set_metadata(model, {**(extra or {}), KEY: info.as_json()})
    path.write_bytes(model.SerializeToString())


def verify(
    path: Path,
    images: npt.NDArray[np.uint8],
    expected: npt.NDArray[np.floating[Any]],
    unfamiliarity: npt.NDArray[np.float32] | None = None,
    *,
    device: Device = CPU,
) -> Runner:
    """Open a model file as a user would, run it and compare it with the pipeline.

    Args:
        path: The model file.
        images: uint8 (M, S, S, 3).
        expected: The pipeline's probabilities of these images, (M, C).
        unfamiliarity: The pipeline's unfamiliarity of these images, (M,); None: not compared.
        device: Where to run it.

    Returns:
        The opened graph.

    Raises:
        TrainingError: They differ by `AGREEMENT` or more, or an output is not finite.
        ModelFileError: The file cannot be opened.
    """
    proto = onnx_files.read_audited(path, ModelFileError)
    info_from(proto, str(path))
    runner = Runner(proto, str(path), ModelFileError, device=device)
    results = dict(zip(runner.outputs, runner.run(images), strict=True))
    if not all(np.isfinite(result).all() for result in results.values()):
        raise TrainingError(
            "the finished model gives values that are not finite; it was not written"
        )
    worst = float(np.abs(results["probabilities"] - expected).max())
    allowed = HALF_AGREEMENT if device.half else AGREEMENT
    if worst >= allowed:
        raise TrainingError(
            f"the finished model's probabilities differ from the pipeline's by up to {worst:.2g}, "
            f"{allowed:g} is allowed; it was not written"
        )
    if unfamiliarity is not None:
        worst = float(np.abs(results["unfamiliarity"] - unfamiliarity).max())
        if worst >= UNFAMILIARITY_AGREEMENT:
            raise TrainingError(
                f"the finished model's unfamiliarity differs from the pipeline's by up to "
                f"{worst:.2g}, {UNFAMILIARITY_AGREEMENT:g} is allowed; it was not written"
            )
    return runner
