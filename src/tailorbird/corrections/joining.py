"""Add corrected photos to the training photos; validation and test sets do not change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tailorbird.corrections.labelling import Labelled, LabelledPhoto
from tailorbird.dataset import NONE_OF_THESE as OF_NO_CLASS
from tailorbird.dataset import Dataset, Finding, Sample, Visitor, clean
from tailorbird.dataset.checks import SMALL
from tailorbird.dataset.layout import Entry, Layout
from tailorbird.dataset.scanner import scan_layout
from tailorbird.progress import Progress


@dataclass(frozen=True)
class Joined:
    """A dataset with corrected photos among its training photos.

    used: number of corrected photos added.
    left_out: (name, reason) of corrected photos that were not used, and of training photos that
        a correction replaced.
    replaced: number of the latter.
    new_classes: labels that no training photo had before.
    too_few: (label, corrected photos) of new classes with fewer than SMALL photos; they are left
        out.
    conflicts, without_photo: as in `Labelled`.
    none: corrected photos of no class, which teach what to refuse; they are not in the dataset.
    """

    dataset: Dataset
    used: int
    left_out: tuple[tuple[str, str], ...]
    replaced: int
    new_classes: tuple[str, ...]
    conflicts: int
    without_photo: int
    too_few: tuple[tuple[str, int], ...] = ()
    none: tuple[Sample, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the object for `train --json` and the model's metadata."""
        return {
            "used": self.used,
            "left_out": len(self.left_out) - self.replaced,
            "replaced": self.replaced,
            "new_classes": list(self.new_classes),
            "conflicts": self.conflicts,
            "without_photo": self.without_photo,
            "too_few": dict(self.too_few),
            "none_of_these": len(self.none),
        }

    def sentence(self) -> str:
        """Return a summary for people."""
        left_out = len(self.left_out) - self.replaced
        parts = [
            f"Corrections: {_photos(self.used)} added to the training photos, {left_out:,} left out"
        ]
        if self.replaced:
            parts.append(f"{_photos(self.replaced)} of the dataset replaced, with another label")
        if self.new_classes:
            names = ", ".join(self.new_classes)
            parts.append(f"new classes, which validation and test cannot score: {names}")
        if self.too_few:
            names = ", ".join(f"{label} ({n:,})" for label, n in self.too_few)
            parts.append(f"new classes with fewer than {SMALL} photos left out: {names}")
        if self.none:
            shown = f"{_photos(len(self.none))} that people say show none of the classes"
            parts.append(f"{shown} teach{'es' * (len(self.none) == 1)} what to refuse")
        if self.conflicts:
            parts.append(f"{_photos(self.conflicts)} with different answers, the newest counts")
        if self.without_photo:
            parts.append(f"{_photos(self.without_photo)} with an answer but not kept")
        return "; ".join(parts)


def _photos(n: int) -> str:
    return f"{n:,} photo{'s' * (n != 1)}"


def join(
    dataset: Dataset,
    answered: Labelled,
    *,
    visitor: Visitor | None = None,
    progress: Progress | None = None,
) -> Joined:
    """Add corrected photos to the training photos of a dataset that is split and clean.

    Photos that people say show none of the classes become photos of no class, unless they are in
    the dataset. These corrected photos are left out: those whose file is missing or unusable; those
    identical or nearly identical to a photo in validation or test; those that are training photos
    with the same label already; those of a class without training photos, unless there are at least
    SMALL of them. A training photo that was corrected to another label is replaced, unless it is
    the last one of its class.

    visitor: as in `scan`; sees the corrected photos.
    progress: receives the stage `corrections`.
    """
    left_out = [(name, "the file of this kept photo no longer exists") for name in answered.missing]
    photos = (*answered.photos, *answered.none)
    usable, refused = _scanned(dataset, photos, visitor, progress)
    left_out += refused
    training = {sample.digest: sample for sample in dataset.of("train")}
    known = Counter(sample.label for sample in training.values())

    added: list[tuple[Sample, int]] = []
    none: list[Sample] = []
    for sample, group in usable:
        same = training.get(sample.digest)
        if same is not None and sample.label == OF_NO_CLASS:
            reason = f"identical to {same.name} of the dataset, which is labelled {same.label}"
            left_out.append((sample.name, f"said to be none of the classes, but {reason}"))
        elif sample.label == OF_NO_CLASS:
            none.append(sample)
        elif same is not None and same.label == sample.label:
            left_out.append((sample.name, f"identical to {same.name}, which is used"))
        else:
            added.append((sample, group))
    added, few, too_few = _without_small_classes(added, known)
    left_out += few
    added, last = _without_last_photos(added, training, known)
    left_out += last

    replaced = {sample.digest: sample.label for sample, _ in added if sample.digest in training}
    left_out += [
        (
            sample.name,
            f"corrected to {replaced[sample.digest]}; it was labelled {sample.label}",
        )
        for sample in dataset.of("train")
        if sample.digest in replaced
    ]
    kept = [
        (sample, group)
        for sample, group in zip(dataset.samples, dataset.groups, strict=True)
        if sample.split != "train" or sample.digest not in replaced
    ]
    start = max(dataset.groups, default=-1) + 1
    kept += [(sample, start + group) for sample, group in added]
    kept.sort(key=lambda item: item[0].name)
    new = tuple(sorted({sample.label for sample, _ in added} - set(known)))
    findings = [
        Finding("missing-class", (), f"{label} has no photo in validation and test")
        for label in new
    ]
    result = replace(
        dataset,
        samples=tuple(sample for sample, _ in kept),
        groups=tuple(group for _, group in kept),
        findings=(*dataset.findings, *findings),
    )
    return Joined(
        result,
        len(added),
        tuple(left_out),
        len(replaced),
        new,
        answered.conflicts,
        answered.without_photo,
        too_few,
        tuple(none),
    )


def _scanned(
    dataset: Dataset,
    photos: Sequence[LabelledPhoto],
    visitor: Visitor | None,
    progress: Progress | None,
) -> tuple[list[tuple[Sample, int]], list[tuple[str, str]]]:
    """Return usable corrected photos with their duplicate groups, and (name, reason) of the others.

    They are scanned together with the held-out photos, so that the dataset's own rule finds leaks.
    The held-out photos do not change, whatever is found about them. The training photos are not
    scanned: the groups of the dataset, and so its splits, cannot change.
    """
    if not photos:
        return [], []
    held = [Entry(s.path, s.name, s.label, s.split) for s in dataset.samples if s.split != "train"]
    entries = [*held, *(Entry(photo.path, photo.name, photo.label, "train") for photo in photos)]
    if progress is not None:
        progress.stage("corrections", len(entries))
    scanned = scan_layout(
        Layout(dataset.root, tuple(entries), ()), dataset.root, visitor=visitor, progress=progress
    )
    own = {photo.path: photo.name for photo in photos}
    names = set(own.values())
    left_out = [
        (path, finding.message)
        for finding in scanned.findings
        if finding.kind in ("unreadable", "unsupported", "too-large")
        for path in finding.paths
        if path in names
    ]
    cleaned, dropped = clean(scanned)
    left_out += [(sample.name, reason) for sample, reason in dropped if sample.path in own]
    usable = [
        (sample, group)
        for sample, group in zip(cleaned.samples, cleaned.groups, strict=True)
        if sample.path in own
    ]
    return usable, left_out


def _without_small_classes(
    added: list[tuple[Sample, int]], known: Counter[str]
) -> tuple[list[tuple[Sample, int]], list[tuple[str, str]], tuple[tuple[str, int], ...]]:
    """Return the corrections to add, (name, reason) of the others, and (label, photos) of these."""
    counts = Counter(sample.label for sample, _ in added)
    small = {label: n for label, n in counts.items() if label not in known and n < SMALL}
    left_out = [
        (
            sample.name,
            f"no training photo is labelled {sample.label}, and a new class needs at least {SMALL} "
            f"corrected photos; there are {small[sample.label]}",
        )
        for sample, _ in added
        if sample.label in small
    ]
    added = [item for item in added if item[0].label not in small]
    return added, left_out, tuple(sorted(small.items()))


def _without_last_photos(
    added: list[tuple[Sample, int]], training: dict[str, Sample], known: Counter[str]
) -> tuple[list[tuple[Sample, int]], list[tuple[str, str]]]:
    """Leave out corrections that would relabel the last training photo of a class."""
    remaining = known + Counter(sample.label for sample, _ in added)
    kept: list[tuple[Sample, int]] = []
    left_out: list[tuple[str, str]] = []
    for item in added:
        old = training.get(item[0].digest)
        if old is not None and remaining[old.label] < 2:
            left_out.append(
                (item[0].name, f"identical to {old.name}, the last training photo of {old.label}")
            )
            remaining[item[0].label] -= 1
            continue
        if old is not None:
            remaining[old.label] -= 1
        kept.append(item)
    return kept, left_out
