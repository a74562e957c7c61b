"""Measure the test accuracy of fine-tuned networks, three seeds, in PyTorch or in Keras.

    python benchmarks/finetune_accuracy.py [--network lite|mobilenet] [--engine timm|keras]
        [--photos FOLDER] [--seeds 0,1,2] [--options "--epochs 20"] [--again]

`lite` is the float32 network of the default backbone (PyTorch only); `mobilenet` is MobileNetV2
with the same weights in both engines, so that the two can be compared. A seed that is finished is
kept in --keep and not run again. Each run is `tailorbird train --finetune` with the default
settings, or --options; the first starts with an empty cache, the others with cached features.
Validation decides what is kept; the test photos are scored once a seed. The ratio is the mean test
accuracy over the target.
"""

from __future__ import annotations

import json
import shlex
import statistics
from dataclasses import dataclass
from pathlib import Path

from common import KERAS_WEIGHTS, SHARED, parser, report, tailorbird


@dataclass(frozen=True)
class Source:
    """Where a network comes from: its reference, weights, further options of `pull`, and name."""

    reference: str
    weights: Path
    options: tuple[str, ...]
    backbone: str


SOURCES = {
    ("lite", "timm"): Source(
        "timm:tf_efficientnet_lite2",
        SHARED / "weights" / "efficientnet_lite2_imagenet.timm.safetensors",
        (),
        "lite",
    ),
    ("mobilenet", "timm"): Source(
        "timm:mobilenetv2_100",
        SHARED / "weights" / "mobilenetv2_imagenet.timm.safetensors",
        ("--model-args", "pad_type=same,bn_eps=0.001,mean=0.5,std=0.5"),
        "mobilenetv2_100",
    ),
    ("mobilenet", "keras"): Source("keras:MobileNetV2", KERAS_WEIGHTS, (), "MobileNetV2"),
}
TARGETS = {"lite": 0.95, "mobilenet": 0.915}


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--network", choices=TARGETS, default="lite")
    options.add_argument("--engine", choices=("timm", "keras"), default="timm")
    options.add_argument("--target", type=float, help="by default 0.95 for lite, as on clothing")
    options.add_argument("--seeds", default="0,1,2")
    options.add_argument("--options", default="", help="further options of `tailorbird train`")
    options.add_argument("--keep", type=Path, default=Path("build/finetune_accuracy"))
    options.add_argument("--again", action="store_true", help="forget what is done")
    given = options.parse_args()
    source = SOURCES.get((given.network, given.engine))
    if source is None:
        options.error(f"{given.network} can be trained with timm only")
    keep = given.keep / f"{given.photos.name}-{given.network}-{given.engine}"
    keep.mkdir(parents=True, exist_ok=True)
    cache = (given.keep / "cache").resolve()
    pull = ["backbones", "pull", source.reference, "--weights", source.weights, "-q"]
    tailorbird(*pull, *source.options, cache=cache)
    target = given.target or TARGETS[given.network]
    accuracies, seconds = [], []
    for seed in given.seeds.split(","):
        kept = keep / f"seed-{seed}.json"
        if given.again:
            kept.unlink(missing_ok=True)
        if not kept.exists():
            command = ["train", given.photos, "-o", keep / f"seed-{seed}.onnx", "--finetune"]
            command += ["--engine", given.engine, "--backbone", source.backbone, "--seed", seed]
            wall, out = tailorbird(*command, "--json", *shlex.split(given.options), cache=cache)
            train = json.loads(out.splitlines()[-1])
            kept.write_text(json.dumps({"wall": wall, "options": given.options, "train": train}))
        found = json.loads(kept.read_text())
        validation, test = (found["train"]["scores"][part] for part in ("validation", "test"))
        low, high = test["interval"]
        accuracies.append(test["accuracy"])
        seconds.append(found["wall"])
        frozen = found["train"]["finetune"]["start"]["accuracy"]
        print(
            f"seed {seed}: {found['wall']:.0f} s, validation {validation['accuracy']:.4f} (frozen "
            f"{frozen:.4f}), test {test['accuracy']:.4f} [{low:.3f}, {high:.3f}] of {test['n']}, "
            f"log-loss {test['log_loss']:.3f}, ECE {test['ece']:.3f} {found['options']}",
            flush=True,
        )
    report(
        "finetune_accuracy",
        statistics.mean(accuracies) / target,
        ">= 1",
        photos=given.photos.name,
        network=given.network,
        engine=given.engine,
        mean=statistics.mean(accuracies),
        accuracies=accuracies,
        seconds=[round(value) for value in seconds],
    )


if __name__ == "__main__":
    main()
