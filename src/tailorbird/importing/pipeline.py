"""Import: open, find the preprocessing, convert, compare, calibrate, score, write."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import metadata as distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from tailorbird.dataset import listed_photos, stacked_pixels
from tailorbird.dataset.labels import unknown_label
from tailorbird.engines.protocol import SourceClassifier
from tailorbird.engines.registry import ENGINES, carried, engine_for_reference, reader_for_file
from tailorbird.errors import SettingsError, TrainingError
from tailorbird.files import sha256_file
from tailorbird.images import ResizeRule, resize
from tailorbird.importing import preprocess as preprocessing
from tailorbird.importing.classes import read_classes
from tailorbird.importing.photos import ImportedNetwork, ScoringData, read_scoring_data, spread
from tailorbird.importing.result import ImportResult
from tailorbird.importing.settings import ImportSettings
from tailorbird.inference import runtime_version
from tailorbird.label_errors.crossfit import fold_numbers
from tailorbird.metrics import drift
from tailorbird.metrics.calibration import softmax, temperature
from tailorbird.metrics.drift import Bins
from tailorbird.metrics.scores import Scores, score
from tailorbird.metrics.thresholds import Threshold, choose_threshold
from tailorbird.model.file import AGREEMENT, write
from tailorbird.model.fitting import Fitted, Known, fit_unfamiliarity
from tailorbird.model.graph import BackboneGraph, build
from tailorbird.model.metadata import ModelInfo
from tailorbird.progress import NoProgress, Progress, StageTimer
from tailorbird.rendering.probes import probe_images
from tailorbird.rendering.strangers import draw_strangers
from tailorbird.validation import Problems, merge

if TYPE_CHECKING:
    import onnx

VERIFIED: Final = 32
"""Maximum number of photos on which the finished file is compared with the framework."""

UNSCORED_THRESHOLD: Final = 0.5
"""Confidence threshold of a model that was not calibrated."""


def import_model(
    source: str | Path,
    output: str | Path,
    settings: ImportSettings | None = None,
    *,
    progress: Progress | None = None,
    **options: Any,
) -> ImportResult:
    """Convert a classifier that was trained elsewhere into a model file.

    Args:
        source: a `.keras` or `.h5` file that `model.save` wrote, with Keras 3 or Keras 2; an ONNX
            file of any framework; or `.safetensors` weights of a timm network, with `arch`.
        output: the model file to write, `.onnx`; an existing one is replaced only by a finished
            and verified one.
        settings: classes, preprocessing, photos to calibrate on and so on.
        progress: receives stages and steps.
        options: fields of ImportSettings, in place of those in `settings`; `classes` must be given
            unless the file has them.

    Raises:
        SettingsError: an option that does not fit the model; an unknown preprocessing.
        ModelFileError: the file is not a classifier of photos, is damaged, or has code in it.
        BackboneError: a layer that cannot be converted.
        DatasetError: no photo of the model's classes.
        TrainingError: the finished file disagreed with the source; nothing is written.
        MissingExtra, StorageError.
    """
    output, source = Path(output), Path(source)
    with Problems() as problems:
        given = problems.attempt(lambda: merge(ImportSettings, settings, options, "import_model"))
        values = {"classes": None, "validate": None, **(vars(given) if given else options)}
        _check_output(
            problems,
            output,
            {
                "source model": source,
                "classes": _path(values["classes"]),
                "dataset": values["validate"],
            },
        )
    assert given is not None, "a SettingsError was raised otherwise"
    names = read_classes(given.classes) if given.classes else ()
    reader = reader_for_file(source)
    mode = preprocessing.mode_of(given.preprocess, reader)
    run = _Import(output, given, names, progress or NoProgress())
    with run.timer.measure("open"):
        run.progress.stage("open")
        classifier = reader.read_classifier(source, given.size, given.arch)
    if not names:
        run = replace(run, classes=_stated(classifier, source))
    origin = {
        "name": classifier.name,
        "sha256": sha256_file(source),
        "source": f"imported from {source.name}",
    }
    return _make(run, classifier, origin, mode, None)


def import_application(
    reference: str,
    output: str | Path,
    *,
    classes: str | Path | None = None,
    weights: str | Path | None = None,
    size: int | None = None,
    arguments: Mapping[str, object] | None = None,
    progress: Progress | None = None,
) -> ImportResult:
    """Write a model file of a published network with its ImageNet classes.

    Args:
        reference: `timm:NAME` or `keras:NAME`.
        output: the model file to write, `.onnx`.
        classes: see `read_classes`; by default the published names. Equal names get a number.
        weights: a weights file with the classifier on top, instead of downloading it.
        arguments: further arguments of the function that builds an engine's network.
        size: of the images in pixels; by default the one the weights were trained at.
        progress: receives stages, steps and notes.

    Raises as `import_model`, and HubError when a download fails.
    """
    output = Path(output)
    file = Path(weights) if weights is not None else None
    with Problems() as problems:
        _check_output(problems, output, {"weights": file, "classes": _path(classes)})
    engine = engine_for_reference(reference)
    if engine is None:
        raise SettingsError(
            f"{reference!r} is not a reference to a published classifier; valid: "
            f"{', '.join(f'{name}:NAME' for name in ENGINES)}"
        )
    found = engine.published_classes(reference) if classes is None else classes
    names = read_classes(found, unique=True)
    run = _Import(output, ImportSettings(classes=names), names, progress or NoProgress())
    with run.timer.measure("open"):
        published = engine.published_classifier(
            reference, size=size, weights=file, arguments=arguments, progress=run.progress
        )
    origin = dict(published.origin)
    return _make(run, published.classifier, origin, published.preprocess, published.reason)


def _stated(classifier: SourceClassifier, source: Path) -> tuple[str, ...]:
    """Return the class names in the file itself. Raises SettingsError where there are none."""
    if not classifier.class_names:
        raise SettingsError(
            f"{source} does not name its {classifier.classes} classes: give --classes, a file with "
            "one name per line in the order of the outputs, or a list such as hat,shirt"
        )
    return read_classes(classifier.class_names, unique=True)


def _path(classes: object) -> str | Path | None:
    """Return the file that classes are read from, if it may be one."""
    return classes if isinstance(classes, str | Path) else None


def _check_output(
    problems: Problems, output: Path, inputs: Mapping[str, str | Path | None]
) -> None:
    """Add problems of an output that cannot be written or is one of the inputs."""
    problems.ending("model file", output, ".onnx")
    photos = listed_photos(inputs.get("dataset") or "")
    problems.outputs({"model file": output}, inputs=inputs, photos=photos)


@dataclass(frozen=True)
class _Import:
    """State of one running import."""

    output: Path
    settings: ImportSettings
    classes: tuple[str, ...]
    progress: Progress
    timer: StageTimer = field(default_factory=StageTimer)


@dataclass(frozen=True)
class _Preprocessing:
    """The preprocessing to use, why, and how the others compare."""

    mode: str
    reason: str
    comparison: preprocessing.PreprocessComparison | None
    warnings: list[str]


@dataclass(frozen=True)
class _Scored:
    """Calibration and scores; the defaults are those of a model without photos."""

    temperature: float = 1.0
    threshold: Threshold | None = None
    scores: Mapping[str, Scores] = field(default_factory=dict)
    distributions: Mapping[str, Bins] = field(default_factory=dict)
    unfamiliarity: Fitted | None = None


def _make(
    run: _Import,
    classifier: SourceClassifier,
    origin: dict[str, Any],
    preprocess: str | None,
    reason: str | None,
) -> ImportResult:
    """Convert an open classifier and write the model file.

    origin: entries of the model file's `backbone`. preprocess, reason: None if unknown.
    """
    _check_classes(run.classes, classifier)
    photos = _read_photos(run)
    prepared = _find_preprocessing(run, classifier, photos, preprocess, reason)
    with run.timer.measure("convert"):
        run.progress.stage("convert")
        backbone_graph, head = classifier.backbone_graph(prepared.mode)
        network = ImportedNetwork(backbone_graph, head, str(run.output))
    with run.timer.measure("compare"):
        run.progress.stage("compare")
        images = _verification_images(photos, classifier.rule)
        expected = classifier.logits(images, prepared.mode)
        agreement = _agreement(network, images, expected)
    scored = _score(run, network, backbone_graph, photos, classifier.rule)
    info = _describe(run, classifier, backbone_graph, origin, prepared, scored, photos)
    content, strange = build(backbone_graph, head, info.temperature), None
    if scored.unfamiliarity is not None:
        score = scored.unfamiliarity.score
        content = build(backbone_graph, head, info.temperature, score)
        strange = score.scores(network.compared(images))
    extra = carried(backbone_graph.proto)
    _write(run, content, info, images, (expected, strange), extra)
    fitted = scored.unfamiliarity
    warnings = list(prepared.warnings)
    if photos is not None:
        warnings += _wrong_order(scored.scores["test"]) + _unknown(photos, run.classes)
    return ImportResult(
        model=run.output,
        info=info,
        preprocess=prepared.mode,
        preprocess_reason=prepared.reason,
        heatmaps=backbone_graph.feature_map is not None,
        agreement=agreement,
        compared=len(images),
        validation=scored.scores.get("validation"),
        test=scored.scores.get("test"),
        threshold=scored.threshold,
        photos=photos,
        comparison=prepared.comparison,
        warnings=tuple(warnings),
        notes=(
            *classifier.notes,
            *([photos.how] if photos else []),
            *([fitted.sentence()] if fitted else []),
        ),
        seconds=run.timer.total(),
    )


def _check_classes(classes: tuple[str, ...], classifier: SourceClassifier) -> None:
    """Raise SettingsError unless there is a name for each class."""
    if len(classes) == classifier.classes:
        return
    one = classifier.outputs == 1
    what = "one output, for two classes," if one else f"{classifier.outputs} outputs"
    named = ", ".join(classes[:6]) + (", ..." if len(classes) > 6 else "")
    raise SettingsError(
        f"the model has {what} but {len(classes)} classes are named ({named}); name each output in "
        "its order: for folders that Keras or torchvision read, their names sorted"
    )


def _read_photos(run: _Import) -> ScoringData | None:
    """Read the photos to calibrate and score on, where there are any."""
    settings = run.settings
    if settings.validate is None:
        return None
    with run.timer.measure("scan"):
        return read_scoring_data(
            settings.validate,
            run.classes,
            settings.seed,
            data=settings.data,
            progress=run.progress,
        )


def _find_preprocessing(
    run: _Import,
    classifier: SourceClassifier,
    photos: ScoringData | None,
    given: str | None,
    reason: str | None,
) -> _Preprocessing:
    """Return the preprocessing: as given, as found in the model, or the one that scores best."""
    chosen = (
        (given, reason)
        if given and reason
        else preprocessing.known_preprocessing(classifier, given)
    )
    if chosen is None and photos is None:
        raise SettingsError(
            "how the pixels were prepared in training is not in the file: give --preprocess with "
            "imagenet (torchvision, most of timm), unit for x / 255, tf for x / 127.5 - 1, none, "
            "or for Keras the module of keras.applications whose preprocess_input was used (such "
            "as xception); or give labelled photos (--validate), and the one that scores best is "
            "used"
        )
    comparison = None
    if photos is not None:
        rule = classifier.rule
        with run.timer.measure("preprocess"):
            sample = spread(photos.calibration, preprocessing.SAMPLED)
            labels = photos.data.numbers(sample)
            images = stacked_pixels(sample, rule)
            answers = preprocessing.try_all(classifier, images, run.progress)
            chosen = chosen or preprocessing.best(answers, labels)
            comparison = preprocessing.compare(answers, labels, chosen[0])
    assert chosen is not None
    warnings = [] if reason else preprocessing.doubts(classifier, given, chosen[0])
    if comparison is not None and comparison.warning is not None:
        warnings.append(comparison.warning)
    return _Preprocessing(*chosen, comparison, warnings)


def _verification_images(photos: ScoringData | None, rule: ResizeRule) -> npt.NDArray[np.uint8]:
    """Return images uint8 (N, S, S, 3) for comparison: photos, else generated ones."""
    if photos is not None:
        return stacked_pixels(spread(photos.calibration, VERIFIED), rule)
    return probe_images(rule.size, 16)


def _agreement(
    network: ImportedNetwork, images: npt.NDArray[np.uint8], expected: npt.NDArray[np.float64]
) -> float:
    """Return the largest difference of a probability. Raises TrainingError if it is too large."""
    worst = float(np.abs(softmax(network.logits(images)) - softmax(expected)).max())
    if not worst < AGREEMENT:
        raise TrainingError(
            f"the converted network and the source itself differ by up to {worst:.2g} in a "
            f"probability, {AGREEMENT:g} is allowed; nothing was written"
        )
    return worst


def _score(
    run: _Import,
    network: ImportedNetwork,
    graph: BackboneGraph,
    photos: ScoringData | None,
    rule: ResizeRule,
) -> _Scored:
    """Choose temperature and threshold on the calibration photos, and score both parts."""
    if photos is None:
        return _Scored()
    with run.timer.measure("score"):
        samples = [*photos.calibration, *photos.test]
        run.progress.stage("score", len(samples))
        all_logits, compared = network.run(samples, rule, run.progress)
        cut = len(photos.calibration)
        fitted = None
        if run.settings.refuse and graph.can_compare:
            fitted = _fit_unfamiliarity(
                run, photos, network, (compared[:cut], compared[cut:]), rule
            )
        limits = {"validation": None, "test": None} if fitted is None else {
            "validation": fitted.chosen_on_refused, "test": fitted.refused("test")
        }  # fmt: skip
        logits = {"validation": all_logits[:cut], "test": all_logits[cut:]}
        labels = {name: photos.data.labels[name] for name in logits}
        scale = temperature(logits["validation"], labels["validation"])
        rows = {name: softmax(values / scale) for name, values in logits.items()}
        threshold = choose_threshold(
            labels["validation"],
            rows["validation"],
            run.settings.precision,
            refused=limits["validation"],
        )
        scores = {
            name: score(labels[name], rows[name], run.classes, threshold.value, limits[name])
            for name in rows
        }
    spread_out = drift.distributions(rows["validation"], fitted.chosen_on if fitted else None)
    return _Scored(scale, threshold, scores, spread_out, fitted)


def _fit_unfamiliarity(
    run: _Import,
    photos: ScoringData,
    network: ImportedNetwork,
    compared: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]],
    rule: ResizeRule,
) -> Fitted | None:
    """Fit on the calibration photos, each of which is compared with the others for the threshold.

    The photos the network was trained on are not known.
    """
    known, test = compared
    labels = photos.data.labels["validation"]
    pairs = zip(photos.data.dataset.samples, photos.data.dataset.groups, strict=True)
    groups = [group for sample, group in pairs if sample.split == "validation"]
    folds = fold_numbers(labels, groups, np.random.default_rng((run.settings.seed, 2)))
    strangers = {
        kind: network.compared(np.stack([resize(picture, rule) for picture in pictures]))
        for kind, pictures in draw_strangers().items()
    }
    return fit_unfamiliarity(
        Known(known, labels, len(run.classes), known[:0], folds),
        {"validation": known[:0], "test": test},
        strangers,
        refuse=run.settings.refuse,
        seed=run.settings.seed,
    )


def _wrong_order(scores: Scores) -> list[str]:
    """Return a warning if another assignment of names to outputs fits far better."""
    counts = np.array(scores.confusion)
    columns = _other_order(counts)
    other = counts[np.arange(len(counts)), columns].sum() / scores.n
    if other < max(0.5, scores.accuracy + 0.3):
        return []
    moved = [
        f"{scores.classes[row]} in place of {scores.classes[column]}"
        for row, column in enumerate(columns)
        if row != column
    ]
    return [
        f"accuracy is only {scores.accuracy:.1%}, but with the classes in another order it would "
        f"be {other:.1%} ({', '.join(moved[:4])}): name the classes in the order of the outputs"
    ]


def _other_order(counts: npt.NDArray[np.int64]) -> list[int]:
    """Match each true class to one output, largest counts first; return the output of each class.

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


def _unknown(photos: ScoringData, classes: tuple[str, ...]) -> list[str]:
    """Return warnings about photos of classes that the model does not have."""
    if not photos.unknown:
        return []
    named = ", ".join(f"{label} ({count})" for label, count in list(photos.unknown.items())[:5])
    more = f" and {len(photos.unknown) - 5} more" if len(photos.unknown) > 5 else ""
    reasons = [unknown_label(label, classes) for label in photos.unknown]
    return [
        f"the model has no class for {sum(photos.unknown.values()):,} photos, which were left out: "
        f"{named}{more}",
        *(reason for reason in reasons if "differs only in" in reason),
    ]


def _describe(
    run: _Import,
    classifier: SourceClassifier,
    backbone_graph: BackboneGraph,
    origin: dict[str, Any],
    prepared: _Preprocessing,
    scored: _Scored,
    photos: ScoringData | None,
) -> ModelInfo:
    """Return the metadata of the model file."""
    feature_map, threshold = backbone_graph.feature_map, scored.threshold
    settings = {
        "imported": origin.get("source", "not stated"),
        "calibrated": photos is not None,
        "preprocess": prepared.mode,
        "preprocess_reason": prepared.reason,
        "precision": run.settings.precision,
    }
    if feature_map is None:
        settings["no_heatmaps"] = classifier.why_no_heatmaps
    data: dict[str, Any] = {}
    if photos is not None and threshold is not None:
        data = {
            "fingerprint": photos.data.dataset.fingerprint,
            "splits": photos.data.dataset.splits,
            "left_out": len(photos.data.left_out),
            "threshold_reached": threshold.reached,
        }
    packages = ("tailorbird", "onnx", "numpy", "pillow", *classifier.packages)
    return ModelInfo(
        classes=run.classes,
        resize=classifier.rule,
        threshold=threshold.value if threshold else UNSCORED_THRESHOLD,
        temperature=scored.temperature,
        scores={name: value.as_dict() for name, value in scored.scores.items()},
        backbone={
            "name": classifier.name,
            "input_size": classifier.size,
            "features": backbone_graph.width,
            "grid": list(feature_map[1:]) if feature_map else None,
            "licence": "not stated",
            "source": "not stated",
            "trained_on": "not stated",
            "pooling": backbone_graph.pooling,
            **origin,
        },
        settings=settings,
        seed=run.settings.seed,
        data=data,
        versions={
            "python": platform.python_version(),
            "onnxruntime": runtime_version(),  # of whichever package contains it
            **{name: distributions.version(name) for name in packages},
        },
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        distributions=scored.distributions,
        unfamiliarity=scored.unfamiliarity.as_dict() if scored.unfamiliarity else {},
    )


def _write(
    run: _Import,
    content: onnx.ModelProto,
    info: ModelInfo,
    images: npt.NDArray[np.uint8],
    expected: tuple[npt.NDArray[np.float64], npt.NDArray[np.float32] | None],
    extra: Mapping[str, str],
) -> None:
    """Write the verified model file.

    expected: the framework's logits of the images, and their unfamiliarity, if there is one. extra:
    further metadata entries.
    """
    with run.timer.measure("write"):
        run.progress.stage("write")
        write(
            run.output,
            content,
            info,
            images=images,
            expected=softmax(expected[0] / info.temperature),
            unfamiliarity=expected[1],
            extra=extra,
        )
