"""Score a model file on labelled photos."""

from __future__ import annotations

import base64
import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from tailorbird import parallel
from tailorbird.dataset import (
    SPLITS,
    DataSettings,
    is_none_of_these,
    listed_photos,
    printable,
)
from tailorbird.dataset.labels import unknown_label
from tailorbird.dataset.layout import Entry, find, with_none_of_these
from tailorbird.dataset.scanner import scan_layout
from tailorbird.errors import DatasetError, ImageError, SettingsError
from tailorbird.images import read_bytes
from tailorbird.metrics.refusals import Strangers
from tailorbird.metrics.scores import Answers, Scores, score
from tailorbird.model import Classifier, Failure, Prediction
from tailorbird.progress import NoProgress, Progress
from tailorbird.rendering.notebook import scores_html
from tailorbird.report import Content, Format, attempt, report_path
from tailorbird.validation import Problems, build

DIGEST_BYTES: Final = 6
"""Bytes that a model file keeps of the SHA-256 of each photo it has seen."""


@dataclass(frozen=True)
class Mistake:
    """A wrong prediction: the photo, its label, the predicted class and its probability."""

    path: str
    label: str
    predicted: str
    probability: float


@dataclass(frozen=True)
class Evaluation:
    """The result of `evaluate`.

    Attributes:
        scores: scores over the photos that could be scored.
        split: the one that was scored; None for all photos.
        trained_on: number of scored photos that the model was trained on; their scores do not
            predict those of new photos.
        seen: number of photos that were not scored because the model has seen them: it was trained
            or chosen on them.
        copies: names of scored photos that are copies, nearly identical or altered, of photos of
            the same source that the model has seen; their scores do not predict those of new
            photos. Empty where `data.near_duplicates` is `keep`, or the model file does not know
            what it has seen.
        mistakes: wrong predictions, most confident first.
        left_out: photos that could not be scored, and why.
        answers: the predictions.
        strangers: how photos that should be refused are noticed: those of `strangers` and those
            labelled `none of these`; None without any.
        report: the file written. report_error: why a requested report could not be written.
    """

    scores: Scores
    split: str | None
    trained_on: int
    mistakes: tuple[Mistake, ...]
    left_out: tuple[tuple[str, str], ...]
    answers: Answers = field(repr=False)
    report: Path | None = None
    report_error: str | None = None
    seen: int = 0
    copies: tuple[str, ...] = ()
    strangers: Strangers | None = None

    def _repr_html_(self) -> str:
        where = f"report: {self.report}" if self.report else ""
        return scores_html(
            self.scores.as_dict(), f"Split {self.split}" if self.split else "All photos", where
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the object of `evaluate --json`."""
        return {
            **self.scores.as_dict(),
            "split": self.split,
            "trained_on": self.trained_on,
            "seen": self.seen,
            "copies": list(self.copies),
            "mistakes": [vars(mistake).copy() for mistake in self.mistakes],
            "left_out": [{"path": path, "reason": reason} for path, reason in self.left_out],
            "strangers": self.strangers.as_dict() if self.strangers else None,
            "report": str(self.report) if self.report else None,
        }


@dataclass(frozen=True)
class EvaluationSettings:
    """Options of `evaluate`.

    Attributes:
        split: the split to score; by default `test` if there is one, else all photos.
        include_seen: also score photos that the model has seen.
        strangers: folder of photos that are none of the classes, which should be refused.
        data: how the folder or CSV is read.
        report: True: beside the model (shop.evaluation.html for shop.onnx); False: none; or the
            file to write. A report that cannot be written does not fail the evaluation.
        report_format: html, markdown or json.
    """

    split: str | None = None
    include_seen: bool = False
    strangers: str | Path | None = None
    data: DataSettings | None = None
    report: str | Path | bool = False
    report_format: Format = "html"


def evaluate(
    model: str | Path | Classifier,
    photos: str | Path,
    *,
    progress: Progress | None = None,
    **options: Any,
) -> Evaluation:
    """Score a model on a folder or CSV of labelled photos that it has not seen.

    Photos that cannot be read, and photos of classes that the model does not have, are left out.
    The model file knows which photos it was trained and chosen on, if `train` made it.

    Args:
        model: the model file.
        photos: class folders, split/class folders, or a CSV.
        progress: receives the stages `evaluate` and `strangers` and their photos.
        options: fields of EvaluationSettings.

    Raises:
        DatasetError: no photo is left, or the model has seen them all.
        SettingsError: a split that the source does not have; a report that would overwrite an
            input; strangers for a model that tells no unfamiliar photos.
        ModelFileError: the model file cannot be used.
    """
    settings = build(EvaluationSettings, options, "evaluate")
    classifier = model if isinstance(model, Classifier) else Classifier(model)
    wanted = report_path(classifier.path, settings.report, settings.report_format, "evaluation")
    _check(classifier, photos, settings, wanted)
    progress, data = progress or NoProgress(), settings.data
    chosen, known, left_out = photos_to_score(photos, settings.split, [classifier], data=data)
    skip = frozenset() if settings.include_seen else seen_by(classifier)
    strange, left_out = _strangers(classifier, photos, settings, chosen, left_out)
    found, skipped = _scored(classifier, known, skip, left_out, progress)
    if found is None:
        if skipped:
            raise DatasetError(all_seen(photos, skipped))
        raise DatasetError(
            f"{photos} has no photo that can be scored{first_reason(left_out)}; the model's "
            f"classes are {some_classes(classifier.classes)}"
        )
    # Without splits, photos that are all new to the model are copies of none that it has seen.
    search = chosen is not None or skipped or found.trained_on
    copies = copies_of_seen(
        photos, known, seen_by(classifier) if search else frozenset(), data=data
    )
    compared = _compared(classifier, found, strange, skip, progress)
    found = replace(found, split=chosen, seen=skipped, copies=copies, strangers=compared)
    if wanted is None:
        return found
    content = _content(classifier, found, Path(photos))
    written, problem = attempt(content, wanted, settings.report_format)
    return replace(found, report=written, report_error=problem)


def _check(
    classifier: Classifier, photos: str | Path, settings: EvaluationSettings, report: Path | None
) -> None:
    """Raise SettingsError for settings that contradict the model or overwrite an input."""
    # A report that cannot be written is noticed at the end, so that the scores are not lost.
    with Problems() as problems:
        problems.need(
            settings.strangers is None or classifier.knows_unfamiliar,
            f"strangers (--strangers) are given, but {classifier.path} does not tell unfamiliar "
            "photos; train it again with this version and without --refuse 0",
        )
        problems.overlaps(
            {"report": report},
            inputs={"dataset": photos, "model": classifier.path, "strangers": settings.strangers},
            photos=listed_photos(photos, settings.data),
        )


def _scored(
    classifier: Classifier,
    known: Sequence[Entry],
    skip: frozenset[bytes],
    left_out: list[tuple[str, str]],
    progress: Progress,
) -> tuple[Evaluation | None, int]:
    """Predict and score photos whose digest is not to be skipped; extend `left_out`.

    Returns the result, None if no photo is scored, and the number skipped.
    """
    number = {label: i for i, label in enumerate(classifier.classes)}
    scored: list[tuple[Path, str]] = []
    labels: list[int] = []
    rows: list[list[float]] = []
    mistakes: list[Mistake] = []
    unfamiliarity: list[float] = []
    trained_on_these = skipped = 0
    learned = trained_on(classifier)
    progress.stage("evaluate", len(known))
    for done, (entry, result, digest) in enumerate(_answers(classifier, known, skip), start=1):
        name = printable(entry.name)
        if isinstance(result, Prediction):
            by_label = dict(result.top)
            trained_on_these += digest in learned
            scored.append((entry.path, name))
            labels.append(number[entry.label])
            rows.append([by_label[label] for label in classifier.classes])
            if result.unfamiliarity is not None:
                unfamiliarity.append(result.unfamiliarity)
            if result.label != entry.label:
                mistakes.append(Mistake(name, entry.label, result.label, result.probability))
        elif result is None:
            skipped += 1
        else:
            left_out.append((name, str(result)))
        progress.advance(done, len(known))
    if not labels:
        return None, skipped
    truth, probabilities = np.array(labels), np.array(rows)
    limit = classifier.info.unfamiliar_above
    strange = None if limit is None else np.array(unfamiliarity, np.float32)
    evaluation = Evaluation(
        scores=score(
            truth,
            probabilities,
            classifier.classes,
            classifier.info.threshold,
            None if strange is None or limit is None else strange > limit,
        ),
        split=None,
        trained_on=trained_on_these,
        mistakes=tuple(sorted(mistakes, key=lambda m: -m.probability)),
        left_out=tuple(left_out),
        answers=Answers.of(scored, truth, probabilities, strange),
    )
    return evaluation, skipped


def _strangers(
    classifier: Classifier,
    photos: str | Path,
    settings: EvaluationSettings,
    split: str | None,
    left_out: list[tuple[str, str]],
) -> tuple[list[Entry], list[tuple[str, str]]]:
    """Return the photos that should be refused, and `left_out` without them.

    They are those of a folder, and those of the source and split that belong to no class. Raises
    DatasetError.
    """
    if not classifier.knows_unfamiliar:
        return [], left_out
    layout = find(photos, data=settings.data)
    found = [
        entry
        for entry in layout.entries
        if is_none_of_these(entry.label) and split in (None, entry.split)
    ]
    names = {printable(entry.name) for entry in found}
    if settings.strangers is not None:
        empty = replace(layout, entries=(), findings=())
        found += with_none_of_these(empty, settings.strangers).entries
    return found, [entry for entry in left_out if entry[0] not in names]


def _compared(
    classifier: Classifier,
    scored: Evaluation,
    strangers: Sequence[Entry],
    skip: frozenset[bytes],
    progress: Progress,
) -> Strangers | None:
    """Compare the unfamiliarity of strangers with that of the scored photos."""
    known, limit = scored.answers.unfamiliarity, classifier.info.unfamiliar_above
    if not strangers or known is None or limit is None:
        return None
    progress.stage("strangers", len(strangers))
    values = []
    for done, (_, result, _) in enumerate(_answers(classifier, strangers, skip), start=1):
        if isinstance(result, Prediction) and result.unfamiliarity is not None:
            values.append(result.unfamiliarity)
        progress.advance(done, len(strangers))
    return Strangers.of(known, np.array(values), limit) if values else None


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
        strangers=found.strangers,
    )


class _Read(NamedTuple):
    """A photo that was read: its bytes (empty once handed on), an error, or None if skipped."""

    entry: Entry
    data: bytes | ImageError | None
    digest: bytes


def _answers(
    classifier: Classifier, entries: Sequence[Entry], skip: frozenset[bytes]
) -> Iterator[tuple[Entry, Prediction | ImageError | None, bytes]]:
    """Yield each entry with the prediction, an error, or None if skipped, and its short digest.

    Each file is read once.
    """
    waiting: deque[_Read] = deque()

    def read(entry: Entry) -> _Read:
        try:
            data = read_bytes(entry.path)
        except ImageError as error:
            return _Read(entry, error, b"")
        digest = hashlib.sha256(data).digest()[:DIGEST_BYTES]
        return _Read(entry, None if digest in skip else data, digest)

    def photos() -> Iterator[bytes]:
        for photo in parallel.ordered(read, entries):
            if isinstance(photo.data, bytes):
                waiting.append(photo._replace(data=b""))
                yield photo.data
            else:
                waiting.append(photo)

    def unpredicted() -> Iterator[tuple[Entry, ImageError | None, bytes]]:
        while waiting and not isinstance(waiting[0].data, bytes):
            entry, problem, digest = waiting.popleft()
            assert not isinstance(problem, bytes)
            yield entry, problem, digest

    for result in classifier.stream(photos(), top=len(classifier.classes)):
        yield from unpredicted()
        entry, _, digest = waiting.popleft()
        yield entry, result.error if isinstance(result, Failure) else result, digest
    yield from unpredicted()


def photos_to_score(
    photos: str | Path,
    split: str | None,
    models: Sequence[Classifier],
    *,
    data: DataSettings | None = None,
) -> tuple[str | None, list[Entry], list[tuple[str, str]]]:
    """Find the photos to score models on.

    Args:
        photos: class folders, split/class folders, or a CSV.
        split: the split to score; None: `test` if there is one, else all photos.
        models: one model, or the two that are compared.
        data: how the folder or CSV is read.

    Returns:
        The split (None: all photos), the photos whose label all models have, and (path, reason) of
        those left out.

    Raises:
        DatasetError: the source does not exist.
        SettingsError: the source has no such split.
    """
    layout = find(photos, data=data)
    present = {entry.split for entry in layout.entries}
    if split is not None and split not in present:
        named = ", ".join(name for name in SPLITS if name in present) or "none"
        raise SettingsError(f"{photos} has no split {split!r}; it has: {named}")
    chosen = split or ("test" if "test" in present else None)
    left_out = [(path, finding.message) for finding in layout.findings for path in finding.paths]
    known = []
    for entry in layout.entries:
        if chosen is not None and entry.split != chosen:
            continue
        reason = _why_unknown(entry.label, models)
        if reason is None:
            known.append(entry)
        else:
            left_out.append((printable(entry.name), reason))
    return chosen, known, left_out


def copies_of_seen(
    photos: str | Path,
    scored: Sequence[Entry],
    seen: frozenset[bytes],
    *,
    data: DataSettings | None = None,
) -> tuple[str, ...]:
    """Return the names of scored photos that are copies of others that a model has seen.

    Only copies of photos in the same source are known: the model file has no photos. Groups of the
    source, such as `data.group_by`, count as copies too.

    Args:
        photos: the source of the scored photos.
        scored: photos of it.
        seen: digests of the photos that the model has seen.
        data: how the source is read; nothing is searched with `near_duplicates="keep"`.
    """
    settings = data or DataSettings()
    if not seen or settings.near_duplicates == "keep":
        return ()
    # All photos of the source are needed, also those that `drop` leaves out.
    layout = find(photos, data=replace(settings, near_duplicates="group"))
    names = {printable(entry.name) for entry in scored}
    dataset = scan_layout(layout, photos)
    known = [bytes.fromhex(sample.digest)[:DIGEST_BYTES] in seen for sample in dataset.samples]
    groups = {group for group, is_seen in zip(dataset.groups, known, strict=True) if is_seen}
    return tuple(
        sample.name
        for sample, group, is_seen in zip(dataset.samples, dataset.groups, known, strict=True)
        if group in groups and not is_seen and sample.name in names
    )


def _why_unknown(label: str, models: Sequence[Classifier]) -> str | None:
    """Return why a label cannot be scored: which of the models do not have it. None if all have."""
    lacking = [
        (name, model)
        for name, model in zip("AB", models, strict=False)
        if label not in model.classes
    ]
    if not lacking:
        return None
    who = "the model has"
    if len(models) > 1:
        who = f"{lacking[0][0]} has" if len(lacking) == 1 else "A and B have"
    return unknown_label(label, lacking[0][1].classes, who)


def some_classes(classes: Sequence[str]) -> str:
    """Return class names for a message: all of a few, the first of many, and their number."""
    shown = ", ".join(label if len(label) <= 60 else f"{label[:57]}..." for label in classes[:10])
    return shown + (f" and {len(classes) - 10:,} more" if len(classes) > 10 else "")


def first_reason(left_out: Sequence[tuple[str, str]]) -> str:
    """Return the first photo left out and why, for a message; empty if there is none."""
    if not left_out:
        return ""
    path, reason = left_out[0]
    return f"; the first of {len(left_out)}: {path}: {reason}"


def all_seen(photos: str | Path, count: int, who: str = "the model") -> str:
    """Return the message for photos that a model, or one of two, has all seen."""
    what = "the only photo" if count == 1 else f"all {count:,} photos"
    return (
        f"{who} has seen {what} of {printable(str(photos))}: trained or chosen on them, a model "
        "looks better than it is; give new photos, or use all with --all "
        "(include_seen)"
    )


def seen_by(classifier: Classifier) -> frozenset[bytes]:
    """Return the short digest of each photo that the model was trained or chosen on."""
    return trained_on(classifier) | _digests(classifier, "chosen_on")


def trained_on(classifier: Classifier) -> frozenset[bytes]:
    """Return the short digest of each photo the model was trained on, as far as the file says.

    It is the first DIGEST_BYTES bytes of the SHA-256 of the file.
    """
    return _digests(classifier, "trained_on")


def _digests(classifier: Classifier, name: str) -> frozenset[bytes]:
    stored = classifier.info.data.get(name)
    try:
        known = base64.b64decode(stored) if isinstance(stored, str) else b""
    except ValueError:
        return frozenset()
    return frozenset(known[i : i + DIGEST_BYTES] for i in range(0, len(known), DIGEST_BYTES))
