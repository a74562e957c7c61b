"""The pipeline: scan -> split -> embed -> head -> calibrate -> test once -> model file."""

from __future__ import annotations

import base64
import datetime
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata as distributions
from pathlib import Path
from typing import Any

import numpy as np

from tailorbird.backbone import open_backbone
from tailorbird.backbone.catalogue import SHIPPED
from tailorbird.corrections import Joined, join, read_labelled
from tailorbird.dataset import Dataset, Sample, clean, scan, split, write_manifest
from tailorbird.dataset.layout import find
from tailorbird.errors import DatasetError, ImageError, SettingsError
from tailorbird.features import Embedder, expected_seconds, matrices_of
from tailorbird.head import Fit, HeadSettings, SearchResult, search
from tailorbird.head import refit as refit_head
from tailorbird.images import Pixels, ResizeRule, load
from tailorbird.label_errors import Suspects, judge
from tailorbird.metrics import Answers, Scores, Threshold, choose_threshold, score, softmax, temperature
from tailorbird.model.file import ModelInfo, write
from tailorbird.model.graph import build
from tailorbird.notebook import scores_html
from tailorbird.report import Content, Format, attempt, report_path
from tailorbird.watch import Clock, Silent, Watcher

VERIFIED_PHOTOS = 32
"""Validation photos the finished file is run on before it is kept."""

MOST_VIEWS = 32


@dataclass(frozen=True)
class LeftOut:
    """A photo that took no part, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class TrainResult:
    """What `train` did. `seconds` by stage, and their total; `fit` is the chosen head; `search.trials` all that were tried."""

    model: Path
    info: ModelInfo
    dataset: Dataset
    validation: Scores
    test: Scores
    threshold: Threshold
    fit: Fit
    search: SearchResult
    left_out: tuple[LeftOut, ...]
    seconds: dict[str, float]
    embedded: int
    answers: Mapping[str, Answers] = field(repr=False)
    """What the model says of the photos of `validation` and `test`."""
    report: Path | None = field(default=None)
    corrections: Joined | None = field(default=None)
    suspects: Suspects | None = field(default=None)
    """The labels, judged, where that was asked for."""
    report_error: str | None = field(default=None)
    """Why there is no report although one was wanted; the model is written and fine all the same."""

    def _repr_html_(self) -> str:
        where = f"; report: {self.report}" if self.report else ""
        return scores_html(self.test.as_dict(), "Test", f"model: {self.model}{where}")

    def as_dict(self) -> dict[str, Any]:
        """The object of `train --json`."""
        return {
            "model": str(self.model),
            "report": str(self.report) if self.report else None,
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
            "scores": {"validation": self.validation.as_dict(), "test": self.test.as_dict()},
            "settings": self.info.settings,
            "left_out": [entry.path for entry in self.left_out],
            "left_out_reasons": {entry.path: entry.reason for entry in self.left_out},
            "embedded": self.embedded,
            "backbone": self.info.backbone,
            "seed": self.info.seed,
            "corrections": self.corrections.as_dict() if self.corrections else None,
            "suspects": self.suspects.as_dict() if self.suspects else None,
        }


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
    watcher: Watcher | None = None,
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
        watcher: told about progress.

    Raises:
        SettingsError: an option outside its range; all of them together.
        DatasetError: nothing to learn from: no usable photo, fewer than two classes, too few photos.
        BackboneError: the backbone's file breaks the contract.
        StorageError: the disk is full or a folder cannot be written.
        TrainingError: the loss became non-finite, or the finished file disagreed with the pipeline.
    """
    watcher = watcher or Silent()
    output = Path(output)
    wanted = report_path(output, report, report_format)
    _check_settings(output, {"manifest": manifest, "report": wanted}, views, precision, seed)
    HeadSettings(**(fixed or {}))  # raises for a bad value before the long part begins
    clock = Clock()
    with clock.measure("open"):
        opened = open_backbone(backbone)
        embedder = Embedder(opened)
        folder = Path(corrections_photos) if corrections_photos is not None else None
        answered = read_labelled(str(corrections), folder) if corrections is not None else None
        files = len(find(photos).entries) + (len(answered.photos) if answered else 0)
    seconds = expected_seconds(files, opened, views)
    watcher.note(f"{files:,} files, {views} view{'s' * (views > 1)} each, {opened.info.name} at {opened.info.size} px: about {seconds:.0f} s; "
                 "photos seen before are quicker")  # fmt: skip

    with clock.measure("scan"):
        watcher.stage("scan", None)
        try:
            scanned = scan(photos, progress=watcher.advance, visitor=embedder)
        finally:
            embedder.flush()
    with clock.measure("split"):
        dataset, left_out = _prepare(scanned, seed)
    joined = None
    if answered is not None:
        with clock.measure("corrections"):
            watcher.stage("corrections", None)
            joined = join(dataset, answered, visitor=embedder, progress=watcher.advance)
            embedder.flush()
        dataset, left_out = joined.dataset, left_out + tuple(LeftOut(*entry) for entry in joined.left_out)
    if manifest is not None:
        write_manifest(dataset, manifest)
    parts = {
        name: [sample for sample in dataset.samples if sample.split == name] for name in ("train", "validation", "test")
    }
    classes = tuple(sorted({sample.label for sample in parts["train"]}))
    with clock.measure("embed"):
        matrices = matrices_of(opened, embedder, parts, views, watcher)
    labels = {
        name: np.array([classes.index(sample.label) for sample in part], np.int64) for name, part in parts.items()
    }

    with clock.measure("head"):
        watcher.stage("head", None)
        found = search(
            matrices["train"],
            labels["train"],
            matrices["validation"][0],
            labels["validation"],
            classes=len(classes),
            fixed=dict(fixed or {}),
            seed=seed,
            progress=watcher.advance,
        )
        best = found.best
        final = best.head
        if refit:
            parts_known = (matrices["train"], labels["train"], matrices["validation"][0], labels["validation"])
            final = refit_head(found, *parts_known, classes=len(classes), seed=seed)
    with clock.measure("test"):
        watcher.stage("test", None)
        logits = best.head.logits(matrices["validation"][0])
        scale = temperature(logits, labels["validation"])
        validated = softmax(logits / scale)
        threshold = choose_threshold(labels["validation"], validated, precision)
        answers = {"validation": validated, "test": softmax(final.logits(matrices["test"][0]) / scale)}
        scores = {name: score(labels[name], rows, classes, threshold.value) for name, rows in answers.items()}
        kept = {
            name: Answers.of(((sample.path, sample.name) for sample in parts[name]), labels[name], rows)
            for name, rows in answers.items()
        }

    info = ModelInfo(
        classes=classes,
        resize=opened.info.rule,
        threshold=threshold.value,
        temperature=scale,
        scores={name: value.as_dict() for name, value in scores.items()},
        backbone=opened.info.as_dict(),
        settings={
            "views_made": views,
            "precision": precision,
            "refit": refit,
            **_plain(asdict(best.settings)),
            "blend": [_plain(asdict(member.settings)) for member in found.members],
        },
        seed=seed,
        data={
            "fingerprint": dataset.fingerprint,
            "splits": dataset.splits,
            "left_out": len(left_out),
            "trained_on": trained_on(sample.digest for sample in parts["train"] + parts["validation"] * refit),
            "threshold_reached": threshold.reached,
            **({"corrections": joined.as_dict()} if joined else {}),
        },
        versions=_versions(),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    with clock.measure("write"):
        watcher.stage("write", None)
        graph = build(opened, final, scale)
        chosen = np.unique(np.linspace(0, len(parts["validation"]) - 1, VERIFIED_PHOTOS).round().astype(int))
        images = np.stack([_pixels(parts["validation"][i], opened.info.rule) for i in chosen])
        expected = softmax(final.logits(matrices["validation"][0][chosen]) / scale)
        write(output, graph, info, images=images, expected=expected)
    result = TrainResult(
        model=output,
        info=info,
        dataset=dataset,
        validation=scores["validation"],
        test=scores["test"],
        threshold=threshold,
        fit=best,
        search=found,
        left_out=left_out,
        seconds=clock.total(),
        embedded=embedder.embedded,
        corrections=joined,
        answers=kept,
    )
    if judge_labels:
        with clock.measure("labels"):
            result = replace(result, suspects=_judged(dataset, embedder, seed, watcher), seconds=clock.total())
    if wanted is None:
        return result
    with clock.measure("report"):
        watcher.stage("report", None)
        written, problem = attempt(_content(result), wanted, report_format)
    return replace(result, report=written, report_error=problem, seconds=clock.total())


def _judged(dataset: Dataset, embedder: Embedder, seed: int, watcher: Watcher) -> Suspects | None:
    """The labels of all splits, judged; None, with a note, where the classes are too small for it."""
    watcher.stage("labels", None)
    features = embedder.matrix([bytes.fromhex(sample.digest) for sample in dataset.samples])
    name = embedder.backbone.info.name
    try:
        return judge(
            dataset, features, backbone=name, seed=seed, progress=lambda _, done, total: watcher.advance(done, total)
        )
    except DatasetError as error:
        watcher.note(f"labels were not judged: {error}")
        return None


def _content(result: TrainResult) -> Content:
    return Content(
        kind="training",
        model=result.model,
        info=result.info,
        headline="test",
        scores={"test": result.test, "validation": result.validation},
        answers=result.answers["test"],
        dataset=result.dataset,
        left_out=tuple((entry.path, entry.reason) for entry in result.left_out),
        search=result.search,
        threshold=result.threshold,
        suspects=result.suspects,
    )


def trained_on(digests: Iterable[str]) -> str:
    """What a model remembers of its training photos, to warn when it is scored on them: the first 6 bytes of each SHA-256, base64."""
    return base64.b64encode(b"".join(sorted(bytes.fromhex(digest)[:6] for digest in digests))).decode()


def _pixels(sample: Sample, rule: ResizeRule) -> Pixels:
    """A validation photo, read again to check the finished file on."""
    try:
        return load(sample.path, rule)
    except ImageError as error:
        raise type(error)(f"{sample.path}: {error}; it was fine when the dataset was scanned; run again") from None


def _check_settings(
    output: Path, others: Mapping[str, str | Path | None], views: int, precision: float, seed: int
) -> None:
    problems = []
    if output.suffix != ".onnx":
        problems.append(f"the model file is {output.name!r}; its name must end in .onnx")
    if output.is_dir():
        problems.append(f"{output} is a folder; give the name of a file")
    files = {"model": output, **{name: Path(path) for name, path in others.items() if path is not None}}
    for name, path in files.items():
        parent = next(folder for folder in path.absolute().parents if folder.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK):
            problems.append(f"the {name} {path} cannot be written: {parent} is not a folder this user may write to")
    manifest, report = files.get("manifest"), files.get("report")
    if manifest is not None and (manifest.suffix.lower() != ".csv" or manifest.is_dir()):
        problems.append(f"the manifest is {str(manifest)!r}; give the name of a .csv file")
    if report is not None and (report.is_dir() or report.suffix.lower() in (".onnx", ".csv")):
        problems.append(f"the report is {str(report)!r}; give the name of a file such as shop.report.html")
    if not 1 <= views <= MOST_VIEWS:
        problems.append(f"views is {views}; it must be between 1 and {MOST_VIEWS}")
    if not 0.5 <= precision <= 1:
        problems.append(f"precision is {precision}; it must be between 0.5 and 1")
    if not 0 <= seed < 2**32:
        problems.append(f"seed is {seed}; it must be between 0 and 4294967295")
    if problems:
        raise SettingsError("; ".join(problems))


def _prepare(scanned: Dataset, seed: int) -> tuple[Dataset, tuple[LeftOut, ...]]:
    """Splits made, held-out sets clean, only classes that can be learned. Raises DatasetError when nothing is left to learn."""
    if len(scanned.classes) < 2:
        raise DatasetError(
            f"all usable photos carry the single label {scanned.classes[0]!r}; a classifier needs at least two classes: "
            "put the photos of each class into a folder of its own"
        )
    dataset, dropped = clean(split(scanned, seed=seed))
    left_out = [
        LeftOut(path, finding.message)
        for finding in scanned.findings
        if finding.kind in _UNUSABLE
        for path in finding.paths
    ]
    left_out += [LeftOut(name, "excluded in a review") for name in scanned.excluded]
    left_out += [LeftOut(sample.name, reason) for sample, reason in dropped]
    learned = {sample.label for sample in dataset.samples if sample.split == "train"}
    kept: list[tuple[Sample, int]] = []
    for sample, group in zip(dataset.samples, dataset.groups, strict=True):
        if sample.label in learned:
            kept.append((sample, group))
        else:
            left_out.append(LeftOut(sample.name, f"class {sample.label!r} has no photo in train"))
    dataset = replace(dataset, samples=tuple(sample for sample, _ in kept), groups=tuple(group for _, group in kept))
    if len(learned) < 2:
        raise DatasetError(
            f"photos to train on are left in {len(learned)} of {len(scanned.classes)} classes; at least two are needed"
        )
    for name in ("validation", "test"):
        if not any(sample.split == name for sample in dataset.samples):
            raise DatasetError(
                f"no photo is left for {name}: each class needs at least three different photos, one each for train, validation and test "
                "(copies of one picture count once); "
                f"there are {', '.join(f'{label} {count}' for label, count in list(dataset.counts.items())[:10])}"
            )
    return dataset, tuple(left_out)


_UNUSABLE = frozenset({"unreadable", "unsupported", "too-large", "outside-link"})


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """Tuples as lists, as JSON has it."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}


def _versions() -> dict[str, str]:
    packages = ("tailorbird", "onnxruntime", "onnx", "numpy", "pillow")
    return {"python": platform.python_version(), **{name: distributions.version(name) for name in packages}}
