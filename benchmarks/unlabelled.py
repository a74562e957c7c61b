"""How many wrong guesses a review shows first, with predictions and without.

A model is trained on a dataset's train and validation photos; its test photos, without their
labels, are guessed and the guesses reviewed: `python benchmarks/unlabelled.py PHOTOS`.
"""

from __future__ import annotations

import csv
import sys
import tempfile
from pathlib import Path

import tailorbird
from tailorbird.dataset.layout import find
from tailorbird.review import Review, open_review


def shown(review: Review, kind: str) -> list[Path]:
    """Return the photos of one kind of item, in the order in which they are shown."""
    samples = review.dataset.samples
    return [samples[item.photos[0]].path for item in review.items if item.kinds[0] == kind]


def main() -> None:
    """Train, guess, review, print."""
    photos = Path(sys.argv[1])
    true = {entry.path: entry.label for entry in find(photos).entries if entry.split == "test"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tailorbird.train(photos, folder / "model.onnx", report=False)
        model = tailorbird.load(folder / "model.onnx")
        header = ["path", "label", "probability", "unsure", "label2", "probability2"]
        wrong = set()
        with (
            (folder / "guesses.csv").open("w", newline="", encoding="utf-8") as guessed,
            (folder / "labels.csv").open("w", newline="", encoding="utf-8") as labelled,
        ):
            guesses, labels = csv.writer(guessed), csv.writer(labelled)
            guesses.writerow(header)
            labels.writerow(header[:2])
            for path, answer in zip(true, model.predict(list(true)), strict=True):
                (label, p), (second, p2) = answer.top[:2]
                unsure = str(answer.unsure).lower()
                guesses.writerow([path.resolve(), label, p, unsure, second, p2])
                labels.writerow([path.resolve(), label])
                if label != true[path]:
                    wrong.add(path.resolve())
        first = shown(open_review(folder / "guesses.csv"), "unsure")
        alone = shown(open_review(folder / "labels.csv"), "suspect-label")
    print(f"{len(true)} photos, {len(wrong)} wrong guesses")
    print(
        f"with predictions: {len(first)} unsure photos first, {len(wrong & {*first})} of them wrong"
    )
    for count in (20, 40):
        print(f"  of the first {count}: {len(wrong & {*first[:count]})} wrong")
    print(f"without: {len(alone)} suspect labels, {len(wrong & {*alone})} of them wrong")


if __name__ == "__main__":
    main()
