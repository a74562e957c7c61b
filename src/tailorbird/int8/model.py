"""`export --to int8`: a model file to int8, calibrated anew and scored on its own photos."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tailorbird import onnx_files
from tailorbird.dataset import Dataset, DataSettings, Sample, listed_photos, split, stacked_pixels
from tailorbird.errors import DatasetError, ModelFileError, SettingsError
from tailorbird.evaluation import trained_on
from tailorbird.head import Head
from tailorbird.inference import Runner, speeds
from tailorbird.int8.figures import AccuracyLost, Figures, Precision, calibrated
from tailorbird.metrics import drift
from tailorbird.metrics.calibration import Probabilities, softmax, temperature
from tailorbird.metrics.refusals import choose_refusal
from tailorbird.metrics.scores import Scores, score
from tailorbird.metrics.thresholds import choose_threshold
from tailorbird.model import Classifier, ModelInfo
from tailorbird.model.file import write
from tailorbird.model.fitting import REFUSE
from tailorbird.model.graph import BackboneGraph, build, take_apart
from tailorbird.model.unfamiliarity import Unfamiliarity
from tailorbird.preparation import PreparedData, Steps, prepare_data
from tailorbird.progress import NoProgress, Progress
from tailorbird.training.network import run_network, verification_rows
from tailorbird.validation import Problems

PRECISION = 0.95
"""Target precision above the confidence threshold where the model file states none."""


@dataclass(frozen=True)
class QuantisedModel:
    """A model file as int8 beside the float32 one it was made from.

    Attributes:
        path: The int8 file; None where int8 was refused.
        source: The float32 file.
        figures: Accuracy on all scored photos, speed and size of both.
        scores: Of the int8 model, by split: validation (unless it was trained on) and test.
        float32_scores: Of the float32 model on the same photos.
        temperature, threshold: Chosen anew on validation.
        calibrated_on: Number of photos on which ranges were measured.
        left_out: Photos that could not be used, and why.
        notes: Sentences for people.
    """

    path: Path | None
    source: Path
    figures: Figures
    scores: Mapping[str, Scores]
    float32_scores: Mapping[str, Scores]
    temperature: float
    threshold: float
    calibrated_on: int
    left_out: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the fields of `export --to int8 --json`."""
        return {
            "output": str(self.path) if self.path else None,
            **self.figures.as_dict(),
            "scores": {name: found.as_dict() for name, found in self.scores.items()},
            "float32_scores": {
                name: found.as_dict() for name, found in self.float32_scores.items()
            },
            "temperature": self.temperature,
            "threshold": self.threshold,
            "calibrated_on": self.calibrated_on,
            "left_out": [{"path": path, "reason": reason} for path, reason in self.left_out],
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class _Photos:
    """Photos of the model's classes.

    known: those with the splits of `train`. scored: by split, validation and test photos that the
    model was not trained on. others: the rest.
    """

    known: PreparedData
    others: tuple[Sample, ...]
    scored: Mapping[str, tuple[Sample, ...]]
    notes: tuple[str, ...]


def quantise_model(
    model_file: str | Path,
    photos: str | Path | None,
    output: str | Path | None = None,
    *,
    data: DataSettings | None = None,
    progress: Progress | None = None,
) -> QuantisedModel:
    """Write a model file as int8 if it loses little accuracy.

    The photos are split as `train` split them. Ranges are measured on photos the model was trained
    on; temperature and confidence threshold are chosen anew on its validation photos; it is scored
    on validation and test, without photos it was trained on. Head and heat maps stay in float32.

    Args:
        model_file: The float32 model file, also a fine-tuned or imported one.
        photos: The photos it was trained on, or others of its classes.
        output: The file to write; by default NAME.int8.onnx for NAME.onnx.
        data: How the folder or CSV is read.
        progress: Receives the stages `scan`, `calibrate`, `score` and `write`.

    Raises:
        AccuracyLost: int8 loses more than MOST_LOST of accuracy; nothing is written.
        ModelFileError: The model file cannot be used, or is quantised already.
        DatasetError: No photos are left to score.
        SettingsError: No photos; an output that cannot be written.
        TrainingError: The finished file disagrees with the pipeline.
        StorageError: The disk is full.
    """
    if photos is None:
        raise SettingsError(
            "int8 needs the photos the model was trained on, to calibrate and score on: "
            "--photos PHOTOS"
        )
    progress, source = progress or NoProgress(), Path(model_file)
    target = Path(output) if output is not None else source.with_suffix(".int8.onnx")
    with Problems() as problems:
        problems.ending("model file", target, ".onnx")
        problems.outputs(
            {"model file": target},
            inputs={"float32 model": source, "dataset": photos},
            photos=listed_photos(photos, data),
            make_folders=True,
        )
    if output is None and target.exists():
        raise SettingsError(f"{target} exists already; name the file to write: -o NAME.onnx")
    classifier = Classifier(source, device="cpu")
    backbone_graph, head, unfamiliarity = take_apart(
        onnx_files.read_audited(source, ModelFileError), str(source)
    )
    found = _photos(classifier, photos, data, progress)
    rule = classifier.info.resize
    measured = found.others or next(iter(found.scored.values()))
    graph, calibrated_on = calibrated(backbone_graph.proto, measured, rule, str(source), progress)
    int8_graph = replace(backbone_graph, proto=graph)
    network = _Network((backbone_graph, int8_graph), head, unfamiliarity)
    scored = _score(classifier.info, network, found, progress)
    info = _described(classifier.info, scored, source, calibrated_on)
    content = build(int8_graph, head, info.temperature, unfamiliarity)
    result = QuantisedModel(
        None,
        source,
        _figures(scored, found, network, info, source),
        scored.int8,
        scored.float32,
        info.temperature,
        info.threshold,
        calibrated_on,
        found.known.left_out,
        found.notes,
    )
    if result.figures.refused:
        names = " and ".join(found.scored)
        raise AccuracyLost(result, f"on the photos of {names}")
    progress.stage("write")
    samples = found.scored.get("validation") or found.scored["test"]
    images = stacked_pixels([samples[i] for i in verification_rows(len(samples))], rule)
    features = Runner(graph, str(target), ModelFileError).run(images, ["features"])[0]
    expected = softmax(head.logits(features) / info.temperature)
    strange = unfamiliarity.scores(int8_graph.to_compare(features)) if unfamiliarity else None
    write(target, content, info, images=images, expected=expected, unfamiliarity=strange)
    return replace(result, path=target)


def _photos(
    classifier: Classifier, photos: str | Path, data: DataSettings | None, progress: Progress
) -> _Photos:
    """Split the photos as `train` did, and tell apart those that the model was trained on.

    Raises DatasetError.
    """
    info = classifier.info
    seed = info.seed if 0 <= info.seed < 2**32 else 0
    known = prepare_data(
        photos,
        steps=Steps(partial(_split, seed=seed), info.classes, data=data),
        progress=progress,
    )
    learned = trained_on(classifier)
    samples = known.dataset.samples

    def is_seen(sample: Sample) -> bool:
        return bytes.fromhex(sample.digest)[:6] in learned

    scored = {
        name: tuple(sample for sample in known.parts[name] if not is_seen(sample))
        for name in ("validation", "test")
    }
    others = tuple(sample for sample in samples if is_seen(sample) or sample.split == "train")
    notes = []
    if not scored["test"]:
        raise DatasetError(
            f"{photos} has no photo of the model's classes that it was not trained on and that is "
            "left for test; give the photos it was trained on, with their test photos, or others"
        )
    if not scored["validation"]:
        del scored["validation"]
        notes.append(
            "the model was trained on all validation photos (as with --refit), or there are none, "
            "so its temperature and confidence threshold are kept"
        )
    fingerprint = info.data.get("fingerprint")
    if fingerprint and fingerprint != known.dataset.fingerprint:
        notes.append(
            "these are not exactly the photos the model was trained on; those it was trained on "
            "are not scored"
        )
    return _Photos(known, others, scored, tuple(notes))


def _split(dataset: Dataset, *, seed: int) -> Dataset:
    """Split photos as `train` does; folders without training photos keep their splits."""
    present = {sample.split for sample in dataset.samples}
    return split(dataset, seed=seed) if present & {"train", None} else dataset


@dataclass(frozen=True)
class _Network:
    """The float32 and the int8 backbone, and what both share."""

    graphs: tuple[BackboneGraph, BackboneGraph]
    head: Head
    unfamiliarity: Unfamiliarity | None


@dataclass(frozen=True)
class _Scored:
    """Probabilities and scores of both models by split, and the new calibration."""

    temperature: float
    threshold: float
    reached: bool | None
    refusal: dict[str, Any]
    unfamiliarity: Mapping[str, npt.NDArray[np.float32]]
    labels: Mapping[str, npt.NDArray[np.int64]]
    float32_rows: Mapping[str, Probabilities]
    int8_rows: Mapping[str, Probabilities]
    float32: Mapping[str, Scores]
    int8: Mapping[str, Scores]


@dataclass(frozen=True)
class _Judged:
    """One model's view of the photos, by split.

    unfamiliarity: empty where the model has none. refusal: for the metadata.
    """

    logits: Mapping[str, npt.NDArray[np.float32]]
    unfamiliarity: Mapping[str, npt.NDArray[np.float32]]
    refusal: dict[str, Any]

    def refused(self, name: str) -> npt.NDArray[np.bool_] | None:
        """Return which photos of a split are refused, bool (N,)."""
        limit = self.refusal.get("threshold")
        scores = self.unfamiliarity.get(name)
        return None if limit is None or scores is None else scores > limit


def _judge(info: ModelInfo, network: _Network, which: int, found: _Photos) -> _Judged:
    """Run one of the two models on the photos; int8 chooses its threshold to refuse anew.

    The prototypes stay, but the features of int8 differ a little.
    """
    seen = {
        name: run_network(network.graphs[which], network.head, samples, info.resize)
        for name, samples in found.scored.items()
    }
    logits = {name: one.logits for name, one in seen.items()}
    if network.unfamiliarity is None:
        return _Judged(logits, {}, info.unfamiliarity)
    scores = {name: network.unfamiliarity.scores(one.compared) for name, one in seen.items()}
    refusal = info.unfamiliarity
    if which and "validation" in scores:
        share = refusal.get("wanted")
        wanted = share if isinstance(share, float) and 0 < share < 1 else REFUSE
        refusal = {**refusal, **choose_refusal(scores["validation"], wanted).as_dict()}
    return _Judged(logits, scores, refusal)


def _score(info: ModelInfo, network: _Network, found: _Photos, progress: Progress) -> _Scored:
    """Calibrate int8 on validation and score both on the same photos."""
    progress.stage("score")
    labels = {name: found.known.numbers(samples) for name, samples in found.scored.items()}
    float32, int8 = (_judge(info, network, which, found) for which in (0, 1))
    before = {name: softmax(rows / info.temperature) for name, rows in float32.logits.items()}
    scale, threshold, reached = info.temperature, info.threshold, None
    if "validation" in labels:
        scale = temperature(int8.logits["validation"], labels["validation"])
    after = {name: softmax(rows / scale) for name, rows in int8.logits.items()}
    if "validation" in labels:
        precision = info.settings.get("precision") or PRECISION
        chosen = choose_threshold(
            labels["validation"],
            after["validation"],
            precision,
            refused=int8.refused("validation"),
        )
        threshold, reached = chosen.value, chosen.reached
    return _Scored(
        scale,
        threshold,
        reached,
        int8.refusal,
        int8.unfamiliarity,
        labels,
        before,
        after,
        {
            name: score(labels[name], rows, info.classes, info.threshold, float32.refused(name))
            for name, rows in before.items()
        },
        {
            name: score(labels[name], rows, info.classes, threshold, int8.refused(name))
            for name, rows in after.items()
        },
    )


def _described(info: ModelInfo, scored: _Scored, source: Path, photos: int) -> ModelInfo:
    """Return the metadata of the int8 model."""
    reached = {} if scored.reached is None else {"threshold_reached": scored.reached}
    first = next(iter(scored.int8_rows))
    return replace(
        info,
        threshold=scored.threshold,
        temperature=scored.temperature,
        unfamiliarity=scored.refusal,
        scores={name: found.as_dict() for name, found in scored.int8.items()},
        settings={
            **info.settings,
            "quantised": {"from": source.name, "weights": "int8", "calibrated_on": photos},
        },
        data={**info.data, **reached},
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        self_test=(),
        distributions=drift.distributions(scored.int8_rows[first], scored.unfamiliarity.get(first)),
    )


def _figures(
    scored: _Scored,
    found: _Photos,
    network: _Network,
    info: ModelInfo,
    source: Path,
) -> Figures:
    """Compare both on all scored photos together, and measure their speed in turns."""
    truth = np.concatenate(list(scored.labels.values()))
    before, after = (
        np.concatenate([rows.argmax(axis=1) for rows in answers.values()])
        for answers in (scored.float32_rows, scored.int8_rows)
    )
    models = [
        build(graph, network.head, info.temperature, network.unfamiliarity)
        for graph in network.graphs
    ]
    runners = [Runner(model, str(source), ModelFileError) for model in models]
    images = stacked_pixels(found.scored["test"][:8], info.resize)
    slow, fast = speeds(runners, images, ["probabilities"])
    return Figures(
        Precision(float(np.mean(before == truth)), slow, source.stat().st_size),
        Precision(float(np.mean(after == truth)), fast, models[1].ByteSize()),
        float(np.mean(before == after)),
    )
