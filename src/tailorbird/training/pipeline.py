"""Train: scan, split, embed, find the head, fine-tune, calibrate, test once, write."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib import metadata as distributions
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tailorbird.advice import Trained, after_training
from tailorbird.backbone import open_backbone
from tailorbird.corrections import read_labelled
from tailorbird.dataset import NONE_OF_THESE, split, stacked_pixels, write_manifest
from tailorbird.dataset.layout import find, with_none_of_these
from tailorbird.engines.finetune.task import Host
from tailorbird.engines.registry import (
    carried,
    engine_for_reference,
    open_network,
    pulled,
    trainable,
)
from tailorbird.errors import DatasetError
from tailorbird.features import Embedder, expected_seconds, picture_features
from tailorbird.head import refit as refit_head
from tailorbird.head import search
from tailorbird.head.stored import StoredRows, logits_of
from tailorbird.inference import CPU, Device, runtime_version, use_device
from tailorbird.label_errors import judge_prepared
from tailorbird.label_errors.confident import reported
from tailorbird.metrics import drift
from tailorbird.metrics.calibration import Probabilities, softmax, temperature
from tailorbird.metrics.scores import Answers, Scores, score
from tailorbird.metrics.thresholds import Threshold, choose_threshold
from tailorbird.model.file import write
from tailorbird.model.fitting import Fitted, Known, fit_unfamiliarity
from tailorbird.model.graph import BackboneGraph, build
from tailorbird.model.metadata import ModelInfo
from tailorbird.preparation import PreparedData, Steps, evenly_spread, prepare_data
from tailorbird.progress import NoProgress, Progress, StageTimer
from tailorbird.rendering.strangers import draw_strangers
from tailorbird.report import attempt, report_path
from tailorbird.training.calibration import Judged, crossfit, fold_photos
from tailorbird.training.network import (
    TrainedNetwork,
    none_photos,
    search_settings,
    verification_rows,
)
from tailorbird.training.result import TrainResult, content_of, digests
from tailorbird.training.run import Opened, OpensElsewhere, TrainingRun
from tailorbird.training.settings import TrainSettings, settings_for
from tailorbird.training.tuning import delete_run, train_from_scratch, tune

MOST_FITTED: Final = 20_000
"""Training photos that the unfamiliarity is fitted on, where the features are on disk."""


def train(
    photos: str | Path,
    output: str | Path,
    settings: TrainSettings | None = None,
    *,
    progress: Progress | None = None,
    elsewhere: OpensElsewhere | None = None,
    host: Host | None = None,
    **options: Any,
) -> TrainResult:
    """Train a classifier on a folder or CSV of labelled photos and write it as one ONNX file.

    An interrupted fine-tuning run is resumed when the same training is started again.

    Args:
        photos: class folders, split/class folders, or a CSV `path,label[,split]`.
        output: the model file to write, `.onnx`; an existing one is replaced only by a finished
            and verified one.
        settings: backbone, head, seed, reports and so on; None: the defaults.
        progress: receives stages, steps, notes and metrics.
        elsewhere: given the backbone, returns processes that read and embed the photos in place of
            this one.
        host: what fine-tunes in place of this process, such as a cluster.
        options: fields of TrainSettings, in place of those in `settings`; for example
            `train("photos/", "shop.onnx", backbone="pocket", seed=1)`.

    Raises:
        SettingsError: invalid options, all of them together.
        DatasetError: no usable photo, fewer than two classes, or too few photos.
        BackboneError: the backbone's file breaks the contract.
        StorageError: the disk is full or a folder cannot be written.
        TrainingError: the loss became non-finite, or the finished file disagreed with the pipeline.
        MissingExtra: the framework is not installed.
    """
    output = Path(output)
    settings = settings_for(photos, output, settings, options)
    run = TrainingRun(
        output, settings, progress or NoProgress(), StageTimer(), elsewhere, host or Host()
    )
    with use_device(settings.device, half=settings.half):
        return _train(run, photos)


def _train(run: TrainingRun, photos: str | Path) -> TrainResult:
    """Train by the steps in which everything is trained."""
    opened = _open(run, photos)
    data = _prepare(run, opened)
    network = _learn(run, data, opened)
    tested = _test(run, data, network)
    info = _describe(run, data, network, tested)
    _write(run, data, network, info)
    result = _judge_labels(run, data, _result(run, data, network, tested, info))
    return _report(run, _advise(run, photos, tested, result))


def _open(run: TrainingRun, photos: str | Path) -> Opened:
    """Open corrections and backbone before the scan, so that their errors are reported first."""
    settings = run.settings
    embedder = network = None
    with run.timer.measure("open"):
        corrections = None
        if settings.corrections is not None:
            folder = settings.corrections_photos
            corrections = read_labelled(
                str(settings.corrections), Path(folder) if folder is not None else None
            )
        layout = find(photos, data=settings.data)
        if settings.none is not None:
            layout = with_none_of_these(layout, settings.none)
        files = len(layout.entries) + (len(corrections.photos) if corrections else 0)
        if not settings.from_scratch:
            name = settings.backbone
            if settings.trains_network:
                name = trainable(name, settings.engine, run.progress)
            elif engine_for_reference(str(name)):
                name = pulled(str(name), run.progress)
            # Where the network trains, mirrored views are judged when it is finished.
            mirror = settings.mirror and not settings.trains_network
            backbone = open_backbone(name, mirror=mirror)
            elsewhere = None if run.elsewhere is None else run.elsewhere(backbone)
            embedder = Embedder(backbone, elsewhere=elsewhere)
            if settings.trains_network:  # last, because importing a framework takes seconds
                (alone,) = backbone.parts  # TrainSettings refuses several
                network = open_network(alone.proto, alone.path, settings.engine)
    if embedder is not None:
        info, views = embedder.backbone.info, settings.views
        seconds = expected_seconds(files, embedder.backbone, views)
        run.progress.note(
            f"{files:,} files, {views} view{'s' * (views > 1)} each, {info.name} at {info.size} "
            f"px: about {seconds:.0f} s; photos seen before are quicker"
            + ("; each prediction will run the backbone twice" if info.mirror else "")
            + ("; then fine-tuning" if settings.trains_network else "")
        )
    return Opened(layout, embedder, network, corrections)


def _prepare(run: TrainingRun, opened: Opened) -> PreparedData:
    """Scan, split and clean the photos; write the manifest. Raises DatasetError."""
    settings = run.settings
    splitter = partial(split, seed=settings.seed)
    steps = Steps(splitter, corrections=opened.corrections, data=settings.data)
    data = prepare_data(
        opened.layout, opened.embedder, steps, progress=run.progress, timer=run.timer
    )
    for name in ("validation", "test"):
        if not data.parts[name]:
            counts = list(data.dataset.counts.items())[:10]
            dropped = settings.data is not None and settings.data.near_duplicates == "drop"
            raise DatasetError(
                f"no photo is left for {name}: each class needs at least three different photos, "
                "one each for train, validation and test (copies of one picture count once); there "
                f"are {', '.join(f'{label} {count}' for label, count in counts)}"
                + "; --near-duplicates drop kept one of nearly identical photos"
                * dropped
            )
    if settings.manifest is not None:
        write_manifest(data.with_none, settings.manifest)
    return data


def _learn(run: TrainingRun, data: PreparedData, opened: Opened) -> TrainedNetwork:
    """Find the head on cached features and fine-tune, or train from scratch."""
    if run.settings.from_scratch:
        with run.timer.measure("finetune"):
            return train_from_scratch(run, data)
    frozen = _find_head(run, data)
    if opened.network is None or frozen.search is None:
        return frozen
    with run.timer.measure("finetune"):
        return tune(run, data, opened.network, frozen.search)


def _find_head(run: TrainingRun, data: PreparedData) -> TrainedNetwork:
    """Search the head on the frozen backbone's cached features."""
    assert data.embedder is not None
    settings, labels = run.settings, data.labels
    backbone = data.embedder.backbone
    with run.timer.measure("embed"):
        train, held, tested = _features(run, data)
    known = (train, labels["train"], held, labels["validation"])
    options: dict[str, Any] = {"classes": len(data.classes), "seed": settings.seed}
    with run.timer.measure("head"):
        found = search(*known, fixed=settings.fixed, progress=run.progress, **options)
        best = found.best
        final = refit_head(found, *known, **options) if settings.refit else best.head
    graph = BackboneGraph.of(backbone)
    folds = crossfitted = unfamiliarity = None
    if not settings.trains_network:
        # On disk there are so many that thresholds are chosen on validation alone.
        folds = fold_photos(data, seed=settings.seed) if isinstance(train, np.ndarray) else None
        if graph.can_compare:
            with run.timer.measure("unfamiliarity"):
                unfamiliarity = _fit_unfamiliarity(run, data, train, (held, tested), folds)
        refused = unfamiliarity.chosen_on_refused if unfamiliarity else None
        with run.timer.measure("crossfit"):
            if isinstance(train, np.ndarray) and isinstance(held, np.ndarray):
                crossfitted = crossfit(
                    data, found, train, held, folds, refused=refused, seed=settings.seed
                )
    validated = logits_of(final, held)
    return TrainedNetwork(
        backbone_graph=graph,
        head=final,
        about=backbone.info.as_dict(),
        rule=backbone.info.rule,
        validation=logits_of(best.head, held),
        test=logits_of(final, tested),
        expected=validated[verification_rows(len(validated))],
        settings=search_settings(found),
        extra=carried(backbone.proto),
        fit=best,
        search=found,
        crossfitted=crossfitted,
        unfamiliarity=unfamiliarity,
    )


Features = npt.NDArray[np.float32] | StoredRows


def _features(run: TrainingRun, data: PreparedData) -> tuple[Features, Features, Features]:
    """Return the features of train (V, N, K), and of validation and test (N, K).

    Those that do not fit in memory are on disk, (1, N, K) for validation and test.
    """
    parts, views = data.parts, run.settings.views
    if data.fits_in_memory(views):
        train = data.features(parts["train"], views=views, progress=run.progress)
        held, tested = (data.features(parts[name])[0] for name in ("validation", "test"))
        return train, held, tested
    stored = data.stored_features(parts["train"], views=views, progress=run.progress)
    validation, test = (data.stored_features(parts[name]) for name in ("validation", "test"))
    return stored, validation, test


def _fit_unfamiliarity(
    run: TrainingRun,
    data: PreparedData,
    train: Features,
    held: tuple[Features, Features],
    folds: npt.NDArray[np.int64] | None,
) -> Fitted | None:
    """Fit on cached features of train; held are those of validation and test.

    Of features on disk, evenly spread photos of train are taken.
    """
    assert data.embedder is not None
    labels = data.labels["train"]
    if isinstance(train, StoredRows):
        rows = evenly_spread(len(labels), MOST_FITTED)
        known_rows = np.empty((len(rows), train.shape[2]), np.float32)
        train.take(rows, known_rows)
        labels = labels[rows]
    else:
        known_rows = train[0]
    taught, others = (
        data.features(some)[0] if some else known_rows[:0] for some in none_photos(data)
    )
    strangers = {
        kind: picture_features(pictures, data.embedder)
        for kind, pictures in draw_strangers().items()
    }
    known = Known(
        known_rows,
        labels,
        len(data.classes),
        taught,
        None if folds is None else folds[: len(known_rows)],
    )
    rows_of = (one.mapped()[0] if isinstance(one, StoredRows) else one for one in held)
    parts = dict(zip(("validation", "test"), rows_of, strict=True))
    return fit_unfamiliarity(
        known,
        parts,
        {**strangers, NONE_OF_THESE: others},
        refuse=run.settings.refuse,
        seed=run.settings.seed,
    )


@dataclass(frozen=True)
class _Tested:
    """Calibration, and the calibrated probabilities and scores of validation and test.

    judged: the photos that the threshold was chosen on.
    """

    temperature: float
    threshold: Threshold
    judged: Judged
    answers: Mapping[str, Probabilities]
    scores: Mapping[str, Scores]


def _test(run: TrainingRun, data: PreparedData, network: TrainedNetwork) -> _Tested:
    """Calibrate on validation, then score validation and, once, test."""
    with run.timer.measure("test"):
        run.progress.stage("test")
        labels = data.labels
        scale = temperature(network.validation, labels["validation"])
        answers = {
            "validation": softmax(network.validation / scale),
            "test": softmax(network.test / scale),
        }
        fitted = network.unfamiliarity
        refused = {name: fitted.refused(name) if fitted else None for name in answers}
        judged = network.crossfitted or Judged(
            labels["validation"], answers["validation"], refused=refused["validation"]
        )
        threshold = choose_threshold(
            judged.labels,
            judged.probabilities,
            run.settings.precision,
            crossfitted=judged.crossfitted,
            refused=judged.refused,
        )
        scores = {
            name: score(labels[name], rows, data.classes, threshold.value, refused[name])
            for name, rows in answers.items()
        }
    return _Tested(scale, threshold, judged, answers, scores)


def _describe(
    run: TrainingRun, data: PreparedData, network: TrainedNetwork, tested: _Tested
) -> ModelInfo:
    """Return the metadata of the model file."""
    settings, parts = run.settings, data.parts
    learned_from = parts["train"] + (parts["validation"] if settings.refit else ())
    learned_from += data.none.get("train", ())
    packages = ("tailorbird", "onnx", "numpy", "pillow")
    return ModelInfo(
        classes=data.classes,
        resize=network.rule,
        threshold=tested.threshold.value,
        temperature=tested.temperature,
        scores={name: value.as_dict() for name, value in tested.scores.items()},
        backbone=network.about,
        settings={
            "views_made": settings.views,
            "mirror": bool(network.about.get("mirror")),
            "precision": settings.precision,
            "refuse": settings.refuse,
            "refit": settings.refit,
            **_computed(data, network),
            **network.settings,
        },
        seed=settings.seed,
        data={
            "fingerprint": data.dataset.fingerprint,
            "splits": data.dataset.splits,
            "left_out": sum(not entry.is_folder for entry in data.left_out),
            "trained_on": digests(learned_from + data.none.get("train", ())),
            "chosen_on": digests(parts["validation"] + data.none.get("validation", ())),
            "threshold_reached": tested.threshold.reached,
            "promise": tested.threshold.as_dict(),
            **({"corrections": data.joined.as_dict()} if data.joined else {}),
        },
        unfamiliarity=network.unfamiliarity.as_dict() if network.unfamiliarity else {},
        versions={
            "python": platform.python_version(),
            "onnxruntime": runtime_version(),  # of whichever package contains it
            **{name: distributions.version(name) for name in packages},
        },
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        distributions=drift.distributions(
            tested.answers["validation"],
            network.unfamiliarity.scores["validation"] if network.unfamiliarity else None,
        ),
    )


def _write(run: TrainingRun, data: PreparedData, network: TrainedNetwork, info: ModelInfo) -> None:
    """Write the model file, verified on validation photos. Raises TrainingError, StorageError."""
    validation = data.parts["validation"]
    with run.timer.measure("write"):
        run.progress.stage("write")
        fitted = network.unfamiliarity
        graph = build(
            network.backbone_graph,
            network.head,
            info.temperature,
            fitted.score if fitted else None,
        )
        rows = verification_rows(len(validation))
        images = stacked_pixels([validation[index] for index in rows], network.rule)
        expected = softmax(network.expected / info.temperature)
        write(
            run.output,
            graph,
            info,
            images=images,
            expected=expected,
            unfamiliarity=fitted.scores["validation"][rows] if fitted else None,
            extra=network.extra,
            device=_computed_on(data, network),
        )
        if network.tuned is not None:
            delete_run(run)


def _computed(data: PreparedData, network: TrainedNetwork) -> dict[str, str]:
    """Return where the scores were measured, unless the CPU's features are the same."""
    if data.embedder is None or network.tuned is not None:
        return {}
    variants = {part.variant for part in data.embedder.backbone.parts} - {""}
    return {"computed_on": ", ".join(sorted(variants))} if variants else {}


def _computed_on(data: PreparedData, network: TrainedNetwork) -> Device:
    """Return where the expected probabilities come from; a framework computes as the CPU does."""
    if data.embedder is None or network.tuned is not None:
        return CPU
    return data.embedder.backbone.runner.now_on


def _result(
    run: TrainingRun, data: PreparedData, network: TrainedNetwork, tested: _Tested, info: ModelInfo
) -> TrainResult:
    """Return the result, once the model file is written."""
    answers = {
        name: Answers.of(
            ((sample.path, sample.name) for sample in data.parts[name]),
            data.labels[name],
            rows,
            network.unfamiliarity.scores[name] if network.unfamiliarity else None,
        )
        for name, rows in tested.answers.items()
    }
    return TrainResult(
        model=run.output,
        info=info,
        dataset=data.dataset,
        validation=tested.scores["validation"],
        test=tested.scores["test"],
        threshold=tested.threshold,
        unfamiliarity=network.unfamiliarity,
        fit=network.fit,
        search=network.search,
        left_out=data.left_out,
        seconds=run.timer.total(),
        embedded=data.embedder.embedded if data.embedder else 0,
        corrections=data.joined,
        answers=answers,
        tuned=network.tuned,
    )


def _judge_labels(run: TrainingRun, data: PreparedData, result: TrainResult) -> TrainResult:
    """Search for wrong labels in all splits, if the settings ask for it."""
    if not run.settings.judge_labels:
        return result
    judged = None
    with run.timer.measure("labels"):
        try:
            judged = judge_prepared(data, seed=run.settings.seed, progress=run.progress)
        except DatasetError as error:
            run.progress.note(f"labels were not judged: {error}")
    return replace(result, suspects=judged, seconds=run.timer.total())


def _advise(
    run: TrainingRun, photos: str | Path, tested: _Tested, result: TrainResult
) -> TrainResult:
    """Add what to do next, from the photos that the heads had not seen."""
    judged, settings = tested.judged, run.settings
    suspects = len(result.suspects.reported) if result.suspects else None
    if suspects is None and judged.crossfitted:
        suspects = int(reported(judged.probabilities, judged.labels).sum())
    measured = Trained(
        photos=str(photos),
        backbone=str(settings.backbone),
        frozen=not settings.trains_network,
        judged=score(judged.labels, judged.probabilities, result.info.classes, 0.0),
        test=result.test,
        threshold=result.threshold,
        counts=result.dataset.splits["train"],
        suspects=suspects,
    )
    return replace(result, advice=after_training(measured))


def _report(run: TrainingRun, result: TrainResult) -> TrainResult:
    """Write the report, if the settings ask for one."""
    settings = run.settings
    path = report_path(run.output, settings.report, settings.report_format)
    if path is None:
        return result
    with run.timer.measure("report"):
        run.progress.stage("report")
        written, problem = attempt(content_of(result), path, settings.report_format)
    return replace(result, report=written, report_error=problem, seconds=run.timer.total())
