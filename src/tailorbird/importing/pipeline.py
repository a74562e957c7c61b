"""The pipeline: open -> classes -> how the pixels are prepared -> agree with Keras -> calibrate -> score -> model file."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata as distributions
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tailorbird.dataset import listed_photos, pixels_of
from tailorbird.engines.protocol import SourceClassifier
from tailorbird.engines.registry import ENGINES, carried, engine_for_file, engine_for_reference
from tailorbird.errors import SettingsError, TrainingError
from tailorbird.files import sha256_file
from tailorbird.images import ResizeRule
from tailorbird.importing import preprocess as preparation
from tailorbird.importing.classes import read_classes
from tailorbird.importing.photos import ImportedNetwork, ScoringData, read_scoring_data, spread
from tailorbird.importing.result import ImportResult
from tailorbird.metrics.calibration import softmax, temperature
from tailorbird.metrics.scores import Scores, score
from tailorbird.metrics.thresholds import Threshold, choose_threshold
from tailorbird.model.file import AGREEMENT, write
from tailorbird.model.graph import BackboneGraph, build
from tailorbird.model.metadata import ModelInfo
from tailorbird.progress import NoProgress, Progress, StageTimer
from tailorbird.rendering.probes import probe_images
from tailorbird.validation import Problems

VERIFIED: Final = 32
"""ScoringData on which the finished file is compared with Keras; where none are given, drawn ones."""

UNSCORED_THRESHOLD: Final = 0.5
"""Below this probability a model without photos to calibrate on says that it is unsure."""


def import_model(
    source: str | Path,
    output: str | Path,
    *,
    classes: str | Path | Sequence[str],
    preprocess: str | None = None,
    size: int | None = None,
    validate: str | Path | None = None,
    precision: float = 0.95,
    seed: int = 0,
    progress: Progress | None = None,
) -> ImportResult:
    """Make a model file of a classifier that was trained in Keras.

    Args:
        source: a `.keras` or `.h5` file that `model.save` wrote, with Keras 3 or Keras 2.
        output: the model file to write, `.onnx`; an existing one is replaced only by a finished and verified one.
        classes: the names of the outputs in their order; see `read_classes`. Two names for a model with one output, the one it says no to first.
        preprocess: how pixels were prepared in training, one of `preprocess.PREPROCESS`; by default what the model itself says, else
            what scores best.
        size: of the images in pixels, for a model that takes any.
        validate: labelled photos as for `train`, to calibrate and score on; see `photos.read_scoring_data`.
        precision: what the answers above the "unsure below" threshold should reach, 0.5 to 1.
        seed: of the halves that photos without splits are dealt into.
        progress: receives stages, steps, notes and metrics.

    Raises:
        SettingsError: an option that does not fit the model; a preprocess that is neither given nor can be told.
        ModelFileError: the file is no Keras classifier of photos, damaged, or holds code; see `engines.protocol.Engine.read_classifier`.
        BackboneError: a layer that has no translation into ONNX.
        DatasetError: no photo of the model's classes.
        TrainingError: the finished file disagreed with Keras; nothing is written then.
        MissingExtra, StorageError.
    """
    output, source = Path(output), Path(source)
    read = {
        "Keras model": source,
        "classes": classes if isinstance(classes, str | Path) else None,
        "dataset": validate,
    }
    _check_settings(output, precision, seed, read)
    names = read_classes(classes)
    engine = engine_for_file(source)
    mode = preparation.mode_of(preprocess, engine)
    timer = StageTimer()
    with timer.measure("open"):
        (progress or NoProgress()).stage("open")
        classifier = engine.read_classifier(source, size)
    origin = {
        "name": classifier.name,
        "sha256": sha256_file(source),
        "source": f"imported from {source.name}",
    }
    return make(
        classifier,
        output,
        names,
        mode,
        origin,
        validate=validate,
        precision=precision,
        seed=seed,
        progress=progress,
        timer=timer,
    )


def import_application(
    reference: str,
    output: str | Path,
    *,
    classes: str | Path | None = None,
    weights: str | Path | None = None,
    size: int | None = None,
    progress: Progress | None = None,
) -> ImportResult:
    """Make a model file of a Keras application with its 1000 ImageNet classes.

    Args:
        reference: `keras:NAME`, NAME as in keras.applications.
        output: the model file to write, `.onnx`.
        classes: as `read_classes` takes them; by default the names Keras downloads. Equal names are told apart by a number.
        weights: a weights file with the classifier on top, instead of the weights Keras downloads.
        size: of the images in pixels; by default the one the weights were trained at.
        progress: receives stages, steps, notes and metrics.

    Raises as `import_model`, and HubError when a download fails.
    """
    output, progress, timer = Path(output), progress or NoProgress(), StageTimer()
    file = Path(weights) if weights is not None else None
    read = {"weights": file, "classes": classes if isinstance(classes, str | Path) else None}
    _check_settings(output, 0.95, 0, read)
    engine = engine_for_reference(reference)
    if engine is None:
        raise SettingsError(
            f"{reference!r} is not a reference to a published classifier; valid: "
            f"{', '.join(f'{name}:NAME' for name in ENGINES)}"
        )
    found = engine.published_classes() if classes is None else classes
    names = read_classes(found, unique=True)
    with timer.measure("open"):
        published = engine.published_classifier(
            reference, size=size, weights=file, progress=progress
        )
    return make(
        published.classifier,
        output,
        names,
        published.preprocess,
        dict(published.origin),
        why=published.reason,
        progress=progress,
        timer=timer,
    )


def make(
    classifier: SourceClassifier,
    output: Path,
    classes: tuple[str, ...],
    preprocess: str | None,
    origin: dict[str, Any],
    *,
    why: str | None = None,
    validate: str | Path | None = None,
    precision: float = 0.95,
    seed: int = 0,
    progress: Progress | None = None,
    timer: StageTimer | None = None,
) -> ImportResult:
    """`import_model` for a classifier that is already open.

    preprocess: a mode, and why that one. origin: entries of the model file's `backbone`.
    """
    progress, timer = progress or NoProgress(), timer or StageTimer()
    if len(classes) != classifier.classes:
        what = (
            "one output, for two classes,"
            if classifier.outputs == 1
            else f"{classifier.outputs} outputs"
        )
        raise SettingsError(
            f"the model has {what} but {len(classes)} classes are named ({', '.join(classes[:6])}{', ...' if len(classes) > 6 else ''}); name each "
            "output in its order: of folders that Keras read, their names sorted (train_generator.class_indices)"
        )
    rule = ResizeRule(classifier.size)
    photos = None
    if validate is not None:
        with timer.measure("scan"):
            photos = read_scoring_data(validate, classes, seed, progress)
    chosen = (preprocess, why) if preprocess and why else preparation.told(classifier, preprocess)
    if chosen is None and photos is None:
        raise SettingsError(
            "how the pixels were prepared in training is not in the file: give --preprocess with the module of keras.applications whose "
            "preprocess_input was used (such as xception), unit for x / 255, tf for x / 127.5 - 1, or none; or give labelled photos "
            "(--validate), and the one that scores best is taken"
        )
    comparison = None
    if photos is not None:
        with timer.measure("preprocess"):
            sample = spread(photos.calibration, preparation.SAMPLED)
            labels = np.array([classes.index(one.label) for one in sample], np.int64)
            answers = preparation.try_all(
                classifier, np.stack([pixels_of(one, rule) for one in sample]), progress
            )
            chosen = chosen or preparation.best(answers, labels)
            comparison = preparation.compare(answers, labels, chosen[0])
    assert chosen is not None
    mode, reason = chosen
    warnings = [] if why else preparation.doubts(classifier, preprocess, mode)
    if comparison is not None and comparison.warning is not None:
        warnings.append(comparison.warning)
    with timer.measure("convert"):
        progress.stage("convert")
        backbone_graph, head = classifier.backbone_graph(mode)
        network = ImportedNetwork(backbone_graph, head, str(output))
    with timer.measure("compare"):
        progress.stage("compare")
        images = _compared(photos, rule)
        theirs = classifier.logits(images, mode)
        agreement = _agreement(network, images, theirs)
    scale, threshold, scores = 1.0, None, dict[str, Scores]()
    if photos is not None:
        with timer.measure("score"):
            scale, threshold, scores = _score(network, photos, classes, rule, precision, progress)
            warnings += _unlucky(scores["test"])
        warnings += _unknown(photos)
    settings = {"preprocess": mode, "preprocess_reason": reason, "precision": precision}
    info = _info(
        classifier,
        backbone_graph,
        classes,
        origin,
        settings,
        scale,
        threshold,
        scores,
        photos,
        seed,
    )
    with timer.measure("write"):
        progress.stage("write")
        write(
            output,
            build(backbone_graph, head, scale),
            info,
            images=images,
            expected=softmax(theirs / scale),
            extra=carried(backbone_graph.proto),
        )
    return ImportResult(
        model=output,
        info=info,
        preprocess=mode,
        preprocess_reason=reason,
        heatmaps=backbone_graph.feature_map is not None,
        agreement=agreement,
        compared=len(images),
        validation=scores.get("validation"),
        test=scores.get("test"),
        threshold=threshold,
        photos=photos,
        comparison=comparison,
        warnings=tuple(warnings),
        notes=(*classifier.notes, *([photos.how] if photos else [])),
        seconds=timer.total(),
    )


def _check_settings(
    output: Path, precision: float, seed: int, inputs: Mapping[str, str | Path | None]
) -> None:
    """Raise one SettingsError for invalid options and an output that is one of the inputs."""
    with Problems() as problems:
        problems.ending("model file", output, ".onnx")
        problems.outputs(
            {"model file": output},
            inputs=inputs,
            photos=listed_photos(inputs.get("dataset") or ""),
        )
        problems.number("precision", precision, 0.5, 1)
        problems.seed(seed)


def _compared(photos: ScoringData | None, rule: ResizeRule) -> npt.NDArray[np.uint8]:
    """ScoringData to compare with Keras on, uint8 (N, S, S, 3): real ones where there are any, else drawn clothes and noise."""
    if photos is not None:
        return np.stack([pixels_of(one, rule) for one in spread(photos.calibration, VERIFIED)])
    return probe_images(rule.size, 16)


def _agreement(
    network: ImportedNetwork, images: npt.NDArray[np.uint8], theirs: npt.NDArray[np.float64]
) -> float:
    """The largest difference of a probability, before calibration. Raises TrainingError where it is too large."""
    worst = float(np.abs(softmax(network.logits(images)) - softmax(theirs)).max())
    if not worst < AGREEMENT:
        raise TrainingError(
            f"the network in ONNX and Keras itself differ by up to {worst:.2g} in a probability, {AGREEMENT:g} is allowed; nothing was written"
        )
    return worst


def _score(
    network: ImportedNetwork,
    photos: ScoringData,
    classes: tuple[str, ...],
    rule: ResizeRule,
    precision: float,
    progress: Progress,
) -> tuple[float, Threshold, dict[str, Scores]]:
    """Temperature and threshold from the calibration photos, and the scores of both parts."""
    parts = {"validation": photos.calibration, "test": photos.test}
    samples = [*photos.calibration, *photos.test]
    progress.stage("score", len(samples))
    rows_of = network.logits_of(samples, rule, progress)
    cut = len(photos.calibration)
    logits = {"validation": rows_of[:cut], "test": rows_of[cut:]}
    labels = {
        name: np.array([classes.index(sample.label) for sample in part], np.int64)
        for name, part in parts.items()
    }
    scale = temperature(logits["validation"], labels["validation"])
    rows = {name: softmax(values / scale) for name, values in logits.items()}
    threshold = choose_threshold(labels["validation"], rows["validation"], precision)
    return (
        scale,
        threshold,
        {name: score(labels[name], rows[name], classes, threshold.value) for name in parts},
    )


def _unlucky(scores: Scores) -> list[str]:
    """A warning where the names are probably in another order than the outputs: another assignment of names fits far better."""
    counts = np.array(scores.confusion)
    columns = _other_order(counts)
    other = counts[np.arange(len(counts)), columns].sum() / scores.n
    if other < max(0.5, scores.accuracy + 0.3):
        return []
    moved = [
        f"{scores.classes[row]} where {scores.classes[column]} stands"
        for row, column in enumerate(columns)
        if row != column
    ]
    return [
        f"only {scores.accuracy:.1%} of the photos are answered rightly, but with the classes in another order {other:.1%} would be "
        f"({', '.join(moved[:4])}): the classes must be named in the order of the outputs"
    ]


def _other_order(
    counts: npt.NDArray[np.int64],
) -> list[int]:
    """Match each true class to one output, largest counts first; the output of each class.

    The greedy match answers at least half of what the best one would; where the names are only in
    another order, it is the best one.
    """
    rows, columns = np.unravel_index(np.argsort(-counts, axis=None, kind="stable"), counts.shape)
    output: dict[int, int] = {}
    taken: set[int] = set()
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        if row not in output and column not in taken:
            output[row] = column
            taken.add(column)
    return [output[row] for row in range(len(counts))]


def _unknown(photos: ScoringData) -> list[str]:
    if not photos.unknown:
        return []
    said = ", ".join(f"{label} ({count})" for label, count in list(photos.unknown.items())[:5])
    more = f" and {len(photos.unknown) - 5} more" if len(photos.unknown) > 5 else ""
    return [
        f"the model has no class for {sum(photos.unknown.values()):,} photos, which were left out: {said}{more}"
    ]


def _info(
    classifier: SourceClassifier,
    backbone_graph: BackboneGraph,
    classes: tuple[str, ...],
    origin: dict[str, Any],
    settings: dict[str, Any],
    scale: float,
    threshold: Threshold | None,
    scores: dict[str, Scores],
    photos: ScoringData | None,
    seed: int,
) -> ModelInfo:
    packages = ("tailorbird", "onnxruntime", "onnx", "numpy", "pillow", *classifier.packages)
    return ModelInfo(
        classes=classes,
        resize=ResizeRule(classifier.size),
        threshold=threshold.value if threshold else UNSCORED_THRESHOLD,
        temperature=scale,
        scores={name: value.as_dict() for name, value in scores.items()},
        backbone={
            "name": classifier.name,
            "input_size": classifier.size,
            "features": backbone_graph.width,
            "grid": list(backbone_graph.feature_map[1:]) if backbone_graph.feature_map else None,
            "licence": "not stated",
            "source": "not stated",
            "trained_on": "not stated",
            "pooling": backbone_graph.pooling,
            **origin,
        },
        settings={
            "imported": origin.get("source", "not stated"),
            "calibrated": photos is not None,
            **settings,
            **(
                {"no_heatmaps": classifier.why_no_heatmaps}
                if backbone_graph.feature_map is None
                else {}
            ),
        },
        seed=seed,
        data={
            "fingerprint": photos.data.dataset.fingerprint,
            "splits": photos.data.dataset.splits,
            "left_out": len(photos.data.left_out),
            "threshold_reached": threshold.reached,
        }
        if photos and threshold
        else {},
        versions={
            "python": platform.python_version(),
            **{name: distributions.version(name) for name in packages},
        },
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
