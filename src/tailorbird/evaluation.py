"""Score a model file on labelled photos."""

from __future__ import annotations

import base64
import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from tailorbird import parallel
from tailorbird.dataset import SPLITS, DataSettings, listed_photos, printable
from tailorbird.dataset.layout import Entry, Layout, find
from tailorbird.errors import DatasetError, ImageError, SettingsError
from tailorbird.images import read_bytes
from tailorbird.metrics.scores import Answers, Scores, score
from tailorbird.model import Classifier, Failure, Prediction
from tailorbird.progress import NoProgress, Progress
from tailorbird.rendering.notebook import scores_html
from tailorbird.report import Content, Format, attempt, report_path
from tailorbird.validation import Problems


@dataclass(frozen=True)
class Mistake:
    """One photo the model got wrong: its label, the model's answer and that answer's probability."""

    path: str
    label: str
    predicted: str
    probability: float


@dataclass(frozen=True)
class Evaluation:
    """Scores, every mistake (the surest first), and the photos that could not be scored with the reason."""

    scores: Scores
    split: str | None
    trained_on: int
    """How many of the scored photos the model was trained on: their scores say nothing about new photos."""
    mistakes: tuple[Mistake, ...]
    left_out: tuple[tuple[str, str], ...]
    answers: Answers = field(repr=False)
    """What the model says of each scored photo."""
    report: Path | None = None
    report_error: str | None = None
    """Why there is no report although one was wanted."""

    def _repr_html_(self) -> str:
        where = f"report: {self.report}" if self.report else ""
        return scores_html(
            self.scores.as_dict(), f"Split {self.split}" if self.split else "All photos", where
        )

    def as_dict(self) -> dict[str, Any]:
        """The object of `evaluate --json`."""
        return {
            **self.scores.as_dict(),
            "split": self.split,
            "trained_on": self.trained_on,
            "mistakes": [vars(mistake).copy() for mistake in self.mistakes],
            "left_out": [{"path": path, "reason": reason} for path, reason in self.left_out],
            "report": str(self.report) if self.report else None,
        }


def evaluate(
    model: str | Path | Classifier,
    photos: str | Path,
    *,
    split: str | None = None,
    report: str | Path | bool = False,
    report_format: Format = "html",
    data: DataSettings | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Score a model on a folder or CSV of labelled photos.

    split: score this split only; by default `test` where the source has one, else every photo. Photos that cannot be
    read, and photos of classes the model does not know, are left out and named.
    report: True writes a report beside the model (shop.onnx, shop.evaluation.html), False none; or the file to write. One that cannot be
    written costs no scores: the result's `report_error` says why. report_format: html, markdown or json.

    Raises DatasetError when no photo is left, SettingsError for a split the source does not have, ModelFileError.
    """
    classifier = model if isinstance(model, Classifier) else Classifier(model)
    wanted = report_path(classifier.path, report, report_format, "evaluation")
    # Whether the report can be written is found out at the end: it must not cost the scores.
    with Problems() as problems:
        read = {"dataset": photos, "model": classifier.path}
        problems.overlaps({"report": wanted}, inputs=read, photos=listed_photos(photos, data))
    layout, chosen, entries = entries_to_score(photos, split, data)
    number = {label: i for i, label in enumerate(classifier.classes)}
    left_out = [(path, finding.message) for finding in layout.findings for path in finding.paths]
    left_out += [
        (printable(entry.name), f"the model has no class {entry.label!r}")
        for entry in entries
        if entry.label not in number
    ]
    known = [entry for entry in entries if entry.label in number]
    photos_scored: list[tuple[Path, str]] = []
    labels: list[int] = []
    rows: list[list[float]] = []
    mistakes: list[Mistake] = []
    digests = trained_on(classifier)
    remembered = 0
    progress = progress or NoProgress()
    progress.stage("evaluate", len(known))
    for done, (entry, result, seen) in enumerate(_answers(classifier, known, digests), start=1):
        if isinstance(result, Prediction):
            by_label = dict(result.top)
            remembered += seen
            photos_scored.append((entry.path, printable(entry.name)))
            labels.append(number[entry.label])
            rows.append([by_label[label] for label in classifier.classes])
            if result.label != entry.label:
                mistakes.append(
                    Mistake(printable(entry.name), entry.label, result.label, result.probability)
                )
        else:
            left_out.append((printable(entry.name), str(result)))
        progress.advance(done, len(known))
    if not labels:
        why = (
            f"; the first of {len(left_out)}: {left_out[0][0]}: {left_out[0][1]}"
            if left_out
            else ""
        )
        raise DatasetError(
            f"{photos} holds no photo that can be scored{why}; the model's classes are {', '.join(classifier.classes)}"
        )
    truth, probabilities = np.array(labels), np.array(rows)
    found = Evaluation(
        scores=score(truth, probabilities, classifier.classes, classifier.info.threshold),
        split=chosen,
        trained_on=remembered,
        mistakes=tuple(sorted(mistakes, key=lambda m: -m.probability)),
        left_out=tuple(left_out),
        answers=Answers.of(photos_scored, truth, probabilities),
    )
    if wanted is None:
        return found
    written, problem = attempt(_content(classifier, found, Path(photos)), wanted, report_format)
    return replace(found, report=written, report_error=problem)


def _content(classifier: Classifier, found: Evaluation, photos: Path) -> Content:
    name = f"{photos.name or photos.resolve().name}{f', {found.split}' if found.split else ''}"
    return Content(
        kind="evaluation",
        model=classifier.path,
        info=classifier.info,
        headline=name,
        scores={name: found.scores},
        answers=found.answers,
        left_out=found.left_out,
        trained_on=found.trained_on,
    )


def _answers(
    classifier: Classifier, entries: Sequence[Entry], digests: frozenset[bytes]
) -> Iterator[tuple[Entry, Prediction | ImageError, bool]]:
    """For each entry the answer, or why there is none, and whether the photo was trained on. A file is read once, for both."""
    waiting: deque[tuple[Entry, ImageError | None, bool]] = deque()

    def read(entry: Entry) -> tuple[bytes | ImageError, bool]:
        try:
            data = read_bytes(entry.path)
        except ImageError as error:
            return error, False
        return data, bool(digests) and hashlib.sha256(data).digest()[:6] in digests

    def photos() -> Iterator[bytes]:
        for entry, (data, seen) in zip(entries, parallel.ordered(read, entries), strict=True):
            if isinstance(data, bytes):
                waiting.append((entry, None, seen))
                yield data
            else:
                waiting.append((entry, data, False))

    def unread() -> Iterator[tuple[Entry, Prediction | ImageError, bool]]:
        while waiting and waiting[0][1] is not None:
            entry, error, _ = waiting.popleft()
            yield entry, error, False  # type: ignore[misc]

    for result in classifier.stream(photos(), top=len(classifier.classes)):
        yield from unread()
        entry, _, seen = waiting.popleft()
        yield entry, result.error if isinstance(result, Failure) else result, seen
    yield from unread()


def entries_to_score(
    photos: str | Path, split: str | None, data: DataSettings | None = None
) -> tuple[Layout, str | None, list[Entry]]:
    """What a source holds, the split to score and its photos: the split asked for, else `test` where there is one, else all (None).

    Raises DatasetError for no such source, SettingsError for a split it does not have.
    """
    layout = find(photos, data=data)
    present = {entry.split for entry in layout.entries}
    if split is not None and split not in present:
        named = ", ".join(name for name in SPLITS if name in present) or "none"
        raise SettingsError(f"{photos} has no split {split!r}; it has: {named}")
    chosen = split or ("test" if "test" in present else None)
    return (
        layout,
        chosen,
        [entry for entry in layout.entries if chosen is None or entry.split == chosen],
    )


def trained_on(classifier: Classifier) -> frozenset[bytes]:
    """The first 6 bytes of the SHA-256 of each training photo; empty where the model's metadata do not say."""
    said = classifier.info.data.get("trained_on")
    try:
        known = base64.b64decode(said) if isinstance(said, str) else b""
    except ValueError:
        return frozenset()
    return frozenset(known[i : i + 6] for i in range(0, len(known), 6))
