"""Labelled photos for a model that was trained elsewhere: which of them calibrate and which score, and the network's logits of them."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tailorbird.dataset import Dataset, Sample, clean, pixels_of, scan
from tailorbird.errors import BackboneError, DatasetError
from tailorbird.head import Head
from tailorbird.images import ResizeRule
from tailorbird.inference import Runner
from tailorbird.model.graph import BackboneGraph
from tailorbird.progress import Progress

_UNUSABLE: Final = frozenset({"unreadable", "unsupported", "too-large", "outside-link"})


@dataclass(frozen=True)
class Photos:
    """Labelled photos. calibration, test: those that choose temperature and threshold, and those that score. how: in words.

    unknown: labels the model does not have, with the number of their photos. left_out: (path, reason).
    """

    dataset: Dataset
    calibration: tuple[Sample, ...]
    test: tuple[Sample, ...]
    how: str
    unknown: dict[str, int]
    left_out: tuple[tuple[str, str], ...]


def read_photos(
    source: str | Path, classes: Sequence[str], seed: int, progress: Progress
) -> Photos:
    """Scan labelled photos and share them out.

    With the splits validation and test, the first calibrates and the second scores; with one of them, its halves do; photos in `train` may
    be those the model was trained on and take no part while there are others. Without splits the halves of all photos do. Halves are
    stratified by class, and photos that show the same picture stay together. Raises DatasetError.
    """
    scanned = scan(source, progress=progress)
    left_out = [
        (path, finding.message)
        for finding in scanned.findings
        if finding.kind in _UNUSABLE
        for path in finding.paths
    ]
    known = [
        (sample, group)
        for sample, group in zip(scanned.samples, scanned.groups, strict=True)
        if sample.label in classes
    ]
    unknown = dict(
        sorted(
            Counter(
                sample.label for sample in scanned.samples if sample.label not in classes
            ).items()
        )
    )
    if not known:
        raise DatasetError(
            f"{source} holds no photo of the model's classes: its labels are {_some(scanned.classes)}, the classes {_some(classes)}; "
            "they are matched by name"
        )
    left_out += [
        (sample.name, f"the model has no class {sample.label!r}")
        for sample in scanned.samples
        if sample.label in unknown
    ]
    splits = {sample.split for sample, _ in known}
    if splits >= {"validation", "test"}:
        chosen, how = known, "calibrated on validation, scored on test"
    else:
        one = next((name for name in ("test", "validation") if name in splits), None)
        chosen = _halved([entry for entry in known if one is None or entry[0].split == one], seed)
        how = f"calibrated on one half of {one or 'the photos'}, scored on the other"
        if splits == {"train"}:
            how += "; the only split is train: if the model was trained on these photos, the scores say nothing about new ones"
    kept = [(sample, group) for sample, group in chosen if sample.split in ("validation", "test")]
    dataset = replace(
        scanned,
        samples=tuple(sample for sample, _ in kept),
        groups=tuple(group for _, group in kept),
    )
    cleaned, dropped = clean(dataset)
    left_out += [(sample.name, reason) for sample, reason in dropped]
    parts = {
        name: tuple(sample for sample in cleaned.samples if sample.split == name)
        for name in ("validation", "test")
    }
    for name, part in parts.items():
        if not part:
            raise DatasetError(
                f"{source}: no photo is left for {'calibration' if name == 'validation' else 'scoring'} out of {len(known):,} with known labels; "
                "at least two different photos of a class are needed"
            )
    return Photos(cleaned, parts["validation"], parts["test"], how, unknown, tuple(left_out))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def _halved(entries: Sequence[tuple[Sample, int]], seed: int) -> list[tuple[Sample, int]]:
    """Each class's pictures dealt out to validation and test in turn, in the order of a hash of their content."""
    members: dict[int, list[Sample]] = defaultdict(list)
    for sample, group in entries:
        members[group].append(sample)
    places: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for group, samples in members.items():
        first = min(samples, key=lambda sample: (sample.digest, sample.label))
        places[first.label].append(
            (hashlib.sha256(f"{seed}:{first.digest}".encode()).hexdigest(), group)
        )
    halves: dict[int, str] = {}
    turn = 0  # goes on over the classes, so that classes of one photo do not all fall into the same half
    for _, found in sorted(places.items()):
        for _, group in sorted(found):
            halves[group] = ("test", "validation")[turn % 2]
            turn += 1
    return [(replace(sample, split=halves[group]), group) for sample, group in entries]


class ImportedNetwork:
    """The imported network, opened to run on photos."""

    def __init__(self, backbone_graph: BackboneGraph, head: Head, name: str) -> None:
        """Open the network. Raises BackboneError."""
        self._runner = Runner(backbone_graph.proto, name, BackboneError)
        self._head = head

    def logits(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return the logits, float32 (N, C), of uint8 (N, S, S, 3)."""
        return self._head.logits(self._runner.run(images, ["features"])[0])

    def logits_of(
        self, samples: Sequence[Sample], rule: ResizeRule, progress: Progress
    ) -> npt.NDArray[np.float32]:
        """Read photos and return their logits, float32 (N, C)."""
        rows = []
        for row in self._runner.rows(samples, lambda sample: pixels_of(sample, rule), "features"):
            rows.append(row)
            progress.advance(len(rows), len(samples))
        return self._head.logits(np.stack(rows))


def spread(samples: Sequence[Any], most: int) -> list[Any]:
    """At most `most` of them, evenly spread."""
    if len(samples) <= most:
        return list(samples)
    return [
        samples[i] for i in np.unique(np.linspace(0, len(samples) - 1, most).round().astype(int))
    ]
