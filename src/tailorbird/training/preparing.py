"""From scanned photos to the splits that are trained on, checked on and tested on."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tailorbird.dataset import Dataset, Sample, clean, split
from tailorbird.errors import DatasetError


@dataclass(frozen=True)
class LeftOut:
    """A photo that took no part, and why."""

    path: str
    reason: str


def prepare(scanned: Dataset, seed: int) -> tuple[Dataset, tuple[LeftOut, ...]]:
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
    dataset = replace(
        dataset,
        samples=tuple(sample for sample, _ in kept),
        groups=tuple(group for _, group in kept),
    )
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
