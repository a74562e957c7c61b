"""Test accuracy of `tailorbird train` with every backbone, on three real data sets and three seeds,
with the time of the whole command: one table.

    python benchmarks/accuracy.py [BACKBONE ...] [--only] [--data trashnet] [--seeds 0,1,2]
        [--options "--refit"] [--cache FOLDER]

The rows are the shipped backbones, those of shared/weights, `lite` with --mirror, `lite,pocket`,
and both together. More backbones are given by name or file, such as those that `tailorbird
backbones pull` installed; several separated by commas are joined, and a name that ends in +mirror
is trained with --mirror. --only leaves the usual rows out. Every row has a cache of its own: its
first seed starts cold, the others find the features. CPU seconds, of all cores together, depend
little on what else runs. Each row is printed when it is finished. The ratio is the mean accuracy of
`lite` on clothing over 0.91, the figure asked for.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
from pathlib import Path
from typing import Any

from common import SHARED, folder, report, tailorbird

DATA = ("clothing-dataset-small", "trashnet", "sign-digits")
MIRROR = "+mirror"
COMBINED = ("lite+mirror", "lite,pocket", "lite,pocket+mirror")


def rows() -> list[str]:
    """Return the usual rows: shipped backbones, files of shared/weights, combinations."""
    from tailorbird.backbone.catalogue import SHIPPED

    files = sorted((SHARED / "weights").glob("*.backbone.onnx"))
    return [*SHIPPED, *map(str, files), *COMBINED]


def trained(
    data: str, row: str, seed: int, options: str, place: Path, cache: Path
) -> tuple[float, float, dict[str, Any]]:
    """Run the command; return its seconds, its CPU seconds on all cores, and its JSON object."""
    backbone = row.removesuffix(MIRROR)
    # Pulled backbones lie in the user's cache folder, which the command does not use here.
    found = [str(_file(name)) for name in backbone.split(",")]
    before = os.times()
    wall, out = tailorbird(
        "train", SHARED / "data" / data, "-o", place / "m.onnx", "--backbone", ",".join(found),
        *["--mirror"] * row.endswith(MIRROR), "--seed", seed, "--json", "-q",
        *shlex.split(options), cache=cache,
    )  # fmt: skip
    after = os.times()
    used = after.children_user + after.children_system
    return wall, used - before.children_user - before.children_system, json.loads(out)


def _file(name: str) -> Path | str:
    from tailorbird.backbone.catalogue import SHIPPED, find

    return name if name in SHIPPED else find(name)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("backbones", nargs="*", metavar="BACKBONE", help="further rows")
    parser.add_argument("--only", action="store_true", help="only the rows that are given")
    parser.add_argument("--data", nargs="+", choices=DATA, default=DATA)
    parser.add_argument(
        "--cache", type=Path, help="one cache for all rows and later runs; no row is cold then"
    )
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--options", default="", help="further options of `tailorbird train`")
    given = parser.parse_args()
    seeds = [int(part) for part in given.seeds.split(",")]
    means: dict[str, float] = {}
    print(
        "| data set | backbone | test accuracy, seeds " + " ".join(map(str, seeds)) + " | mean | "
        "log-loss | cold, s (CPU s) | cached, s (CPU s) | load |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- |"
    )
    for data in given.data:
        for row in [*([] if given.only else rows()), *given.backbones]:
            name = ",".join(Path(part).name.split(".")[0] for part in row.split(","))
            with folder() as place:
                cache = given.cache or place / "cache"
                runs = [trained(data, row, seed, given.options, place, cache) for seed in seeds]
            scores = [found["scores"]["test"] for _, _, found in runs]
            took = [f"{wall:.0f} ({cpu:.0f})" for wall, cpu, _ in runs]
            accuracies = [score["accuracy"] for score in scores]
            means[f"{data} {name}"] = statistics.mean(accuracies)
            cells = (
                data,
                name,
                " ".join(f"{accuracy:.4f}" for accuracy in accuracies),
                f"{statistics.mean(accuracies):.4f}",
                " ".join(f"{score['log_loss']:.3f}" for score in scores),
                took[0],
                ", ".join(took[1:]),
                f"{os.getloadavg()[0]:.0f}",
            )
            print("| " + " | ".join(cells) + " |", flush=True)
    asked = means.get(f"{DATA[0]} lite")
    if asked is not None:
        report("accuracy", asked / 0.91, ">= 1", **means)


if __name__ == "__main__":
    main()
