"""Compare two model files on the same photos: scores, differences and significance."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np
import numpy.typing as npt

from tailorbird.dataset import DataSettings, listed_photos, printable
from tailorbird.dataset.layout import Entry
from tailorbird.errors import DatasetError, ImageError
from tailorbird.evaluation import (
    DIGEST_BYTES,
    all_seen,
    first_reason,
    photos_to_score,
    seen_by,
    some_classes,
    trained_on,
)
from tailorbird.files import csv_text, write_text
from tailorbird.images import Photo, Pixels, ResizeRule, decode, read_bytes, resize
from tailorbird.inference import map_batches
from tailorbird.metrics.calibration import label_losses
from tailorbird.metrics.paired import better, mcnemar, mean_interval, paired_interval
from tailorbird.metrics.scores import Scores, score
from tailorbird.model import Classifier
from tailorbird.progress import NoProgress, Progress
from tailorbird.rendering.contact_sheets import MOST_TILES, SUFFIXES, Tile, save_sheet
from tailorbird.rendering.contact_sheets import contact_sheet as make_sheet
from tailorbird.validation import Problems


@dataclass(frozen=True)
class Answer:
    """One model's prediction for a photo: class, probability, and whether it is the label."""

    label: str
    probability: float
    right: bool


@dataclass(frozen=True)
class Differing:
    """A photo for which the models predict different classes: path, name, label, predictions."""

    path: Path
    name: str
    label: str
    a: Answer
    b: Answer

    def as_dict(self) -> dict[str, Any]:
        """Return the object of `compare --json`."""
        return {
            "path": self.name,
            "label": self.label,
            "a": vars(self.a).copy(),
            "b": vars(self.b).copy(),
        }


@dataclass(frozen=True)
class Tally:
    """Numbers of photos by which model is right; `label` is None for all classes together."""

    label: str | None
    both: int
    only_a: int
    only_b: int
    neither: int

    @property
    def n(self) -> int:
        """Return the number of all photos."""
        return self.both + self.only_a + self.only_b + self.neither

    def as_dict(self) -> dict[str, Any]:
        """Return the object of `compare --json`."""
        named = {} if self.label is None else {"label": self.label}
        return {
            **named,
            "n": self.n,
            **{k: getattr(self, k) for k in ("both", "only_a", "only_b", "neither")},
        }


@dataclass(frozen=True)
class Comparison:
    """Model B against model A on the same photos; every difference is B minus A.

    Attributes:
        names: names of A and B.
        a, b: the scores of each, over its own classes.
        tally, per_class: numbers of photos by which model is right.
        interval: 95% interval of the difference in accuracy (Newcombe's method 10).
        p_value: p-value of McNemar's exact test.
        log_loss_difference, log_loss_interval: mean over the photos in nats, below 0 if B is
            better, with its normal 95% interval (None for a single photo).
        differing: photos with different predictions; first those that one model gets right, the
            most confident wrong prediction first.
        only_classes: classes that only A has, and that only B has.
        trained_on: numbers of photos that A, and B, was trained on.
        left_out: photos not used, and why.
        split: the one that was scored, None for all photos.
        seen: number of photos that were not compared because A or B was trained or chosen on them.
    """

    names: tuple[str, str]
    a: Scores
    b: Scores
    tally: Tally
    per_class: tuple[Tally, ...]
    interval: tuple[float, float]
    p_value: float
    log_loss_difference: float
    log_loss_interval: tuple[float, float] | None
    differing: tuple[Differing, ...]
    only_classes: tuple[tuple[str, ...], tuple[str, ...]]
    trained_on: tuple[int, int]
    left_out: tuple[tuple[str, str], ...]
    split: str | None
    seen: int = 0

    @property
    def difference(self) -> float:
        """Return the accuracy of B minus that of A."""
        return (self.tally.only_b - self.tally.only_a) / self.tally.n

    @property
    def better(self) -> str | None:
        """Return `a` or `b` if the difference is significant, else None."""
        return better(self.tally.only_a, self.tally.only_b)

    @property
    def verdict(self) -> str:
        """Return the result as a sentence."""
        if not self.differing:
            return f"No difference: A and B give the same answer on all {self.tally.n:,} photos"
        if self.better is not None:
            fewer, more = sorted((self.tally.only_a, self.tally.only_b))
            winner, loser = ("B", "A") if self.better == "b" else ("A", "B")
            return (
                f"{winner} is better: {_photos(more)} only {winner} gets right against {fewer:,} "
                f"only {loser} ({_p(self.p_value)})"
            )
        return (
            f"No difference can be shown on {_photos(self.tally.n)}: {self.tally.only_b:,} only "
            f"B gets right against {self.tally.only_a:,} only A ({_p(self.p_value)})"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the object of `compare --json`."""
        return {
            "n": self.tally.n,
            "split": self.split,
            "seen": self.seen,
            "a": {"model": self.names[0], "trained_on": self.trained_on[0], **self.a.as_dict()},
            "b": {"model": self.names[1], "trained_on": self.trained_on[1], **self.b.as_dict()},
            "difference": self.difference,
            "interval": list(self.interval),
            "p_value": self.p_value,
            "better": self.better,
            "verdict": self.verdict,
            "log_loss_difference": self.log_loss_difference,
            "log_loss_interval": list(self.log_loss_interval) if self.log_loss_interval else None,
            "tally": self.tally.as_dict(),
            "per_class": [tally.as_dict() for tally in self.per_class],
            "only_classes": {"a": list(self.only_classes[0]), "b": list(self.only_classes[1])},
            "differing": [photo.as_dict() for photo in self.differing],
            "left_out": [{"path": path, "reason": reason} for path, reason in self.left_out],
        }


def _photos(n: int) -> str:
    return f"{n:,} photo{'s' * (n != 1)}"


def _p(value: float) -> str:
    return (
        "p < 0.001" if value < 0.001 else f"p = {value:.3f}" if value < 0.1 else f"p = {value:.2f}"
    )


class OutputFiles(TypedDict, total=False):
    """Files that `compare` writes.

    csv: of the photos on which the models differ. contact_sheet: picture of these photos; not
    written if there are none.
    """

    csv: str | Path | None
    contact_sheet: str | Path | None


def compare(
    a: str | Path | Classifier,
    b: str | Path | Classifier,
    photos: str | Path,
    *,
    split: str | None = None,
    include_seen: bool = False,
    data: DataSettings | None = None,
    progress: Progress | None = None,
    **files: Unpack[OutputFiles],
) -> Comparison:
    """Run two models on the same labelled photos and test which one is better.

    Classes are matched by name. Only photos whose label both models have are compared; the others,
    and photos that cannot be read, are left out. Each model gets each photo by its own resize rule,
    exactly as it is served.

    Args:
        a, b: the models.
        photos: labelled photos, a folder or a CSV.
        split: as in `evaluate`: this split only; by default `test` if there is one, else all.
        include_seen: also compare on photos that A or B was trained or chosen on.
        data: how the folder or CSV is read.
        progress: receives the stage `compare` and its photos.
        files: csv and contact_sheet, to be written; see OutputFiles.

    Raises:
        DatasetError: no photo is left, or all have been seen.
        SettingsError: a split the source does not have, an output that is invalid or an input.
        ModelFileError: a model file that cannot be used.
        StorageError: an output could not be written.
    """
    csv, contact_sheet = files.get("csv"), files.get("contact_sheet")
    pair = tuple(model if isinstance(model, Classifier) else Classifier(model) for model in (a, b))
    with Problems() as problems:
        problems.ending("CSV", csv, ".csv")
        problems.ending("contact sheet", contact_sheet, *SUFFIXES)
        problems.outputs(
            {"CSV": csv, "contact sheet": contact_sheet},
            inputs={"dataset": photos, "model A": pair[0].path, "model B": pair[1].path},
            photos=listed_photos(photos, data),
        )
    chosen, known, left_out = photos_to_score(photos, split, pair, data=data)
    seen = [_Seen() for _ in pair]
    labels: list[str] = []
    used: list[Entry] = []
    digests = [trained_on(model) for model in pair]
    skip = frozenset[bytes]().union(*(() if include_seen else map(seen_by, pair)))
    skipped = 0
    progress = progress or NoProgress()
    progress.stage("compare", len(known))
    for done, (entry, (read, rows)) in enumerate(
        zip(known, _run(pair, known, skip), strict=True), 1
    ):
        progress.advance(done, len(known))
        if read is None:
            skipped += 1
            continue
        if isinstance(read, ImageError) or rows is None:
            left_out.append((printable(entry.name), str(read)))
            continue
        used.append(entry)
        labels.append(entry.label)
        for mine, row, own in zip(seen, rows, digests, strict=True):
            mine.rows.append(row)
            mine.trained_on += read in own
    if not used:
        if skipped:
            raise DatasetError(all_seen(photos, skipped, "A or B"))
        raise DatasetError(
            f"{printable(str(photos))} has no photo on which the models can be compared"
            f"{first_reason(left_out)}; A's classes are {some_classes(pair[0].classes)}, B's are "
            f"{some_classes(pair[1].classes)}"
        )
    result = replace(_summarise(pair, used, seen, chosen, left_out), seen=skipped)
    if csv is not None:
        write_csv(result, csv)
    if contact_sheet is not None and result.differing:
        save_sheet(make_sheet(tiles(result.differing)), contact_sheet)
    return result


class _Seen:
    """The probabilities of one model so far."""

    def __init__(self) -> None:
        self.rows: list[npt.NDArray[np.float32]] = []
        self.trained_on = 0


def _run(
    pair: Sequence[Classifier], entries: Sequence[Entry], skip: frozenset[bytes]
) -> Iterator[tuple[bytes | ImageError | None, tuple[npt.NDArray[np.float32], ...] | None]]:
    """Yield each photo's short digest and its probabilities, float32 (C,), from each model.

    A photo that cannot be used yields the error and None, one to be skipped None twice.
    """
    rules = [model.info.resize for model in pair]

    def load(entry: Entry) -> tuple[bytes | ImageError | None, list[Pixels] | None]:
        try:
            data = read_bytes(entry.path)
            digest = hashlib.sha256(data).digest()[:DIGEST_BYTES]
            return (None, None) if digest in skip else (digest, _pixels(data, rules))
        except ImageError as error:
            return error, None

    def run(loaded: list[list[Pixels]]) -> list[tuple[npt.NDArray[np.float32], ...]]:
        batches = (np.stack(images) for images in zip(*loaded, strict=True))
        rows = (model.run(batch)[0] for model, batch in zip(pair, batches, strict=True))
        return list(zip(*rows, strict=True))

    device = max((model.device for model in pair), key=lambda device: device.batch)
    return map_batches(entries, load, run, device=device)


def _pixels(data: bytes, rules: Sequence[ResizeRule]) -> list[Pixels]:
    """Return a photo resized by each rule; decode it once if both need the same size."""
    decoded: dict[int, Photo] = {}
    first = decode(data, at_least=rules[0].least_side)
    decoded[_reduction(first, rules[0])] = first
    for rule in rules[1:]:
        if _reduction(first, rule) not in decoded:
            decoded[_reduction(first, rule)] = decode(data, at_least=rule.least_side)
    return [resize(decoded[_reduction(first, rule)].image, rule) for rule in rules]


def _reduction(photo: Photo, rule: ResizeRule) -> int:
    """Return the factor by which libjpeg shrinks a photo for `rule` (`draft` in Pillow)."""
    room = min(photo.width, photo.height) // rule.least_side
    return next((factor for factor in (8, 4, 2) if room >= factor), 1)


def _summarise(
    pair: Sequence[Classifier],
    used: Sequence[Entry],
    seen: Sequence[_Seen],
    split: str | None,
    left_out: Sequence[tuple[str, str]],
) -> Comparison:
    scores, losses, answers = [], [], []
    for model, mine in zip(pair, seen, strict=True):
        rows = np.array(mine.rows)
        own = np.array([model.classes.index(entry.label) for entry in used], np.int64)
        scores.append(score(own, rows, model.classes, model.info.threshold))
        losses.append(label_losses(own, rows))
        best = rows.argmax(axis=1)
        answers.append(
            [
                Answer(model.classes[k], float(row[k]), bool(k == label))
                for k, row, label in zip(best, rows, own, strict=True)
            ]
        )
    difference = losses[1] - losses[0]
    rights = [(entry.label, a.right, b.right) for entry, a, b in zip(used, *answers, strict=True)]
    tally = _tally(None, rights)
    differing = [
        Differing(entry.path, printable(entry.name), entry.label, a, b)
        for entry, a, b in zip(used, *answers, strict=True)
        if a.label != b.label
    ]
    classes = [set(model.classes) for model in pair]
    return Comparison(
        names=(pair[0].path.name, pair[1].path.name),
        a=scores[0],
        b=scores[1],
        tally=tally,
        per_class=tuple(_tally(label, rights) for label in sorted({entry.label for entry in used})),
        interval=paired_interval(tally.both, tally.only_a, tally.only_b, tally.neither),
        p_value=mcnemar(tally.only_a, tally.only_b),
        log_loss_difference=float(difference.mean()),
        log_loss_interval=mean_interval(difference),
        differing=tuple(sorted(differing, key=_mistake_order)),
        only_classes=(
            tuple(sorted(classes[0] - classes[1])),
            tuple(sorted(classes[1] - classes[0])),
        ),
        trained_on=(seen[0].trained_on, seen[1].trained_on),
        left_out=tuple(left_out),
        split=split,
    )


def _tally(label: str | None, rights: Iterable[tuple[str, bool, bool]]) -> Tally:
    counts = {(a, b): 0 for a in (True, False) for b in (True, False)}
    for own, a, b in rights:
        counts[a, b] += label is None or own == label
    return Tally(
        label, counts[True, True], counts[True, False], counts[False, True], counts[False, False]
    )


def _mistake_order(photo: Differing) -> tuple[bool, float, str]:
    wrong = [answer.probability for answer in (photo.a, photo.b) if not answer.right]
    return (len(wrong) == 2, -max(wrong), photo.name)


def tiles(photos: Iterable[Differing], limit: int = MOST_TILES) -> list[Tile]:
    """Return the first `limit` photos as tiles of a contact sheet."""
    return [
        Tile(
            photo.path,
            (
                f"labelled {photo.label}",
                f"A: {photo.a.label} {photo.a.probability:.0%}",
                f"B: {photo.b.label} {photo.b.probability:.0%}",
                photo.name,
            ),
        )
        for photo, _ in zip(photos, range(limit), strict=False)
    ]


def write_csv(result: Comparison, path: str | Path) -> None:
    """Write the photos on which the models differ to a CSV file. Raises StorageError."""
    rows: list[Sequence[object]] = [
        ("path", "label", "a", "a_probability", "b", "b_probability", "right")
    ]
    for photo in result.differing:
        right = "a" if photo.a.right else "b" if photo.b.right else "neither"
        answers = [(one.label, f"{one.probability:.6f}") for one in (photo.a, photo.b)]
        rows.append((printable(photo.name), photo.label, *answers[0], *answers[1], right))
    write_text(path, csv_text(rows))
