"""Test accuracy of `tailorbird train` on three real data sets, two backbones and three seeds, with
the time of each command.

    python benchmarks/accuracy.py [--seeds 0,1,2] [--options "--refit"]

The first seed of each pair starts with an empty cache (cold), the others find the features. The
ratio is the mean test accuracy on clothing with MobileNetV2 over 0.875, the figure asked for.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
from pathlib import Path

from common import MOBILENET, SHARED, folder, report, tailorbird

DATA = ("clothing-dataset-small", "trashnet", "sign-digits")


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--seeds", default="0,1,2")
    options.add_argument("--options", default="", help="further options of `tailorbird train`")
    given = options.parse_args()
    seeds = [int(part) for part in given.seeds.split(",")]
    means: dict[str, float] = {}
    for data in DATA:
        for backbone in (str(MOBILENET), "pocket"):
            name = Path(backbone).name.split(".")[0]
            accuracies = []
            with folder() as place:
                for seed in seeds:
                    wall, out = tailorbird(
                        "train",
                        SHARED / "data" / data,
                        "-o",
                        place / "m.onnx",
                        "--backbone",
                        backbone,
                        "--seed",
                        seed,
                        "--json",
                        "-q",
                        *shlex.split(given.options),
                        cache=place / "cache",
                    )
                    found = json.loads(out)
                    test = found["scores"]["test"]
                    accuracies.append(test["accuracy"])
                    low, high = test["interval"]
                    print(
                        f"{data:24} {name:22} seed {seed}: test {test['accuracy']:.4f} "
                        f"[{low:.3f}, {high:.3f}] of {test['n']}, "
                        f"macro F1 {test['macro']['f1']:.3f}, log-loss {test['log_loss']:.3f}, "
                        f"ECE {test['ece']:.3f}, "
                        f"left out {len(found['left_out'])}, {wall:.1f} s ({found['embedded']} "
                        "embedded)",
                        flush=True,
                    )
            means[f"{data} {name}"] = statistics.mean(accuracies)
    for name, mean in means.items():
        print(f"{name}: mean {mean:.4f}")
    asked = means[f"{DATA[0]} mobilenetv2_imagenet"]
    report("accuracy", asked / 0.875, ">= 1", **means)


if __name__ == "__main__":
    main()
