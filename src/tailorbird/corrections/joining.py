"""Corrected photos join the training photos; validation and test stay what they were, so that scores can be compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tailorbird.corrections.labelling import Labelled, LabelledPhoto
from tailorbird.dataset import Dataset, Finding, Sample, Visitor, clean
from tailorbird.dataset.checks import SMALL
from tailorbird.dataset.layout import Entry, Layout
from tailorbird.dataset.scanner import scan_layout
from tailorbird.progress import Progress


@dataclass(frozen=True)
class Joined:
    """A dataset with corrected photos among its training photos.

    used: how many. left_out: (name, reason) of the corrected photos that were not used, and of the training photos that a
    correction replaced. replaced: how many of the latter. new_classes: labels that no training photo had before. conflicts,
    without_photo: as in `Labelled`.
    """

    dataset: Dataset
    used: int
    left_out: tuple[tuple[str, str], ...]
    replaced: int
    new_classes: tuple[str, ...]
    conflicts: int
    without_photo: int

    def as_dict(self) -> dict[str, Any]:
        """What stands in `train --json` and in the model's metadata."""
        return {
            "used": self.used,
            "left_out": len(self.left_out) - self.replaced,
            "replaced": self.replaced,
            "new_classes": list(self.new_classes),
            "conflicts": self.conflicts,
            "without_photo": self.without_photo,
        }

    def sentence(self) -> str:
        """What became of the corrections, for people."""
        left_out = len(self.left_out) - self.replaced
        said = (
            f"Corrections: {_photos(self.used)} joined the training photos, {left_out:,} left out"
        )
        if self.replaced:
            said += f"; {_photos(self.replaced)} of the dataset had another label and gave way"
        if self.new_classes:
            said += f"; new classes, which validation and test cannot score: {', '.join(self.new_classes)}"
        if self.conflicts:
            said += f"; {_photos(self.conflicts)} got different answers, the newest counts"
        if self.without_photo:
            said += f"; {_photos(self.without_photo)} people answered about {_were(self.without_photo)} not kept"
        return said


def _photos(n: int) -> str:
    return f"{n:,} photo{'s' * (n != 1)}"


def _were(n: int) -> str:
    return "was" if n == 1 else "were"


def join(
    dataset: Dataset,
    answered: Labelled,
    *,
    visitor: Visitor | None = None,
    progress: Progress | None = None,
) -> Joined:
    """Add corrected photos to the training photos of a dataset whose splits are made and clean.

    Left out are: photos whose file is missing or cannot be used; photos identical or nearly identical to one in validation
    or test; photos that are a training photo with the same label already; and classes that no training photo has, unless
    there are at least SMALL of them. A training photo identical to one that was corrected to another label gives way, unless
    it is the last of its class.

    visitor: as in `scan`; sees the corrected photos. progress: receives the stage `corrections`.
    """
    left_out = [(name, "the file of this kept photo is missing") for name in answered.missing]
    usable, refused = _scanned(dataset, answered.photos, visitor, progress)
    left_out += refused
    training = {sample.digest: sample for sample in dataset.of("train")}
    known = Counter(sample.label for sample in training.values())

    added: list[tuple[Sample, int]] = []
    for sample, group in usable:
        same = training.get(sample.digest)
        if same is not None and same.label == sample.label:
            left_out.append((sample.name, f"identical to {same.name}, which is kept"))
        else:
            added.append((sample, group))
    added, few = _without_small_classes(added, known)
    left_out += few
    added, last = _without_last_photos(added, training, known)
    left_out += last

    replaced = {sample.digest: sample.label for sample, _ in added if sample.digest in training}
    left_out += [
        (
            sample.name,
            f"people say that this photo shows {replaced[sample.digest]}, not {sample.label}",
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
    )


def _scanned(
    dataset: Dataset,
    photos: Sequence[LabelledPhoto],
    visitor: Visitor | None,
    progress: Progress | None,
) -> tuple[list[tuple[Sample, int]], list[tuple[str, str]]]:
    """The corrected photos that may train, with their duplicate groups, and the others with the reason.

    They are scanned together with the held-out photos, so that the dataset's own rule finds what would leak; the held-out
    photos themselves stay as they are, whatever it says about them. The training photos play no part: the groups of the
    dataset, and with them its splits, cannot change.
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
) -> tuple[list[tuple[Sample, int]], list[tuple[str, str]]]:
    counts = Counter(sample.label for sample, _ in added)
    small = {label: n for label, n in counts.items() if label not in known and n < SMALL}
    left_out = [
        (
            sample.name,
            f"no training photo is labelled {sample.label}, and {small[sample.label]} corrected ones are too few for "
            f"a new class: {SMALL} are the least",
        )
        for sample, _ in added
        if sample.label in small
    ]
    return [item for item in added if item[0].label not in small], left_out


def _without_last_photos(
    added: list[tuple[Sample, int]], training: dict[str, Sample], known: Counter[str]
) -> tuple[list[tuple[Sample, int]], list[tuple[str, str]]]:
    """Without the corrections that would take the last training photo of a class that validation and test still ask for."""
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
