"""Differences of answers between this processor, an emulated one, and int8 computed in float32.

For each float backbone: its features, those of its int8 version (weights of 7 bits), and of one
with weights of 8 bits, on this processor and on an emulated one without VNNI (Debian's package
qemu-user); then the probabilities of the probe image by the heads trained on them. The bound of the
self-test (tailorbird.model.self_test.ALLOWED) lies between what rounding explains and what
saturation does.

    python benchmarks/self_test.py [--processor Haswell] [--photos PHOTOS] [--backbone NAME|FILE]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime
from common import HERE, folder, machine, parser, photos_in, report, train_model

sys.path.insert(0, str(HERE.parent / "tests"))
from support.emulation import HASWELL, QEMU, answers, emulated
from tailorbird.backbone import Backbone, find
from tailorbird.images import Pixels, ResizeRule, decode, resize
from tailorbird.model.self_test import ALLOWED, probe_image
from tailorbird.quantization import quantise

CALIBRATED, COMPARED = 128, 3


def in_float32(file: str, images: np.ndarray) -> np.ndarray:
    """Run a file with every operator on its own: int8 steps are computed in float32."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    rows = [session.run(["probabilities"], {"images": image[None]})[0] for image in images]
    return np.concatenate(rows)


def loaded(photos: list[Path], rule: ResizeRule) -> list[Pixels]:
    return [resize(decode(path, at_least=rule.least_side).image, rule) for path in photos]


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--processor", default=HASWELL, help="as in qemu-x86_64 -cpu help")
    given = options.parse_args()
    if QEMU is None:
        sys.exit("qemu-x86_64 is missing: apt-get install qemu-user")
    print(machine())
    exact = Backbone(find(given.backbone))
    photos = photos_in(given.photos)
    step = max(1, len(photos) // CALIBRATED)
    rule = exact.info.rule
    chosen = loaded(photos[::step][:CALIBRATED], rule)
    images = np.concatenate(
        [probe_image(rule.size), np.stack(loaded(photos[1::step][:COMPARED], rule))]
    )
    with folder() as place:
        files = {"float32": place / "float32.onnx", "lite": find("lite")}
        files["float32"].write_bytes(exact.proto.SerializeToString())
        for bits in (7, 8):
            graph = quantise(exact.proto, chosen, lambda pixels: pixels, weight_bits=bits)
            files[f"{bits} bits"] = place / f"bits{bits}.onnx"
            files[f"{bits} bits"].write_bytes(graph.SerializeToString())
        for name, backbone in list(files.items()):
            files[f"head on {name}"] = place / f"{name}-model.onnx"
            train_model(given.photos, files[f"head on {name}"], str(backbone), "--no-report")
        lite = Backbone(find("lite")).info.rule
        other = np.concatenate(
            [probe_image(lite.size), np.stack(loaded(photos[1::step][:COMPARED], lite))]
        )
        inputs = {
            str(path): other if name.endswith("lite") else images for name, path in files.items()
        }
        here, there = answers(inputs), emulated(inputs, given.processor)
        for name, path in files.items():
            gaps = np.abs(here[str(path)] - there[str(path)]).max(axis=1)
            line = (
                f"{name}: {given.processor} differs by {gaps[0]:.2g} for the probe image, by "
                f"{gaps[1:].max():.2g} for photos, of up to {np.abs(here[str(path)]).max():.2g}"
            )
            rounded = 0.0
            if name.startswith("head"):
                alone = in_float32(str(path), inputs[str(path)])
                apart = np.abs(here[str(path)] - alone).max(axis=1)
                rounded = float(apart[0])
                line += f"; computed in float32: {apart[0]:.2g} and {apart[1:].max():.2g}"
            print(line, flush=True)
            report(
                "self_test",
                float(gaps[0]) / ALLOWED,
                f"<= 1 except with 8 bits; the bound is {ALLOWED:g}",
                file=name,
                probe=f"{gaps[0]:.2g}",
                photos=f"{gaps[1:].max():.2g}",
                in_float32=f"{rounded:.2g}",
            )


if __name__ == "__main__":
    main()
