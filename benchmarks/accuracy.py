"""Test accuracy of `tailorbird train` with every backbone, on three real data sets and three seeds,
with the time of the whole command: one table.

    python benchmarks/accuracy.py [BACKBONE ...] [--only] [--data trashnet] [--seeds 0,1,2]
        [--options "--refit"] [--cache FOLDER] [--cross-validate]

The rows are the shipped backbones, those of shared/weights, `lite` with --mirror, `lite,pocket`,
and both together. More backbones are given by name or file, such as those that `tailorbird
backbones pull` installed; several separated by commas are joined, and a name that ends in +mirror
is trained with --mirror. --only leaves the usual rows out. Every row has a cache of its own: its
first seed starts cold, the others find the features. CPU seconds, of all cores together, depend
little on what else runs. Each row is printed when it is finished. The ratio is the mean accuracy of
`lite` on clothing over 0.91, the figure asked for.

With --cross-validate the test photos are not used, so that defaults can be chosen by it: 5 folds of
train and validation together, each judged by a head that was searched on the other four, of which a
fifth is its validation set.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
from pathlib import Path
from typing import Any

import numpy as np
from common import SHARED, folder, report, tailorbird

DATA = ("clothing-dataset-small", "trashnet", "sign-digits")
MIRROR = "+mirror"
COMBINED = ("lite+mirror", "lite,pocket", "lite,pocket+mirror")
FOLDS = 5


def rows() -> list[str]:
    """Return the usual rows: shipped backbones, files of shared/weights, combinations."""
    from tailorbird.backbone.catalogue import SHIPPED

    files = sorted((SHARED / "weights").glob("*.backbone.onnx"))
    return [*SHIPPED, *map(str, files), *COMBINED]


def name_of(row: str) -> str:
    return ",".join(Path(part).name.split(".")[0] for part in row.split(","))


def trained(
    data: str, row: str, seed: int, options: str, place: Path, cache: Path
) -> tuple[float, float, dict[str, Any]]:
    """Run the command; return its seconds, its CPU seconds on all cores, and its JSON object."""
    before = os.times()
    wall, out = tailorbird(
        "train", SHARED / "data" / data, "-o", place / "m.onnx", "--backbone", _files(row),
        *["--mirror"] * row.endswith(MIRROR), "--seed", seed, "--json", "-q",
        *shlex.split(options), cache=cache,
    )  # fmt: skip
    after = os.times()
    used = after.children_user + after.children_system
    return wall, used - before.children_user - before.children_system, json.loads(out)


def _files(row: str) -> str:
    """Return the backbones of a row; pulled ones, which lie in the user's cache, as files."""
    from tailorbird.backbone.catalogue import SHIPPED, find

    names = row.removesuffix(MIRROR).split(",")
    return ",".join(name if name in SHIPPED else str(find(name)) for name in names)


def table_row(data: str, row: str, seeds: list[int], given: argparse.Namespace) -> float:
    """Train with each seed, print the row and return the mean test accuracy."""
    with folder() as place:
        cache = given.cache or place / "cache"
        runs = [trained(data, row, seed, given.options, place, cache) for seed in seeds]
    scores = [found["scores"]["test"] for _, _, found in runs]
    took = [f"{wall:.0f} ({cpu:.0f})" for wall, cpu, _ in runs]
    mean = statistics.mean(score["accuracy"] for score in scores)
    cells = (
        data,
        name_of(row),
        " ".join(f"{score['accuracy']:.4f}" for score in scores),
        f"{mean:.4f}",
        " ".join(f"{score['log_loss']:.3f}" for score in scores),
        took[0],
        ", ".join(took[1:]),
        f"{os.getloadavg()[0]:.0f}",
    )
    print("| " + " | ".join(cells) + " |", flush=True)
    return mean


def cross_validated(data: str, row: str, seed: int) -> tuple[float, float]:
    """Return accuracy and log-loss over all photos of train and validation."""
    from tailorbird.experiments.cross_validation import fold_numbers
    from tailorbird.experiments.data import read_data
    from tailorbird.head import search
    from tailorbird.head.network import log_loss

    photos = read_data(
        SHARED / "data" / data, backbone=_files(row), mirror=row.endswith(MIRROR), seed=seed
    )
    features, labels, groups = photos.features[0], photos.labels, photos.groups
    folds = fold_numbers(labels, groups, FOLDS, (seed, 0))
    right, loss = 0, 0.0
    for fold in range(FOLDS):
        held, rest = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        inner = fold_numbers(labels[rest], groups[rest], FOLDS, (seed, 1, fold))
        train, validation = rest[inner != 0], rest[inner == 0]
        head = search(
            features[train][None],
            labels[train],
            features[validation],
            labels[validation],
            classes=len(photos.classes),
            seed=seed,
        ).best.head
        logits = head.logits(features[held])
        right += int((logits.argmax(axis=1) == labels[held]).sum())
        loss += float(log_loss(logits, labels[held])) * len(held)
    return right / len(labels), loss / len(labels)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("backbones", nargs="*", metavar="BACKBONE", help="further rows")
    parser.add_argument("--only", action="store_true", help="only the rows that are given")
    parser.add_argument("--data", nargs="+", choices=DATA, default=DATA)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--options", default="", help="further options of `tailorbird train`")
    parser.add_argument(
        "--cache", type=Path, help="one cache for all rows and later runs; no row is cold then"
    )
    parser.add_argument(
        "--cross-validate", action="store_true", help="use train and validation, not test"
    )
    given = parser.parse_args()
    seeds = [int(part) for part in given.seeds.split(",")]
    wanted = [*([] if given.only else rows()), *given.backbones]
    if given.cross_validate:
        if given.cache:
            os.environ["TAILORBIRD_CACHE"] = str(given.cache)
        print(
            "| data set | backbone | seed | accuracy | log-loss |\n| --- | --- | --- | --- | --- |"
        )
        for data in given.data:
            for row in wanted:
                for seed in seeds:
                    accuracy, loss = cross_validated(data, row, seed)
                    cells = (data, name_of(row), f"{seed}", f"{accuracy:.4f}", f"{loss:.4f}")
                    print("| " + " | ".join(cells) + " |", flush=True)
        return
    print(
        "| data set | backbone | test accuracy, seeds " + " ".join(map(str, seeds)) + " | mean | "
        "log-loss | cold, s (CPU s) | cached, s (CPU s) | load |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- |"
    )
    means = {
        f"{data} {name_of(row)}": table_row(data, row, seeds, given)
        for data in given.data
        for row in wanted
    }
    asked = means.get(f"{DATA[0]} lite")
    if asked is not None:
        report("accuracy", asked / 0.91, ">= 1", **means)


if __name__ == "__main__":
    main()
