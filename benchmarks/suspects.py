"""How well `scan --suspects` finds wrong labels: 5% of the labels are flipped, and one looks where
the flipped ones rank.

    python benchmarks/suspects.py [--photos FOLDER] [--backbone NAME] [--share 0.05] [--seeds 0,1,2]

Prints, for each seed and each way of ranking (self-confidence, normalised margin,
confidence-weighted entropy, self-confidence less its class's mean: the scores of Northcutt et al.
2021 and of the cleanlab package), the share of flipped labels among the first 8% and the average
precision; how many labels are reported and how many of them were flipped, beside the plain
confident joint; and what is reported on the labels as they are. Where cleanlab is installed (`pip
install cleanlab`; AGPL, so nothing of tailorbird depends on it), its `find_label_issues` judges the
same probabilities. The ratio is the mean share at 8% over 0.7, the figure asked for.
"""

from __future__ import annotations

import importlib.util
import statistics
import time

import numpy as np
from common import parser, report
from sklearn.metrics import average_precision_score

from tailorbird.backbone import open_backbone
from tailorbird.dataset import scan
from tailorbird.features import Embedder
from tailorbird.label_errors import confident
from tailorbird.label_errors.crossfit import out_of_fold

FIRST = 0.08


def flipped(
    labels: np.ndarray, classes: int, share: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return labels with a share changed at random, and which ones were changed."""
    random = np.random.default_rng(seed)
    chosen = random.choice(len(labels), round(share * len(labels)), replace=False)
    noisy, wrong = labels.copy(), np.zeros(len(labels), bool)
    noisy[chosen] = (noisy[chosen] + random.integers(1, classes, len(chosen))) % classes
    wrong[chosen] = True
    return noisy, wrong


def scores(found: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Return each label's suspicion, by ranking method."""
    rows = np.arange(len(labels))
    own = confident.self_confidence(found, labels)
    other = found[rows, confident.most_probable_other(found, labels)]
    entropy = -(found * np.log(np.maximum(found, 1e-12))).sum(axis=1) / np.log(found.shape[1])
    return {
        "self-confidence": -own,
        "normalised margin": other - own,
        "confidence-weighted entropy": entropy / np.maximum(own, 1e-6),
        "less class mean": confident.thresholds(found, labels)[labels] - own,
    }


def reported(name: str, chosen: np.ndarray, wrong: np.ndarray) -> str:
    return f"{name} {chosen.sum()} of which {(chosen & wrong).sum()} flipped"


def counts(found: np.ndarray, labels: np.ndarray, wrong: np.ndarray) -> str:
    """Return the counts reported by tailorbird, the whole off-diagonal, and cleanlab."""
    counted = confident.confident_classes(found, labels)
    said = [
        reported("reported", confident.reported(found, labels), wrong),
        reported("confident joint", (counted >= 0) & (counted != labels), wrong),
    ]
    if importlib.util.find_spec("cleanlab"):
        from cleanlab.filter import find_label_issues

        said.append(reported("cleanlab", find_label_issues(labels, found), wrong))
    return "; ".join(said)


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--share", type=float, default=0.05, help="of the labels that are flipped")
    options.add_argument("--seeds", default="0,1,2")
    given = options.parse_args()
    embedder = Embedder(open_backbone(given.backbone))
    dataset = scan(given.photos, visitor=embedder)
    embedder.flush()
    features = embedder.matrix(dataset.samples)
    labels = np.array([dataset.classes.index(sample.label) for sample in dataset.samples], np.int64)
    classes, first = len(dataset.classes), round(FIRST * len(labels))

    start = time.perf_counter()
    found = out_of_fold(features, labels, dataset.groups, classes=classes)
    seconds = time.perf_counter() - start
    print(f"as labelled: {counts(found, labels, np.zeros(len(labels), bool))}; {seconds:.1f} s")
    shares: dict[str, list[float]] = {}
    precisions: dict[str, list[float]] = {}
    for seed in map(int, given.seeds.split(",")):
        noisy, wrong = flipped(labels, classes, given.share, seed)
        found = out_of_fold(features, noisy, dataset.groups, classes=classes, seed=seed)
        for name, suspicion in scores(found, noisy).items():
            order = np.argsort(-suspicion, kind="stable")
            share = float(wrong[order[:first]].sum() / wrong.sum())
            shares.setdefault(name, []).append(share)
            precisions.setdefault(name, []).append(float(average_precision_score(wrong, suspicion)))
        print(
            f"seed {seed}: {wrong.sum()} of {len(labels)} flipped, "
            f"{shares['self-confidence'][-1]:.3f} of them in the first {FIRST:.0%}; "
            f"{counts(found, noisy, wrong)}",
            flush=True,
        )
    for name, values in shares.items():
        print(
            f"{name:28} {statistics.mean(values):.3f} in the first {FIRST:.0%}, average "
            f"precision {statistics.mean(precisions[name]):.3f}"
        )
    asked = statistics.mean(shares["self-confidence"])
    report(
        "suspects",
        asked / 0.7,
        ">= 1",
        at_8_percent=asked,
        average_precision=statistics.mean(precisions["self-confidence"]),
    )


if __name__ == "__main__":
    main()
