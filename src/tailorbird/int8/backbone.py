"""`backbones quantize`: a float backbone to int8, checked by cross-validation on photos."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tailorbird import onnx_files
from tailorbird.backbone import Backbone, find
from tailorbird.backbone.catalogue import SUFFIX, folder
from tailorbird.dataset import DataSettings, Sample, listed_photos, split, stacked_pixels
from tailorbird.errors import DatasetError, TrainingError
from tailorbird.experiments.alternatives import complete
from tailorbird.experiments.cross_validation import Fitter, Job, Partition, partitions
from tailorbird.experiments.data import ExperimentData
from tailorbird.features import Embedder, embed
from tailorbird.files import storage_error, write_bytes
from tailorbird.inference import speeds
from tailorbird.int8.figures import AccuracyLost, Figures, Precision, calibrated
from tailorbird.preparation import PreparedData, Steps, prepare_data
from tailorbird.progress import NoProgress, Progress
from tailorbird.validation import Problems

FOLDS: Final = 5
ROUNDS: Final = 3
"""Rounds of cross-validation with other folds; their mean depends less on chance than one does."""

LEAST_PHOTOS: Final = 10


@dataclass(frozen=True)
class QuantisedBackbone:
    """A backbone as int8 beside the float32 one it was made from.

    Attributes:
        path: The int8 file; None where int8 was refused.
        name: The name of the int8 backbone.
        source: The file of the float32 backbone.
        figures: Accuracy of the default head in cross-validation, speed and size of both.
        photos: Number of photos in the cross-validation.
        calibrated_on: Number of photos on which ranges were measured.
        folds, rounds: Of the cross-validation.
    """

    path: Path | None
    name: str
    source: Path
    figures: Figures
    photos: int
    calibrated_on: int
    folds: int
    rounds: int

    @property
    def installed(self) -> bool:
        """Whether `train --backbone` finds the file by its name."""
        return self.path is not None and self.path == folder() / f"{self.name}{SUFFIX}"

    def as_dict(self) -> dict[str, Any]:
        """Return the object of `backbones quantize --json`."""
        return {
            "path": str(self.path) if self.path else None,
            "name": self.name,
            "source": str(self.source),
            **self.figures.as_dict(),
            "photos": self.photos,
            "calibrated_on": self.calibrated_on,
            "folds": self.folds,
            "rounds": self.rounds,
        }


def quantise_backbone(
    backbone: str | Path,
    photos: str | Path,
    output: str | Path | None = None,
    *,
    seed: int = 0,
    data: DataSettings | None = None,
    progress: Progress | None = None,
) -> QuantisedBackbone:
    """Quantise a backbone to int8 if the default head loses little accuracy on its features.

    Both backbones are compared by repeated cross-validation with the same folds and seeds on the
    photos that `train` would train and validate on; the test photos of `train` are not used.

    Args:
        backbone: Name of an installed float backbone, or the path of an .onnx file.
        photos: Class folders, split/class folders, or a CSV `path,label[,split]`.
        output: The file to write; by default NAME-int8 becomes an installed backbone.
        seed: Of the split, the folds and the fits.
        data: How the folder or CSV is read.
        progress: Receives the stages `embed`, `calibrate`, `embed int8` and `fits`.

    Raises:
        AccuracyLost: int8 loses more than MOST_LOST of accuracy; nothing is written.
        BackboneError: The backbone is quantised already or breaks the contract.
        DatasetError: Too few photos.
        SettingsError: An output that cannot be written.
        TrainingError: A head's loss became non-finite.
        StorageError: The disk is full.
    """
    progress = progress or NoProgress()
    source = find(backbone)
    with Problems() as problems:
        problems.seed(seed)
        problems.ending("backbone", output, ".onnx")
        problems.outputs(
            {"backbone": output},
            inputs={"float32 backbone": source, "dataset": photos},
            photos=listed_photos(photos, data),
            make_folders=True,
        )
    opened = Backbone(source)
    name = _name(opened.info.name)
    target = Path(output) if output is not None else folder() / f"{name}{SUFFIX}"
    known = prepare_data(
        photos,
        Embedder(opened),
        Steps(partial(split, seed=seed), data=data),
        progress=progress,
    )
    kept = _experiment(known, str(photos), str(backbone), seed)
    samples = [sample for sample in known.dataset.samples if sample.split != "test"]
    graph, calibrated_on = calibrated(
        opened.proto, samples, opened.info.rule, str(source), progress
    )
    onnx_files.set_metadata(graph, _metadata(opened, name, calibrated_on))
    content = graph.SerializeToString()
    int8 = _opened(content, name)
    features = _features(int8, samples, progress)
    folds, (first, second) = _cross_validated([kept.features, features], kept, progress)
    before, after = speeds(
        (opened.runner, int8.runner), stacked_pixels(samples[:8], opened.info.rule), ["features"]
    )
    figures = Figures(
        Precision(_share(first.right), before, opened.info.file_bytes),
        Precision(_share(second.right), after, len(content)),
        _share(first.predicted == second.predicted),
    )
    result = QuantisedBackbone(
        None, name, source, figures, len(samples), calibrated_on, folds, ROUNDS
    )
    if figures.refused:
        raise AccuracyLost(result, f"in {folds}-fold cross-validation")
    write_bytes(target, content)
    return replace(result, path=target)


def _name(name: str) -> str:
    """Return the name of the int8 backbone, which is also that of a file.

    name: as the float file states it; it may hold any characters.
    """
    plain = re.sub(r"[^\w.-]+", "-", name).strip(".-")[:100]
    return f"{plain or 'backbone'}-int8"


def _experiment(known: PreparedData, source: str, backbone: str, seed: int) -> ExperimentData:
    """Return the photos of train and validation with their float features."""
    kept = [i for i, sample in enumerate(known.dataset.samples) if sample.split != "test"]
    samples = [known.dataset.samples[i] for i in kept]
    groups = np.array(known.dataset.groups, np.int64)[kept]
    if len(samples) < LEAST_PHOTOS or len(np.unique(groups)) < 2:
        raise DatasetError(
            f"{source} has {len(samples)} photos outside test; at least {LEAST_PHOTOS} different "
            "ones are needed to measure what int8 costs"
        )
    return ExperimentData(
        source=source,
        backbone=backbone,
        classes=known.classes,
        features=known.features(samples),
        labels=known.numbers(samples),
        groups=groups,
        validation=np.array([sample.split == "validation" for sample in samples], np.bool_),
        test_photos=len(known.parts["test"]),
        seed=seed,
    )


def _metadata(opened: Backbone, name: str, photos: int) -> dict[str, str]:
    return {
        **onnx_files.metadata(opened.proto),
        "name": name,
        "quantised": (
            f"int8, weights of 7 bits per channel, activations of 8 bits; calibrated on {photos:,} "
            "photos"
        ),
        "quantised_from": opened.info.sha256,
    }


def _opened(content: bytes, name: str) -> Backbone:
    """Open the int8 backbone from a temporary file, which checks the contract."""
    try:
        with tempfile.TemporaryDirectory(prefix="tailorbird-") as temporary:
            path = Path(temporary) / f"{name}{SUFFIX}"
            path.write_bytes(content)
            return Backbone(path)
    except OSError as error:
        raise storage_error(Path(tempfile.gettempdir()), error) from error


def _features(
    backbone: Backbone, samples: Sequence[Sample], progress: Progress
) -> npt.NDArray[np.float32]:
    """Return the features of one view, float32 (1, N, K)."""
    embedder = Embedder(backbone)
    embed(samples, embedder, progress=progress, stage="embed int8")
    return embedder.matrix(samples)[None]


@dataclass(frozen=True)
class _HeldOut:
    """Classes predicted for all photos held out, int64 (R N,), and whether they are right."""

    predicted: npt.NDArray[np.int64]
    right: npt.NDArray[np.bool_]


def _cross_validated(
    features: Sequence[npt.NDArray[np.float32]], kept: ExperimentData, progress: Progress
) -> tuple[int, list[_HeldOut]]:
    """Return the number of folds and, for each matrix of features, what its heads predict.

    Raises TrainingError when a fit fails.
    """
    folds = min(FOLDS, len(np.unique(kept.groups)))
    parts = partitions(kept.labels, kept.groups, folds=folds, seeds=ROUNDS, seed=kept.seed)
    settings = complete({}, kept, len(parts[0].train))
    jobs = [Job(0, settings, number) for number in range(len(parts))]
    total, done, results = len(jobs) * len(features), 0, []
    progress.stage("fits", total)
    for matrix in features:
        fitter = Fitter(replace(kept, features=matrix), parts, predictions=True)
        predicted = []
        for fit in fitter.run(jobs):
            if fit.failure is not None:
                raise TrainingError(fit.failure)
            predicted.append(fit.predicted)
            done += 1
            progress.advance(done, total)
        results.append(_held_out(predicted, parts, kept.labels))
    return folds, results


def _held_out(
    predicted: Sequence[npt.NDArray[np.int64]],
    parts: Sequence[Partition],
    labels: npt.NDArray[np.int64],
) -> _HeldOut:
    truth = np.concatenate([labels[part.held_out] for part in parts])
    found = np.concatenate(predicted)
    return _HeldOut(found, found == truth)


def _share(values: npt.NDArray[np.bool_]) -> float:
    return float(np.mean(values))
