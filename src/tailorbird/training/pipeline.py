"""The pipeline: scan -> split -> embed -> head -> (fine-tune) -> calibrate -> test once -> model file."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from importlib import metadata as distributions
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tailorbird.backbone import Backbone, open_backbone
from tailorbird.backbone.catalogue import SHIPPED
from tailorbird.backbone.catalogue import find as find_backbone
from tailorbird.corrections import read_labelled
from tailorbird.corrections.database import locate
from tailorbird.dataset import pixels_of, split, write_manifest
from tailorbird.dataset.layout import find
from tailorbird.engines.finetune.settings import FROM_SCRATCH, FinetuneSettings
from tailorbird.engines.registry import SCRATCH, carried, open_network
from tailorbird.errors import DatasetError
from tailorbird.features import Embedder, expected_seconds
from tailorbird.head import HeadSettings, search
from tailorbird.head import refit as refit_head
from tailorbird.label_errors import Suspects, judge_prepared
from tailorbird.metrics.calibration import softmax, temperature
from tailorbird.metrics.scores import Answers, score
from tailorbird.metrics.thresholds import choose_threshold
from tailorbird.model.file import write
from tailorbird.model.graph import BackboneGraph, build
from tailorbird.model.metadata import ModelInfo
from tailorbird.preparation import PreparedData, Steps, prepare_data
from tailorbird.progress import NoProgress, Progress, StageTimer
from tailorbird.report import Format, attempt, report_path
from tailorbird.training import tuning
from tailorbird.training.checks import check_settings
from tailorbird.training.learned import Learned, search_settings
from tailorbird.training.result import TrainResult, content_of, trained_on

VERIFIED_PHOTOS = 32
"""Validation photos the finished file is run on before it is kept."""


def train(
    photos: str | Path,
    output: str | Path,
    *,
    backbone: str | Path = SHIPPED,
    views: int = 1,
    fixed: Mapping[str, Any] | None = None,
    refit: bool = False,
    precision: float = 0.95,
    seed: int = 0,
    manifest: str | Path | None = None,
    corrections: str | Path | None = None,
    corrections_photos: str | Path | None = None,
    report: str | Path | bool = True,
    report_format: Format = "html",
    judge_labels: bool = False,
    engine: str | None = None,
    finetune: FinetuneSettings | None = None,
    progress: Progress | None = None,
) -> TrainResult:
    """Train a classifier on a folder or CSV of labelled photos and write it as one ONNX file.

    Args:
        photos: class folders, split/class folders, or a CSV `path,label[,split]`.
        output: the model file to write, `.onnx`; an existing one is replaced only by a finished and verified one.
        backbone: a name at hand or the path of an .onnx file.
        views: views of each training photo, 1 to MOST_VIEWS; the first is the photo itself, the others are augmented.
        fixed: fields of HeadSettings that are not to be searched.
        refit: once everything is chosen and calibrated, train the final head on train and validation together; the validation
            scores are then those of the head before.
        precision: what the answers above the "unsure below" threshold should reach on validation, 0.5 to 1.
        seed: of the split, the search and the fit.
        manifest: also write the split that was used, as a CSV that can be trained on again.
        corrections: a database of corrections; its kept photos, labelled as people answered, join the training photos.
        corrections_photos: the folder of these photos; by default the one beside an SQLite file, `shop.photos` for `shop.db`.
        report: True writes a report beside the model (shop.onnx, shop.report.html), False none; or the file to write. A report that
            cannot be written costs no model: the result's `report_error` says why.
        report_format: html (a page that holds all it needs), markdown (a model card) or json (the numbers).
        judge_labels: also look for photos whose label is probably wrong and show them in the report; the model is the same.
        engine: the framework that fine-tunes, keras; None takes the one that exported the backbone.
        finetune: after the head is found on cached features, also train the backbone so; None leaves it as it is. With the backbone
            `cnn` a small network is trained from scratch instead, by these settings or the default ones. An interrupted run goes on
            where it was when the same command is given again.
        progress: receives stages, steps, notes and metrics.

    Raises:
        SettingsError: an option outside its range; all of them together.
        DatasetError: nothing to learn from: no usable photo, fewer than two classes, too few photos.
        BackboneError: the backbone's file breaks the contract.
        StorageError: the disk is full or a folder cannot be written.
        TrainingError: the loss became non-finite, or the finished file disagreed with the pipeline.
        MissingExtra: the framework is not installed.
    """
    progress = progress or NoProgress()
    output = Path(output)
    wanted = report_path(output, report, report_format)
    scratch = str(backbone) == SCRATCH
    tunes = scratch or finetune is not None
    check_settings(
        output,
        {"manifest": manifest, "report": wanted},
        {
            "dataset": photos,
            "backbone": None if scratch else find_backbone(backbone),
            "corrections": locate(str(corrections)).path if corrections else None,
            "folder of kept photos": corrections_photos,
        },
        views,
        precision,
        seed,
        without_features=scratch,
        tunes=tunes,
        refit=refit,
        judge_labels=judge_labels,
        engine=engine,
        sizes=finetune.sizes if finetune else None,
        inner="inner" in (fixed or {}),
    )
    HeadSettings(**(fixed or {}))  # raises for a bad value before the long part begins
    timer = StageTimer()
    network, embedder = None, None
    with timer.measure("open"):
        folder = Path(corrections_photos) if corrections_photos is not None else None
        answered = read_labelled(str(corrections), folder) if corrections is not None else None
        files = len(find(photos).entries) + (len(answered.photos) if answered else 0)
        if not scratch:
            opened = open_backbone(backbone)
            embedder = Embedder(opened)
            if tunes:  # last, because importing a framework takes seconds
                network = open_network(opened.proto, opened.path, engine)
    if embedder is not None:
        info = embedder.backbone.info
        seconds = expected_seconds(files, embedder.backbone, views)
        progress.note(f"{files:,} files, {views} view{'s' * (views > 1)} each, {info.name} at {info.size} px: about {seconds:.0f} s; "
                     "photos seen before are quicker" + ("; then fine-tuning" if tunes else ""))  # fmt: skip

    steps = Steps(partial(split, seed=seed), corrections=answered)
    data = prepare_data(photos, embedder, steps, progress=progress, timer=timer)
    _complete(data)
    if manifest is not None:
        write_manifest(data.dataset, manifest)
    parts, labels, classes = data.parts, data.labels, data.classes
    # Spread over the classes, which the photos are sorted by.
    verified = np.unique(
        np.linspace(0, len(parts["validation"]) - 1, VERIFIED_PHOTOS).round().astype(np.int64)
    )
    tuning_of: dict[str, Any] = {
        "classes": len(classes), "output": output, "seed": seed, "verified": verified, "progress": progress
    }  # fmt: skip
    if embedder is None:
        with timer.measure("finetune"):
            learned = tuning.train_from_scratch(
                engine, parts, labels, finetune or FROM_SCRATCH, **tuning_of
            )
    else:
        learned, features = _frozen(
            embedder, data, views, fixed or {}, refit, seed, verified, timer, progress
        )
        if network is not None and finetune is not None and learned.search is not None:
            with timer.measure("finetune"):
                learned = tuning.tune(
                    network,
                    embedder.backbone,
                    parts,
                    labels,
                    features,
                    learned.search,
                    finetune,
                    **tuning_of,
                )

    with timer.measure("test"):
        progress.stage("test")
        scale = temperature(learned.validation, labels["validation"])
        validated = softmax(learned.validation / scale)
        threshold = choose_threshold(labels["validation"], validated, precision)
        answers = {"validation": validated, "test": softmax(learned.test / scale)}
        scores = {
            name: score(labels[name], rows, classes, threshold.value)
            for name, rows in answers.items()
        }
        kept = {
            name: Answers.of(
                ((sample.path, sample.name) for sample in parts[name]), labels[name], rows
            )
            for name, rows in answers.items()
        }

    model = ModelInfo(
        classes=classes,
        resize=learned.rule,
        threshold=threshold.value,
        temperature=scale,
        scores={name: value.as_dict() for name, value in scores.items()},
        backbone=learned.about,
        settings={"views_made": views, "precision": precision, "refit": refit, **learned.settings},
        seed=seed,
        data={
            "fingerprint": data.dataset.fingerprint,
            "splits": data.dataset.splits,
            "left_out": len(data.left_out),
            "trained_on": trained_on(
                sample.digest for sample in parts["train"] + parts["validation"] * refit
            ),
            "threshold_reached": threshold.reached,
            **({"corrections": data.joined.as_dict()} if data.joined else {}),
        },
        versions=_versions(),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    with timer.measure("write"):
        progress.stage("write")
        graph = build(learned.backbone_graph, learned.head, scale)
        images = np.stack(
            [pixels_of(parts["validation"][index], learned.rule) for index in verified]
        )
        expected = softmax(learned.expected / scale)
        write(output, graph, model, images=images, expected=expected, extra=learned.extra)
        if learned.tuned is not None:
            tuning.finished(output)
    result = TrainResult(
        model=output,
        info=model,
        dataset=data.dataset,
        validation=scores["validation"],
        test=scores["test"],
        threshold=threshold,
        fit=learned.fit,
        search=learned.search,
        left_out=data.left_out,
        seconds=timer.total(),
        embedded=embedder.embedded if embedder else 0,
        corrections=data.joined,
        answers=kept,
        tuned=learned.tuned,
    )
    if judge_labels and embedder is not None:
        with timer.measure("labels"):
            judged = _judged(data, seed, progress)
        result = replace(result, suspects=judged, seconds=timer.total())
    if wanted is None:
        return result
    with timer.measure("report"):
        progress.stage("report")
        written, problem = attempt(content_of(result), wanted, report_format)
    return replace(result, report=written, report_error=problem, seconds=timer.total())


def _complete(data: PreparedData) -> None:
    """Raise DatasetError where a split has no photo."""
    for name in ("validation", "test"):
        if not data.parts[name]:
            counts = list(data.dataset.counts.items())[:10]
            raise DatasetError(
                f"no photo is left for {name}: each class needs at least three different photos, "
                "one each for train, validation and test (copies of one picture count once); there "
                f"are {', '.join(f'{label} {count}' for label, count in counts)}"
            )


def _frozen(
    embedder: Embedder,
    data: PreparedData,
    views: int,
    fixed: Mapping[str, Any],
    refit: bool,
    seed: int,
    verified: npt.NDArray[np.int64],
    timer: StageTimer,
    progress: Progress,
) -> tuple[Learned, npt.NDArray[np.float32]]:
    """The head found on cached features, and those of the training photos, float32 (N, K)."""
    backbone: Backbone = embedder.backbone
    parts, labels, classes = data.parts, data.labels, len(data.classes)
    with timer.measure("embed"):
        matrices = {
            name: data.features(part, views=views if name == "train" else 1, progress=progress)
            for name, part in parts.items()
        }
    held = matrices["validation"][0]
    with timer.measure("head"):
        known = (matrices["train"], labels["train"], held, labels["validation"])
        found = search(*known, classes=classes, fixed=dict(fixed), seed=seed, progress=progress)
        best = found.best
        final = refit_head(found, *known, classes=classes, seed=seed) if refit else best.head
    learned = Learned(
        backbone_graph=BackboneGraph.of(backbone),
        head=final,
        about=backbone.info.as_dict(),
        rule=backbone.info.rule,
        validation=best.head.logits(held),
        test=final.logits(matrices["test"][0]),
        verified=verified,
        expected=final.logits(held[verified]),
        settings=search_settings(found),
        extra=carried(backbone.proto),
        fit=best,
        search=found,
    )
    return learned, matrices["train"][0]


def _judged(data: PreparedData, seed: int, progress: Progress) -> Suspects | None:
    """Judge the labels of all splits; return None, with a note, where the classes are too small."""
    try:
        return judge_prepared(data, seed=seed, progress=progress)
    except DatasetError as error:
        progress.note(f"labels were not judged: {error}")
        return None


def _versions() -> dict[str, str]:
    packages = ("tailorbird", "onnxruntime", "onnx", "numpy", "pillow")
    return {
        "python": platform.python_version(),
        **{name: distributions.version(name) for name in packages},
    }
