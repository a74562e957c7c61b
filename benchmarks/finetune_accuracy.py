"""Measure the test accuracy of a fine-tuned MobileNetV2 on clothing-dataset-small, three seeds.

    python benchmarks/finetune_accuracy.py [--seeds 0,1,2] [--options "--epochs 9"] [--again]

A seed that is finished is kept in --keep and not run again. Each run is `tailorbird train --engine
keras --finetune` with the default settings, or --options; the first starts with an empty cache, the
others with cached features. The ratio is the mean test accuracy over 0.915.
"""

from __future__ import annotations

import json
import shlex
import statistics
from pathlib import Path

from common import KERAS_WEIGHTS, parser, report, tailorbird


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--weights", type=Path, default=KERAS_WEIGHTS)
    options.add_argument("--seeds", default="0,1,2")
    options.add_argument("--options", default="", help="further options of `tailorbird train`")
    options.add_argument(
        "--keep", type=Path, default=Path("build/finetune_accuracy"), help="folder for what is done"
    )
    options.add_argument("--again", action="store_true", help="forget what is done")
    given = options.parse_args()
    given.keep.mkdir(parents=True, exist_ok=True)
    cache = (given.keep / "cache").resolve()
    tailorbird(
        "backbones", "pull", "keras:MobileNetV2", "--weights", given.weights, "-q", cache=cache
    )
    accuracies, seconds = [], []
    for seed in given.seeds.split(","):
        kept = given.keep / f"seed-{seed}.json"
        if given.again:
            kept.unlink(missing_ok=True)
        if not kept.exists():
            wall, out = tailorbird(
                "train",
                given.photos,
                "-o",
                given.keep / f"seed-{seed}.onnx",
                "--engine",
                "keras",
                "--finetune",
                "--backbone",
                "MobileNetV2",
                "--seed",
                seed,
                "--json",
                *shlex.split(given.options),
                cache=cache,
            )
            kept.write_text(
                json.dumps(
                    {
                        "wall": wall,
                        "options": given.options,
                        "train": json.loads(out.splitlines()[-1]),
                    }
                )
            )
        found = json.loads(kept.read_text())
        validation, test = (found["train"]["scores"][part] for part in ("validation", "test"))
        low, high = test["interval"]
        accuracies.append(test["accuracy"])
        seconds.append(found["wall"])
        print(
            f"seed {seed}: {found['wall']:.0f} s, validation {validation['accuracy']:.4f}, "
            f"test {test['accuracy']:.4f} [{low:.3f}, {high:.3f}] of {test['n']}, "
            f"log-loss {test['log_loss']:.3f}, ECE {test['ece']:.3f} {found['options']}",
            flush=True,
        )
    report(
        "finetune_accuracy",
        statistics.mean(accuracies) / 0.915,
        ">= 1",
        mean=statistics.mean(accuracies),
        accuracies=accuracies,
        seconds=[round(value) for value in seconds],
    )


if __name__ == "__main__":
    main()
