"""Read what `tailorbird predict --csv` wrote: the model's first guesses about photos."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tailorbird.dataset import Sample, printable
from tailorbird.dataset.labels import normal_label
from tailorbird.dataset.table import read_header
from tailorbird.errors import DatasetError
from tailorbird.files import exact_cell
from tailorbird.label_errors import Suspect

COLUMNS: Final = ("path", "label", "probability", "unsure", "label2", "probability2")
"""Columns that are read; `predict --csv --top 1` lacks the last two."""


@dataclass(frozen=True, slots=True)
class Guess:
    """A prediction: the two most probable classes with their probabilities, and the unsure flag."""

    label: str
    probability: float
    second: str
    second_probability: float
    unsure: bool


@dataclass(frozen=True)
class Predictions:
    """The predictions of a file.

    by_place: by the photo's absolute path. failed: number of photos without a prediction.
    """

    by_place: Mapping[str, Guess]
    failed: int

    def of(self, samples: Sequence[Sample]) -> dict[Sample, Guess]:
        """Return the prediction of each photo that has one.

        Photos are matched by their place. A photo that was moved is matched by its file name, if no
        other photo and no other prediction has the same name.
        """
        here = Counter(sample.path.name for sample in samples)
        there = Counter(Path(place).name for place in self.by_place)
        by_name = {
            Path(place).name: guess
            for place, guess in self.by_place.items()
            if there[Path(place).name] == 1
        }
        found = {}
        for sample in samples:
            guess = self.by_place.get(os.path.normpath(sample.path.absolute()))
            if guess is None and here[sample.path.name] == 1:
                guess = by_name.get(sample.path.name)
            if guess is not None:
                found[sample] = guess
        return found


def is_predictions(path: Path) -> bool:
    """Whether a file is the CSV of `predict`. Raises DatasetError if it is unreadable."""
    return path.is_file() and set(COLUMNS) <= set(read_header(path))


def read_predictions(path: Path) -> Predictions:
    """Read the CSV of `predict`. Relative paths are relative to its folder.

    Raises DatasetError for another file, or a row that `predict` would not write.
    """
    shown = printable(str(path))
    if not path.is_file() or not is_predictions(path):
        raise DatasetError(
            f"{shown} is not a CSV of predictions; write one with `tailorbird predict MODEL PHOTOS "
            "--csv > guesses.csv`, with two classes for each photo or more (--top)"
        )
    guesses: dict[str, Guess] = {}
    failed = 0
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        for row in csv.DictReader(file):
            if row.get("error"):
                failed += 1
                continue
            place = os.path.normpath(path.parent.absolute() / exact_cell(row["path"] or ""))
            try:
                guesses[place] = Guess(
                    normal_label(exact_cell(row["label"])),
                    float(row["probability"]),
                    normal_label(exact_cell(row["label2"])),
                    float(row["probability2"]),
                    {"true": True, "false": False}[row["unsure"].lower()],
                )
            except (ValueError, KeyError, AttributeError, TypeError):
                name = printable(str(row["path"]))
                raise DatasetError(
                    f"{shown}: the row of {name} is not a prediction; write the file again with "
                    "`tailorbird predict MODEL PHOTOS --csv`"
                ) from None
    return Predictions(guesses, failed)


def doubtful(found: Mapping[Sample, Guess]) -> tuple[list[Suspect], list[Suspect]]:
    """Return the photos to look at, the most useful first: unsure ones, and contradicted labels.

    Unsure photos come by rising probability of the first guess; the second class is suggested. A
    contradicted label is another than that of a sure prediction, the surest first.
    """
    unsure = sorted(
        ((sample, guess) for sample, guess in found.items()
         if guess.unsure and guess.label == sample.label),
        key=lambda pair: (pair[1].probability, pair[0].name),
    )  # fmt: skip
    other = sorted(
        ((sample, guess) for sample, guess in found.items() if guess.label != sample.label),
        key=lambda pair: (pair[1].unsure, -pair[1].probability, pair[0].name),
    )
    first = [
        Suspect(sample, sample.label, guess.second, guess.probability, guess.second_probability,
                1 - guess.probability, rank)
        for rank, (sample, guess) in enumerate(unsure, start=1)
    ]  # fmt: skip
    second = []
    for rank, (sample, guess) in enumerate(other, start=len(unsure) + 1):
        own = guess.second_probability if guess.second == sample.label else 0.0
        second.append(
            Suspect(sample, sample.label, guess.label, own, guess.probability, 1 - own, rank)
        )
    return first, second
